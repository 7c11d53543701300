"""Padding as TensorFlow has it, against windows taken one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from convatlas.layers.same_padding import SameAvgPool2d, SameConv2d, SameMaxPool2d, same_padding

SIZES = pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(6, 3, 2), (7, 3, 2), (8, 5, 2), (9, 7, 2), (7, 3, 3)]
)


def windows(x: Tensor, kernel: int, stride: int) -> list[list[Tensor]]:
    """The pixels that are there in each window, for one side of `x` after the other."""
    before = {axis: same_padding(x.shape[axis], kernel, stride)[0] for axis in (1, 2)}

    def span(axis: int, i: int) -> slice:
        start = i * stride - before[axis]
        return slice(max(start, 0), min(start + kernel, x.shape[axis]))

    rows, columns = (math.ceil(x.shape[axis] / stride) for axis in (1, 2))
    return [[x[:, span(1, i), span(2, j)] for j in range(columns)] for i in range(rows)]


@pytest.mark.parametrize("size", range(1, 20))
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_gives_the_rounded_up_size_and_no_more(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert after - before in (0, 1)
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)
    if before + after:
        assert size + before + after - 1 < (math.ceil(size / stride) - 1) * stride + kernel


@SIZES
def test_pools(size: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, size, size + 1, dtype=torch.float64)
    taken = windows(x, kernel, stride)
    for module, function in (
        (SameMaxPool2d(kernel, stride), lambda w: w.amax((1, 2))),
        (SameAvgPool2d(kernel, stride), lambda w: w.mean((1, 2))),
        (SameAvgPool2d(kernel, stride, count_padding=True), lambda w: w.sum((1, 2)) / kernel**2),
    ):
        expected = torch.stack([torch.stack([function(w) for w in row], dim=1) for row in taken], dim=1)
        torch.testing.assert_close(module(x[None])[0], expected)


@SIZES
def test_convolution_is_the_sum_over_the_window(size: int, kernel: int, stride: int) -> None:
    """A kernel of ones sums the pixels that are there."""
    torch.manual_seed(0)
    conv = SameConv2d(2, 2, kernel, stride, groups=2, bias=False).double()
    nn.init.ones_(conv.weight)
    x = torch.randn(2, size, size + 1, dtype=torch.float64)
    taken = windows(x, kernel, stride)
    expected = torch.stack([torch.stack([w.sum((1, 2)) for w in row], dim=1) for row in taken], dim=1)
    torch.testing.assert_close(conv(x[None])[0], expected)
