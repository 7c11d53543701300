"""RoIPool and RoIAlign against torchvision's, the printed example, and what rounding does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.roi import (
    ROWS,
    bilinear,
    cells,
    example,
    misalignment,
    roi_align,
    roi_pool,
)

FEATURES = torch.randn(3, 9, 11, generator=torch.Generator().manual_seed(0)).double()
# Corners in eighths of a place: no sum that two programs could round differently.
eighths = st.integers(-24, 400).map(lambda n: n / 8)


def boxes(x: float, y: float, w: float, h: float) -> Tensor:
    return torch.tensor([[0, x, y, x + w, y + h]], dtype=torch.float64)


@settings(max_examples=80, deadline=None)
@given(eighths, eighths, eighths.map(abs), eighths.map(abs), st.integers(1, 4), st.sampled_from([1.0, 0.25]))
def test_pooling_is_torchvisions(x: float, y: float, w: float, h: float, size: int, scale: float) -> None:
    theirs = ops.roi_pool(FEATURES[None], boxes(x, y, w, h), size, scale)[0]
    assert torch.equal(roi_pool(FEATURES, (x, y, x + w, y + h), size, scale), theirs)


@settings(max_examples=60, deadline=None)
@given(
    eighths, eighths, eighths.map(abs), eighths.map(abs), st.integers(1, 3), st.integers(1, 3), st.booleans()
)
def test_aligning_is_torchvisions(
    x: float, y: float, w: float, h: float, size: int, samples: int, aligned: bool
) -> None:
    theirs = ops.roi_align(FEATURES[None], boxes(x, y, w, h), size, 0.25, samples, aligned)[0]
    ours = roi_align(FEATURES, (x, y, x + w, y + h), size, 0.25, samples=samples, aligned=aligned)
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_the_printed_region() -> None:
    """4x6 to 3x3: rows of cells share a row, columns do not; the fourth row is lost and changes the last row alone."""
    assert (len(ROWS), {len(row) for row in ROWS}) == (3, {6})
    assert cells(4, 3) == [(0, 2), (1, 3), (2, 4)]
    assert cells(6, 3) == [(0, 2), (2, 4), (4, 6)]
    certain = torch.tensor([[1.0, 0.6, 0.9], [1.0, 0.7, 0.9]], dtype=torch.float64)
    for fourth in ((0.0,) * 6, (0.2, 0.4, 0.9, 1.0, 0.3, 0.7)):
        found = example(fourth)
        assert torch.equal(found[:2], certain)
        assert found[2].tolist() == [max(ROWS[2][j : j + 2] + fourth[j : j + 2]) for j in (0, 2, 4)]
        features = torch.tensor([[*ROWS, fourth]], dtype=torch.float64)
        theirs = ops.roi_pool(features[None], boxes(0, 0, 5, 3), 3)[0, 0]
        assert torch.equal(found, theirs)


def test_interpolation_gives_planes_back() -> None:
    """Bilinear interpolation is exact for a x + b y + c, so RoIAlign of a plane is the plane at the cells' centres."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    plane = (3 * x - 2 * y + 1)[None].double()
    assert bilinear(plane, 2.25, 7.5).item() == pytest.approx(3 * 7.5 - 2 * 2.25 + 1)
    found = roi_align(plane, (8, 4, 32, 28), 3, 0.25)[0]
    for i in range(3):
        for j in range(3):
            centre_x, centre_y = 2 + 2 * j + 1 - 0.5, 1 + 2 * i + 1 - 0.5
            assert found[i, j].item() == pytest.approx(3 * centre_x - 2 * centre_y + 1)


def test_a_small_move_of_the_box() -> None:
    """RoIAlign follows it; RoIPool does nothing, and then jumps."""
    ramp = torch.arange(11.0).repeat(9, 1)[None].double()
    aligned = [roi_align(ramp, (16 + d, 16, 80 + d, 80), 2, 1 / 16)[0, 0, 0].item() for d in range(0, 9, 2)]
    pooled = [roi_pool(ramp, (16 + d, 16, 80 + d, 80), 2, 1 / 16)[0, 0, 0].item() for d in range(0, 9, 2)]
    assert [b - a for a, b in pairwise(aligned)] == pytest.approx([2 / 16] * 4)
    assert pooled == [3, 3, 3, 3, 4]


def test_misalignment() -> None:
    found = misalignment((17, 8, 92, 120), 16)
    assert found.seen == (16, 16, 112, 144)
    assert found.shift == (-1, 8, 20, 24)
    # both ends belong to the region, so a box on the grid is seen with one place too much
    assert misalignment((16, 16, 64, 64), 16).seen == (16, 16, 80, 80)
    exact = misalignment((16, 16, 63.9, 63.9), 1)
    assert exact.overlap > 0.95


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: roi_pool(FEATURES[None], (0, 0, 1, 1), 2), r"\(C, H, W\); \(1, 3, 9, 11\) came"),
        (lambda: roi_align(FEATURES, (0, 0, 1, 1), 0), "0 cells along a side"),
        (lambda: roi_align(FEATURES, (0, 0, 1, 1), 2, samples=0), "0 points along a cell"),
    ],
)  # fmt: skip
def test_what_is_refused(call: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()  # type: ignore[operator]
