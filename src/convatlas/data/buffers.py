"""Memory for batches that is used again: fresh pages cost more than all the arithmetic on a batch.

A batch of 64 images of 224 px takes 38 MB, which the system gives as zeroed pages, one fault each 4 kB, and takes
back when the batch is forgotten: three quarters of the time of normalising. Here memory comes back to a pool when
the last tensor that looks into it is gone, however long a caller keeps a batch.
"""

from __future__ import annotations

import weakref
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray


class Buffers:
    """Lends float32 tensors; the memory of at most `KEPT` forgotten ones is kept.

    `pin`: page-locked memory, from which a CUDA device copies by itself. A copy may still be under way when the
    tensor is forgotten; torch's own pool waits for it, so that memory is left to torch.

    Examples:
        >>> buffers = Buffers()
        >>> first = buffers.lend((2, 3, 4, 4), torch.channels_last)
        >>> place = first.data_ptr()
        >>> second = buffers.lend((2, 3, 4, 4), torch.channels_last)
        >>> second.data_ptr() == place  # the first is still in use
        False
        >>> del first
        >>> buffers.lend((2, 3, 4, 4), torch.channels_last).data_ptr() == place
        True
    """

    KEPT = 4

    def __init__(self, pin: bool = False) -> None:
        self._pin = pin
        self._free: list[NDArray[np.float32]] = []

    def lend(self, shape: tuple[int, ...], layout: torch.memory_format) -> torch.Tensor:
        """An uninitialised tensor (N, C, H, W) that nobody else has."""
        if self._pin:
            return torch.empty(shape, memory_format=layout, pin_memory=True)
        size = prod(shape)
        row = next((row for row, memory in enumerate(self._free) if memory.size == size), None)
        memory = np.empty(size, np.float32) if row is None else self._free.pop(row)
        view = memory.view()  # torch holds on to it as long as a tensor needs the memory
        weakref.finalize(view, _give_back, self._free, memory).atexit = False
        tensor = torch.from_numpy(view)
        if layout == torch.channels_last and len(shape) == 4:
            count, channels, height, width = shape
            return tensor.view(count, height, width, channels).permute(0, 3, 1, 2)
        return tensor.view(shape)


def _give_back(free: list[NDArray[np.float32]], memory: NDArray[np.float32]) -> None:
    if len(free) == Buffers.KEPT:
        free.pop(0)
    free.append(memory)
