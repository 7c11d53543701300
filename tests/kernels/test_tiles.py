"""Tiles in other coordinates against the definition, M d M^T tile by tile, and their transpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from convatlas.kernels import tiles
from convatlas.layers.winograd import SIDES, constants

MAPS = [(2, 2), (3, 3), (5, 7), (7, 4), (2, 9), (8, 8)]


def rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def by_definition(x: Tensor, matrix: np.ndarray, step: int, margin: int) -> Tensor:
    """Slowly, in float64."""
    n, c, height, width = x.shape
    reach, m = matrix.shape[1], torch.from_numpy(matrix)
    padded = torch.zeros(n, c, height + 20, width + 20, dtype=torch.float64)
    padded[:, :, margin : margin + height, margin : margin + width] = x.double()
    found = [
        torch.einsum("pi,cij,qj->pqc", m, padded[image, :, top : top + reach, left : left + reach], m)
        for image in range(n)
        for top in range(0, height, step)
        for left in range(0, width, step)
    ]
    return torch.stack(found, 2).flatten(0, 1)


def cases() -> list[tuple[np.ndarray, int, int]]:
    found = []
    for side in SIDES:
        inputs, _, outputs = constants(side)
        found += [(inputs, side, 1), (outputs.T, side, 0)]
    return found


# half of the last of 8 bits, and float32's own rounding where a sum all but vanishes
BITS = {torch.bfloat16: 2**-8, torch.float32: 1e-6}
kinds = pytest.mark.parametrize("dtype", list(BITS))


@kinds
@pytest.mark.parametrize("channels", [1, 64, 300])
@pytest.mark.parametrize(("matrix", "step", "margin"), cases())
def test_gathered_is_the_definition_rounded_once(
    matrix: np.ndarray, step: int, margin: int, channels: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for height, width in MAPS:
        x = torch.randn(3, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
        expected = by_definition(x, matrix, step, margin)
        found = tiles.gathered(x, rows(matrix), step, margin)
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=BITS[dtype], atol=1e-5)


@kinds
@pytest.mark.parametrize("channels", [1, 64, 300])
@pytest.mark.parametrize(("matrix", "step", "margin"), cases())
def test_scattered_is_the_transpose(
    matrix: np.ndarray, step: int, margin: int, channels: int, dtype: torch.dtype
) -> None:
    """<gathered(x), z> = <x, scattered(z)>, which its gradient in float64 makes exact."""
    torch.manual_seed(0)
    for height, width in MAPS:
        x = torch.zeros(3, channels, height, width, dtype=torch.float64, requires_grad=True)
        seen = by_definition(x, matrix, step, margin)
        z = torch.randn(seen.shape).to(dtype)
        (expected,) = torch.autograd.grad(seen, x, z.double())
        found = tiles.scattered(z, x.shape, rows(matrix), step, margin)
        torch.testing.assert_close(found.double(), expected, rtol=BITS[dtype], atol=1e-4)
        assert found.is_contiguous(memory_format=torch.channels_last)
        if margin == 0:  # side by side
            again = torch.empty_like(found)
            tiles.laid(z, again, rows(matrix.T))
            torch.testing.assert_close(again, found, rtol=0, atol=0)
