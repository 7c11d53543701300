"""Formulas against the parameters and multiply-adds of real layers, counted by `measure`."""

from __future__ import annotations

import math

import pytest
from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.layers.separable import depthwise_separable
from convatlas.measure import Measurement, measure
from convatlas.measure.arithmetic.calculators import (
    Comparison,
    factorised_5x5,
    factorised_nxn,
    inception_naive,
    inception_reduced,
    printed_358m,
    separable,
    stacked,
)


def counted(*layers: nn.Module, channels: int) -> Measurement:
    return measure(nn.Sequential(*layers), (channels, 16, 16))


def conv(c_in: int, c_out: int, *kernel: int, groups: int = 1) -> nn.Conv2d:
    sides = kernel * 2 if len(kernel) == 1 else kernel
    padding = (sides[0] // 2, sides[1] // 2)
    return nn.Conv2d(c_in, c_out, sides, padding=padding, groups=groups, bias=False, device="meta")


def holds(found: Comparison, small: Measurement, large: Measurement) -> None:
    """Weights, and multiply-adds for 16x16 pixels, of both ways."""
    assert (found.weights, found.against) == (small.params, large.params)
    assert found.ratio == small.params / large.params == small.macs / large.macs
    assert small.macs == 256 * found.weights


@pytest.mark.parametrize(("layers", "large"), [(2, 5), (3, 7), (5, 11)])
@pytest.mark.parametrize("channels", [8, 64])
def test_stacks(layers: int, large: int, channels: int) -> None:
    found = stacked(layers, channels)
    small = counted(*(conv(channels, channels, 3) for _ in range(layers)), channels=channels)
    holds(found, small, counted(conv(channels, channels, large), channels=channels))
    assert found.field == (large, large)
    assert found.nonlinearities - 1 == layers - 1  # not `layers` more


def test_the_formulas_in_letters() -> None:
    assert stacked(3, 64).formula == "27C^2 against 49C^2"
    assert stacked(2, 64).formula == "18C^2 against 25C^2"
    assert stacked(2, 10, kernel=5).field == (9, 9)


@pytest.mark.parametrize(("alpha", "n"), [(1, 8), (4, 16), (0.25, 32)])  # so that sqrt(alpha) n is whole
def test_factorised(alpha: float, n: int) -> None:
    middle, wide = round(math.sqrt(alpha) * n), round(alpha * n)
    small = counted(conv(n, middle, 3), conv(middle, wide, 3), channels=n)
    holds(factorised_5x5(alpha, n), small, counted(conv(n, wide, 5), channels=n))
    for kernel in (3, 7):
        small = counted(conv(n, middle, 1, kernel), conv(middle, wide, kernel, 1), channels=n)
        holds(factorised_nxn(kernel, alpha, n), small, counted(conv(n, wide, kernel), channels=n))


def test_savings_that_are_printed() -> None:
    assert round(factorised_5x5(2).saving_pct, 1) == -23.6
    assert round(factorised_nxn(3, 2).saving_pct, 1) == -29.3
    assert round(factorised_5x5(1).saving_pct) == -28
    assert round(factorised_nxn(3, 1).saving_pct, 2) == -33.33
    assert factorised_5x5(2, 10).saving_pct == pytest.approx(factorised_5x5(2, 999).saving_pct)


@pytest.mark.parametrize(("c_in", "c_out", "kernel"), [(32, 64, 3), (512, 512, 3), (16, 24, 5)])
def test_separable(c_in: int, c_out: int, kernel: int) -> None:
    found = separable(c_in, c_out, kernel=kernel)
    small = counted(conv(c_in, c_in, kernel, groups=c_in), conv(c_in, c_out, 1), channels=c_in)
    holds(found, small, counted(conv(c_in, c_out, kernel), channels=c_in))
    assert found.ratio == pytest.approx(1 / c_out + 1 / kernel**2)
    with blueprint():
        unit = depthwise_separable(c_in, c_out, kernel)
    assert measure(unit, (c_in, 16, 16)).macs == 256 * found.weights


def test_inception_modules() -> None:
    naive, reduced = inception_naive(), inception_reduced()
    products = [28 * 28 * 128 * 256, 28 * 28 * 192 * 9 * 256, 28 * 28 * 96 * 25 * 256]
    assert sorted(naive.macs_of.values()) == sorted(products)
    assert naive.macs == 854_196_224
    assert math.prod(naive.output_shape) == 526_848  # printed as 529k
    listed = [28 * 28 * 64 * 256] * 3 + [28 * 28 * 128 * 256, 28 * 28 * 192 * 9 * 64, 28 * 28 * 96 * 25 * 64]
    assert sorted(reduced.macs_of.values()) == sorted(listed)
    assert reduced.macs == 271_351_808
    assert reduced.output_shape == (480, 28, 28)
    twice, why = printed_358m()
    assert twice == sum(listed) + 28 * 28 * 192 * 9 * 64 == 358_055_936
    assert "counted twice" in why


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="channels=0"):
        stacked(2, 0)
    with pytest.raises(UsageError, match="alpha=-1"):
        factorised_5x5(-1)
