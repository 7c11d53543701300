"""Shapes of what operations give, by rules of our own for those that most networks are made of.

Tensors on the meta device have a shape and no content. PyTorch can work out the shape of any operation on them; for
many it does so in Python, with symbolic numbers, broadcasting and types: the first such operation loads over a second's
worth of modules and 150 MB, and each takes several times as long as the rest of a pass. The rules here are for floating
point tensors that lie in memory in the plain order; where anything is not plain they give None, and PyTorch is asked.
It is asked, too, where an operation does not fit, so that the complaint is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
POINTWISE = frozenset(
    ("relu", "silu", "sigmoid", "tanh", "gelu", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "clamp")
)  # fmt: skip
ARITHMETIC = frozenset(("add", "sub", "mul", "div"))


def shaped(name: str, args: tuple[Any, ...]) -> Any:
    """What the operation gives for these arguments, without content; None where no rule is certain.

    Examples:
        >>> image = torch.empty(1, 3, 224, 224, device="meta")
        >>> kernels = torch.empty(64, 3, 7, 7, device="meta")
        >>> shaped("convolution", (image, kernels, None, [2, 2], [3, 3], [1, 1], False, [0, 0], 1)).shape
        torch.Size([1, 64, 112, 112])
    """
    base = name.removesuffix("_")
    rule = _RULES.get(name) or (alike if base in POINTWISE else broadcast if base in ARITHMETIC else None)
    if rule is None or not args:
        return None
    first = args[0][0] if isinstance(args[0], list) and args[0] else args[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    found = rule(*args)
    if name.endswith("_") and isinstance(found, Tensor):
        return first if found.shape == first.shape else None
    return found


def hollow(tensor: Tensor) -> Tensor:
    """A new tensor of the same shape, strides and type without content (`empty_like` takes ten times as long)."""
    strides = tensor.stride()
    if 0 in strides:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=META)


def windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil: bool = False
) -> int:
    """How many windows fit on one axis. With `ceil` the last may hang over the end, but not begin behind it."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (room + stride - 1 if ceil else room) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def alike(first: Tensor, *bounds: Any) -> Tensor | None:
    """As the first argument; the others are numbers."""
    return None if any(isinstance(each, Tensor) for each in bounds) else _same(first)


def broadcast(first: Tensor, second: Any, *_: Any) -> Tensor | None:
    """Two tensors of one type, or a tensor and a number: sizes of 1 are repeated."""
    if not isinstance(second, Tensor):
        return None if isinstance(second, complex) else _same(first)
    if second.dtype != first.dtype:
        return None
    if second.shape == first.shape and second.stride() == first.stride():
        return _same(first)
    if second.ndim > first.ndim or not (_plain(first) and _plain(second)):
        return None
    pairs = list(zip(first.shape, (1,) * (first.ndim - second.ndim) + second.shape, strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return None
    return _empty(first, [b if a == 1 else a for a, b in pairs])


def batch_norm(first: Tensor, *rest: Any) -> tuple[Tensor, ...] | None:
    """In evaluation: as the input, and no statistics."""
    training = rest[4]
    same = None if training else _same(first)
    return None if same is None else (same, _empty(first, (0,)), _empty(first, (0,)))


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    """(N, C, ...) and (K, C / groups, ...) -> (N, K, ...), in any number of axes; not the transposed one."""
    del output_padding
    axes = weight.ndim - 2
    fits = (
        not transposed
        and x.ndim == weight.ndim
        and x.shape[1] == groups * weight.shape[1]
        and weight.shape[0] % groups == 0
        and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == x.dtype))
        and weight.dtype == x.dtype
        and len(stride) == len(padding) == len(dilation) == axes
    )
    if not (fits and _plain(x) and _plain(weight)):
        return None
    kernel, size = weight.shape[2:], x.shape[2:]
    return _mapped(x, weight.shape[0], [
        windows(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True)
    ])  # fmt: skip


def max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Maxima of windows and their places."""
    found = _pooled(x, kernel, stride, padding, dilation, ceil)
    return None if found is None else (found, torch.empty(found.shape, dtype=torch.int64, device=META))


def avg_pool2d(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    ceil: bool = False, *_: Any,
) -> Tensor | None:  # fmt: skip
    """Means of windows."""
    return _pooled(x, kernel, stride, padding, (1, 1), ceil)


def mean(x: Tensor, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor | None:
    """The mean over some axes."""
    if not axes or not _plain(x) or any(not -x.ndim <= axis < x.ndim for axis in axes):
        return None
    gone = {axis % x.ndim for axis in axes}
    if len(gone) < len(axes):
        return None
    return _empty(x, [1 if i in gone else size for i, size in enumerate(x.shape) if keep or i not in gone])


def adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor | None:
    """Means of as many windows as are wished for."""
    return _mapped(x, x.shape[1], size) if x.ndim == 4 and len(size) == 2 and _plain(x) else None


def adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Maxima of as many windows as are wished for, and their places."""
    found = adaptive_avg_pool2d(x, size)
    return None if found is None else (found, torch.empty(found.shape, dtype=torch.int64, device=META))


def mm(x: Tensor, weight: Tensor) -> Tensor | None:
    """(N, C) and (C, K) -> (N, K)."""
    fits = x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[0] and x.dtype == weight.dtype
    return _empty(x, (x.shape[0], weight.shape[1])) if fits else None


def addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor | None:
    """A bias (K,) beside."""
    fits = bias.ndim == 1 and weight.ndim == 2 and bias.shape[0] == weight.shape[1] and bias.dtype == x.dtype
    return mm(x, weight) if fits else None


def cat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor | None:
    """Side by side along an axis; all other sizes are the same."""
    first, rank = tensors[0], tensors[0].ndim
    if not -rank <= axis < rank or not all(_plain(each) and each.dtype == first.dtype for each in tensors):
        return None
    axis %= rank
    others = {each.shape[:axis] + each.shape[axis + 1 :] for each in tensors if each.ndim == rank}
    if len(others) > 1 or any(each.ndim != rank for each in tensors):
        return None
    total = sum(each.shape[axis] for each in tensors)
    return _empty(first, (*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> Tensor | None:
    stride = stride or kernel
    if (
        x.ndim != 4
        or not _plain(x)
        or not all(len(each) == 2 for each in (kernel, stride, padding, dilation))
    ):
        return None
    if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        return None
    each = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return _mapped(x, x.shape[1], [windows(*axis, ceil=ceil) for axis in each])


def _mapped(x: Tensor, channels: int, size: Sequence[int]) -> Tensor | None:
    """Maps (N, channels, *size), if there are any."""
    return _empty(x, (x.shape[0], channels, *size)) if min(size) > 0 and x.numel() else None


def _same(x: Tensor) -> Tensor | None:
    """The same shape without gaps: plain, or as images lie in memory."""
    if _plain(x):
        return _empty(x, x.shape)
    return hollow(x) if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else None


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=like.dtype, device=META)


def _plain(tensor: Tensor) -> bool:
    """Whether the axes lie in memory in their order, from the slowest to the quickest; gaps may be between them."""
    return all(a >= b for a, b in pairwise(tensor.stride()))


_RULES: dict[str, Callable[..., Any]] = {
    "native_batch_norm": batch_norm,
    "convolution": convolution,
    "max_pool2d_with_indices": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "mean": mean,
    "mm": mm,
    "addmm": addmm,
    "cat": cat,
    "_adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_max_pool2d": adaptive_max_pool2d,
}
