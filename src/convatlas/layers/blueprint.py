"""Build a network without content: names and shapes on the meta device, nothing allocated and nothing drawn."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# methods that load torch's compiler for a tensor without content
_DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_)


class _Undrawn(TorchFunctionMode):
    """What draws leaves meta tensors as they are: to draw what has no content is half the time of building."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _DRAWING:
            tensor = kwargs.get("tensor", args[0] if args else None)
            if tensor is not None and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


class _Weightless(_Undrawn):
    """Sends `torch.empty`, with which layers make their weights, to the meta device, and nothing else."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.empty and (kwargs or {}).get("device") is None:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return super().__torch_function__(func, types, args, kwargs)


@contextmanager
def blueprint() -> Generator[None]:
    """Networks that are built within have parameters on the meta device, with names and shapes alone.

    Examples:
        >>> with blueprint():
        ...     layer = torch.nn.Linear(10**6, 10**6)  # four terabytes
        >>> layer.weight.shape, layer.weight.is_meta
        (torch.Size([1000000, 1000000]), True)
    """
    with torch.device("meta"), _Undrawn():
        yield


@contextmanager
def outline() -> Generator[None]:
    """As `blueprint`, for constructors that compute with tensors of their own: weights alone have no content.

    Examples:
        >>> with outline():
        ...     layer = torch.nn.Linear(int(torch.tensor([3, 4]).sum()), 10**9)
        >>> layer.weight.shape, layer.weight.is_meta
        (torch.Size([1000000000, 7]), True)
    """
    with _Weightless():
        yield
