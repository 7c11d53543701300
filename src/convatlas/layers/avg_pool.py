"""Average pooling of few maps as a product of matrices: a quarter of the time of PyTorch's in bf16.

PyTorch's kernel works on the channels of a pixel at once, which with six of them leaves most of a vector empty. The
mean of 2 x 2 pixels is linear, and the same for every pair of rows: a pair, (2 W C) numbers, times a constant matrix of
(2 W C, W C / 2) gives its row of means. Products are what a processor with bf16 arithmetic does fastest; they are
summed in float32 and rounded once, as PyTorch does it, so the numbers are the same, but that numbers below 1e-38 become
0, and a sum beyond the largest number is none if its mean is not. Most of the matrix is zero, and it grows with the
square of a row, so this pays for small networks alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MOST = 8  # channels: from 16 on PyTorch's vectors are full
LONGEST = 256  # numbers of a row: beyond that the product's zeros cost more than they save


class QuickAvgPool2d(nn.AvgPool2d):
    """The mean of each 2 x 2 pixels, side by side: (N, C, H, W) -> (N, C, H // 2, W // 2).

    It is `nn.AvgPool2d(2)`, with its numbers and gradients. Few bf16 maps with channels last, on a processor, are
    multiplied by a matrix instead, without second derivatives.

    Examples:
        >>> x = torch.randn(2, 6, 28, 28).bfloat16().contiguous(memory_format=torch.channels_last)
        >>> torch.equal(QuickAvgPool2d()(x), torch.nn.functional.avg_pool2d(x, 2))
        True
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // 2, W // 2)."""
        return _Product.apply(input) if _pays(input) else super().forward(input)  # pyright: ignore[reportReturnType]


def _pays(x: Tensor) -> bool:
    if x.dim() != 4 or x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    _, c, h, w = x.shape
    few = 1 < c <= MOST and w * c <= LONGEST and h % 2 == 0 == w % 2 and x.numel() > 0
    return few and x.is_contiguous(memory_format=torch.channels_last)


@cache
def _means(w: int, c: int) -> Tensor:
    """(2 W C, W C / 2): a pair of rows to its row of means."""
    columns = torch.eye(w // 2, device="cpu").repeat_interleave(2, 0)  # (W, W / 2)
    channels = torch.eye(c, device="cpu") / 4
    return torch.kron(columns, channels).repeat(2, 1).bfloat16()


class _Product(torch.autograd.Function):
    """Rows of an image with channels last lie one after the other, so a pair of them is one row of a matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pairs = x.permute(0, 2, 3, 1).reshape(n * h // 2, 2 * w * c)
        return (pairs @ _means(w, c)).view(n, h // 2, w // 2, c).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        n, c, h, w = gradient.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(n * h, w * c)
        return (rows @ _means(2 * w, c).t()).view(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)
