"""The compound law, and the rounding of channels and depths."""

from __future__ import annotations

import math

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models._utils import _make_divisible

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.scaling import Scaling, compound, deeper, divisible
from convatlas.measure import measure


@given(st.floats(0.01, 5000), st.sampled_from([1, 4, 8, 16]))
def test_channels_round_as_torchvision_and_timm_round_them(channels: float, divisor: int) -> None:
    ours = divisible(channels, divisor)
    assert ours == _make_divisible(channels, divisor) == timm.layers.make_divisible(channels, divisor)
    assert ours % divisor == 0
    assert ours >= 0.9 * channels


@given(st.floats(0, 8), st.floats(0, 8))
def test_exponents_of_the_compound_law_add(first: float, second: float) -> None:
    """Scaling twice is scaling once by the sum, and phi doublings cost base.macs^phi."""
    one, two, both = compound(first), compound(second), compound(first + second)
    assert [a * b for a, b in zip(one, two, strict=True)] == pytest.approx(list(both))
    assert both.macs == pytest.approx(compound(1).macs ** (first + second))


def test_the_law_that_coefficients_must_keep() -> None:
    assert compound(1) == Scaling(1.2, 1.1, 1.15)
    assert compound(1).macs == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert compound(2, alpha=2, beta=1, gamma=1) == Scaling(4, 1, 1)
    assert compound(1, alpha=1, beta=math.sqrt(2), gamma=1).macs == pytest.approx(2)
    with pytest.raises(UsageError, match=r"is 3\.000 for alpha=3"):
        compound(1, alpha=3, beta=1, gamma=1)
    with pytest.raises(UsageError, match="at least 1"):
        compound(1, alpha=0.5, beta=2, gamma=1)
    assert compound(1, alpha=3, beta=1, gamma=1, tolerance=1).depth == 3


@pytest.mark.parametrize(
    ("factor", "depths"), [(1.0, [1, 2, 3, 4]), (1.4, [2, 3, 5, 6]), (4, [4, 8, 12, 16])]
)
def test_depths_are_rounded_up(factor: float, depths: list[int]) -> None:
    assert [deeper(blocks, factor) for blocks in (1, 2, 3, 4)] == depths


def test_macs_grow_with_depth_and_the_squares_of_width_and_resolution() -> None:
    """A stack of equal convolutions keeps the law exactly."""

    def cost(depth: int, width: int, side: int) -> int:
        return measure(
            nn.Sequential(*(conv_bn(width, width, 3) for _ in range(depth))), (width, side, side)
        ).macs

    scaling = Scaling(depth=3, width=2, resolution=1.5)
    assert cost(3, 16, 24) == scaling.macs * cost(1, 8, 16)


@pytest.mark.parametrize("channels", [0, -8, math.nan, math.inf])
def test_channels_that_cannot_be(channels: float) -> None:
    with pytest.raises(UsageError, match="a width is a factor larger than 0"):
        divisible(channels)


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_depths_that_cannot_be(factor: float) -> None:
    with pytest.raises(UsageError, match="a factor larger than 0"):
        deeper(3, factor)
