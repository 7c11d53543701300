"""TensorFlow's "SAME" padding: ceil(size / stride) output pixels, and the odd pixel of padding right and below.

How much is padded depends on the image, so it is worked out in each pass: an even side of a stride-2 convolution is
padded unequally, an odd one equally. Networks that were trained in TensorFlow need it to keep their function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after a side of `size` pixels.

    Examples:
        >>> same_padding(224, 3, 2), same_padding(225, 3, 2), same_padding(224, 1, 2)
        ((0, 1), (1, 1), (0, 0))
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padded(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """(N, C, H, W) with a border of `value`."""
    height, width = x.shape[-2:]
    return pad(x, (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride)), value=value)


class SameConv2d(nn.Conv2d):
    """A convolution of square kernel and stride: (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride))."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride))."""
        return super().forward(padded(input, self.kernel_size[0], self.stride[0]))


class SameMaxPool2d(nn.Module):
    """Maxima over square windows: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        x = padded(x, self.kernel, self.stride, float("-inf"))
        return nn.functional.max_pool2d(x, self.kernel, self.stride)

    def extra_repr(self) -> str:
        """Kernel and stride, in the printed network."""
        return f"{self.kernel}, stride={self.stride}"


class SameAvgPool2d(nn.Module):
    """Means over square windows: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    TensorFlow takes the mean of the pixels that are there; with `count_padding` the zeros of the border count too.
    """

    def __init__(self, kernel: int, stride: int, *, count_padding: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.count_padding = kernel, stride, count_padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        means = avg_pool2d(padded(x, self.kernel, self.stride), self.kernel, self.stride)
        if self.count_padding:
            return means
        there = torch.ones((1, 1, *x.shape[-2:]), device=x.device, dtype=x.dtype)
        return means / avg_pool2d(padded(there, self.kernel, self.stride), self.kernel, self.stride)

    def extra_repr(self) -> str:
        """Kernel and stride, in the printed network."""
        return f"{self.kernel}, stride={self.stride}, count_padding={self.count_padding}"
