"""Functions that numba compiles, and calls of them that share the rows of their work among threads."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.uint16]  # of bf16 numbers: the upper half of a float32
Kernel = Callable[..., None]


def usable(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the kernels take this tensor: on the processor, a map with channels last, and numba installed.

    It is of one of `dtypes`, or of bf16 where none is named.

    Examples:
        >>> usable(torch.zeros(1, 8, 5, 5))  # float32
        False
    """
    in_order = x.is_contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)
    fits = x.dtype in (dtypes or (torch.bfloat16,)) and x.device.type == "cpu"
    return fits and in_order and installed()


@cache
def installed() -> bool:
    """Whether numba is there, can be imported (one that does not know this NumPy cannot), and compiles."""
    try:
        numba: Any = importlib.import_module("numba")
    except Exception:  # it is broken in one way or another
        return False
    return not numba.config.DISABLE_JIT


def compiled(signature: str) -> Callable[[Callable[..., None]], Kernel]:
    """Compile a function of numba's part of Python, for arguments of these types.

    It does not hold Python's lock, so that threads can share its work. Sums are not reordered: the result is the same
    on every processor. Nothing is kept for the next process, as numba keeps it pickled.
    """
    from numba import njit

    return njit(signature, nogil=True)


def shared(kernel: Kernel, count: int, *arguments: Any) -> None:
    """Call `kernel(start, stop, *arguments)` for parts of 0 to `count`, as many at a time as PyTorch has threads.

    Each part writes what no other touches, so the result does not depend on their number.
    """
    parts = max(1, min(torch.get_num_threads(), count))
    bounds = [count * part // parts for part in range(parts + 1)]
    others = [_threads().submit(kernel, bounds[i], bounds[i + 1], *arguments) for i in range(1, parts)]
    try:
        kernel(bounds[0], bounds[1], *arguments)
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of its parent's threads


def numbers(x: Tensor) -> NDArray[Any]:
    """The memory of a float32 tensor as one row of numbers, or of a bf16 one as `bits`."""
    if x.dtype == torch.bfloat16:
        return bits(x)
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).detach().view(-1).numpy()


def bits(x: Tensor) -> Bits:
    """The memory of a bf16 tensor that is contiguous, or channels last, as one row of numbers; nothing is copied."""
    if x.dim() == 4:
        x = x.permute(0, 2, 3, 1)
    return x.detach().view(torch.int16).view(-1).numpy().view(np.uint16)
