"""Max-pooling of bf16 maps: PyTorch's numbers, and for the backward pass one byte for each in place of eight."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from convatlas.kernels.bf16 import U, rounded, widened
from convatlas.kernels.compiled import Bits, Kernel, bits, compiled, shared


def max_pool2d(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H', W'), H' = (H + 2 padding - size) // stride + 1, for bf16 with channels last.

    It is `torch.max_pool2d` to the bit, and so are its gradients.
    """
    return _MaxPool.apply(x, size, stride, padding)  # pyright: ignore[reportReturnType]


class _MaxPool(torch.autograd.Function):
    """What is kept is where in its window each maximum stood."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
        n, c, height, width = x.shape
        rows, columns = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        y = torch.empty((n, c, rows, columns), dtype=x.dtype, memory_format=torch.channels_last)
        places = torch.empty(y.numel(), dtype=torch.uint8)
        largest, _ = _kernels(size, stride, padding)
        shared(largest, n, bits(x), bits(y), places.numpy(), c, height, width)
        ctx.save_for_backward(places)
        ctx.shape, ctx.window = x.shape, (size, stride, padding)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        n, c, height, width = ctx.shape
        dx = torch.empty(ctx.shape, dtype=dy.dtype, memory_format=torch.channels_last)
        dy = dy.contiguous(memory_format=torch.channels_last)
        _, back = _kernels(*ctx.window)
        shared(back, n, bits(dx), bits(dy), places.numpy(), c, height, width)
        return dx, None, None, None


Places = NDArray[np.uint8]
_SIGNATURE = "void(int64, int64, uint16[::1], uint16[::1], uint8[::1], int64, int64, int64)"


@cache
def _kernels(size: int, stride: int, padding: int) -> tuple[Kernel, Kernel]:
    """The forward pass and the backward pass."""
    apart = stride >= size  # no pixel is in two windows

    @compiled(_SIGNATURE)
    def largest(
        start: int, stop: int, x: Bits, y: Bits, places: Places, channels: int, height: int, width: int
    ) -> None:
        rows = (height + 2 * padding - size) // stride + 1
        columns = (width + 2 * padding - size) // stride + 1
        for window in range(start * rows * columns, stop * rows * columns):
            image, row, column = window // (rows * columns), window // columns % rows, window % columns
            top, left = row * stride - padding, column * stride - padding
            for k in range(U(channels)):
                best, place = np.float32(-np.inf), np.uint8(max(-top, 0) * size + max(-left, 0))
                for i in range(size):
                    for j in range(size):
                        # outside the map stands a neighbour inside, which is in the window anyway
                        down, across = min(max(top + i, 0), height - 1), min(max(left + j, 0), width - 1)
                        pixel = (image * height + down) * width + across
                        number = widened(x[U(pixel * channels) + k])
                        if number > best or number != number:  # NaN stays
                            best, place = number, np.uint8((down - top) * size + across - left)
                y[U(window * channels) + k] = rounded(best)
                places[U(window * channels) + k] = place

    @compiled(_SIGNATURE)
    def back(
        start: int, stop: int, dx: Bits, dy: Bits, places: Places, channels: int, height: int, width: int
    ) -> None:
        rows = (height + 2 * padding - size) // stride + 1
        columns = (width + 2 * padding - size) // stride + 1
        for image in range(start, stop):
            dx[image * height * width * channels : (image + 1) * height * width * channels] = 0
            for window in range(image * rows * columns, (image + 1) * rows * columns):
                top, left = window // columns % rows * stride - padding, window % columns * stride - padding
                for i in range(max(0, -top), min(size, height - top)):
                    for j in range(max(0, -left), min(size, width - left)):
                        pixel = (image * height + top + i) * width + left + j
                        for k in range(U(channels)):
                            number = dy[U(window * channels) + k]
                            if places[U(window * channels) + k] != np.uint8(i * size + j):
                                number = np.uint16(0)
                            if apart:
                                dx[U(pixel * channels) + k] = number
                            else:
                                before = widened(dx[U(pixel * channels) + k])
                                dx[U(pixel * channels) + k] = rounded(before + widened(number))

    return largest, back
