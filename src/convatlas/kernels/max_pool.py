"""Max-pooling of bf16 maps: PyTorch's numbers, and for the backward pass one byte of each in place of eight."""

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


def max_pool2d(x: Tensor, size: int) -> Tensor:
    """The maximum of each window of size x size <= 15 x 15, side by side, for bf16 with channels last.

    (N, C, H, W) -> (N, C, H // size, W // size); values and gradients are those of `torch.max_pool2d(x, size)`.
    """
    return _MaxPool.apply(x, size)  # pyright: ignore[reportReturnType]


class _MaxPool(torch.autograd.Function):
    """What is kept is where in its window each maximum stood."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        n, c, height, width = x.shape
        shape = (n, c, height // size, width // size)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        places = torch.empty(y.numel(), dtype=torch.uint8, device=x.device)
        largest, _ = _kernels(size)
        shared(largest, n, bits(x), bits(y), places.numpy(), c, height, width)
        ctx.save_for_backward(places)
        ctx.shape, ctx.size = x.shape, size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        n, c, height, width = ctx.shape
        dx = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
        dy = dy.contiguous(memory_format=torch.channels_last)
        _, back = _kernels(ctx.size)
        shared(back, n, bits(dx), bits(dy), places.numpy(), c, height, width)
        return dx, None


Places = NDArray[np.uint8]
_SIGNATURE = "void(int64, int64, uint16[::1], uint16[::1], uint8[::1], int64, int64, int64)"


@cache
def _kernels(size: int) -> tuple[Kernel, Kernel]:
    """The forward pass and the backward pass."""

    @compiled(_SIGNATURE)
    def largest(
        start: int, stop: int, x: Bits, y: Bits, places: Places, channels: int, height: int, width: int
    ) -> None:
        rows, columns = height // size, width // size
        for window in range(start * rows * columns, stop * rows * columns):
            image, row, column = window // (rows * columns), window // columns % rows, window % columns
            for k in range(U(channels)):
                best, place = np.float32(-np.inf), np.uint8(0)
                for i in range(size):
                    for j in range(size):
                        pixel = (image * height + row * size + i) * width + column * size + j
                        number = widened(x[U(pixel * channels) + k])
                        if number > best or number != number:  # NaN stays
                            best, place = number, np.uint8(i * size + j)
                y[U(window * channels) + k] = rounded(best)
                places[U(window * channels) + k] = place

    @compiled(_SIGNATURE)
    def back(
        start: int, stop: int, dx: Bits, dy: Bits, places: Places, channels: int, height: int, width: int
    ) -> None:
        rows, columns = height // size, width // size
        for image in range(start, stop):
            dx[image * height * width * channels : (image + 1) * height * width * channels] = 0
            for window in range(image * rows * columns, (image + 1) * rows * columns):
                top, left = window // columns % rows * size, window % columns * size
                for i in range(size):
                    for j in range(size):
                        pixel = (image * height + top + i) * width + left + j
                        for k in range(U(channels)):
                            is_here = places[U(window * channels) + k] == np.uint8(i * size + j)
                            number = dy[U(window * channels) + k]
                            dx[U(pixel * channels) + k] = number if is_here else np.uint16(0)

    return largest, back
