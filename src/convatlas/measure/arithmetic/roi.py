"""RoIPool and RoIAlign by hand: a region of any size becomes a fixed number of cells.

Both divide a region of a feature map into T x T cells and say one number for each. RoIPool rounds twice, the region to
whole places and the cells to whole places again, and takes maxima. RoIAlign rounds nothing: it looks between the
places, by bilinear interpolation at regular points of each cell, and takes their mean. A place of the map stands for
`stride` pixels of the image, so RoIPool moves the near edges by up to half a stride and the far ones, whose place
belongs to the region, by up to one and a half: nothing for a class, much for a mask.

Letters: features (C, H, W); a box is xyxy in pixels of the image, `scale` = 1 / stride takes it to the map.

Sources: Girshick, "Fast R-CNN", 2015, section 2.1; He et al., "Mask R-CNN", 2017, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convatlas.errors import UsageError

Box = tuple[float, float, float, float]

# The lectures' region: announced as 4x6, with three rows printed; the fourth is lost, and so is the drawn result.
ROWS = (
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    (1.0, 0.7, 0.2, 0.6, 0.1, 0.9),
    (0.9, 0.8, 0.7, 0.3, 0.5, 0.2),
)


def example(fourth: Sequence[float] = (0.0,) * 6) -> Tensor:
    """The 4x6 region pooled to 3x3. The fourth row is ours, as the printed one is lost.

    The rows of the result take rows 0-1, 1-2 and 2-3, so the first two are certain, and no number of the third is
    smaller than what stands here.

    Examples:
        >>> [[round(number, 1) for number in row] for row in example().tolist()]
        [[1.0, 0.6, 0.9], [1.0, 0.7, 0.9], [0.9, 0.7, 0.5]]
    """
    features = torch.tensor([[*ROWS, tuple(fourth)]], dtype=torch.float64)
    return roi_pool(features, (0, 0, 5, 3), 3)[0]


def cells(length: int, count: int) -> list[tuple[int, int]]:
    """First place and the one after the last of `count` cells over `length` places, rounded outwards.

    Where the length does not divide, neighbours share a place.

    Examples:
        >>> cells(6, 3), cells(4, 3)
        ([(0, 2), (2, 4), (4, 6)], [(0, 2), (1, 3), (2, 4)])
    """
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def rounded(box: Box, scale: float = 1.0) -> tuple[int, int, int, int]:
    """The box in whole places of the map, halves away from zero; both ends belong to it.

    Examples:
        >>> rounded((17, 8, 92, 120), 1 / 16)
        (1, 1, 6, 8)
    """
    x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(side * scale) + 0.5), side)) for side in box)
    return x1, y1, max(x2, x1), max(y2, y1)


def roi_pool(features: Tensor, box: Box, size: int, scale: float = 1.0) -> Tensor:
    """The largest number of each cell: (C, H, W) -> (C, size, size). A cell outside the map is 0.

    Raises `UsageError` for a size that is none, and for features without channels.
    """
    _check(features, size)
    x1, y1, x2, y2 = rounded(box, scale)
    height, width = features.shape[-2:]
    pooled = features.new_zeros(features.shape[0], size, size)
    for i, (top, bottom) in enumerate(cells(y2 - y1 + 1, size)):
        for j, (left, right) in enumerate(cells(x2 - x1 + 1, size)):
            rows = slice(min(max(y1 + top, 0), height), min(max(y1 + bottom, 0), height))
            columns = slice(min(max(x1 + left, 0), width), min(max(x1 + right, 0), width))
            cell = features[:, rows, columns].flatten(1)
            if cell.shape[1]:
                pooled[:, i, j] = cell.max(1).values
    return pooled


def roi_align(
    features: Tensor, box: Box, size: int, scale: float = 1.0, *, samples: int = 2, aligned: bool = True
) -> Tensor:
    """The mean of samples x samples points of each cell: (C, H, W) -> (C, size, size).

    `aligned` puts the centre of place 0 at half a place, as it is in an image; without it, as in the first code,
    everything is half a place off, and regions are at least one place large.
    """
    _check(features, size)
    if samples < 1:
        raise UsageError(f"{samples} points along a cell were asked for; 1 or more are possible.")
    pooled = features.new_zeros(features.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            points = sampling_points(box, size, i, j, scale, samples=samples, aligned=aligned)
            pooled[:, i, j] = torch.stack([bilinear(features, y, x) for y, x in points]).mean(0)
    return pooled


def sampling_points(
    box: Box, size: int, row: int, column: int, scale: float = 1.0, *, samples: int = 2, aligned: bool = True
) -> list[tuple[float, float]]:
    """Where RoIAlign looks in one cell: (y, x), with place 0 at 0.

    Examples:
        >>> sampling_points((0, 0, 4, 4), 2, 0, 0)
        [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    """
    half = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (side * scale - half for side in box)
    least = 0.0 if aligned else 1.0
    width, height = max(x2 - x1, least) / size, max(y2 - y1, least) / size
    return [
        (y1 + (row + (a + 0.5) / samples) * height, x1 + (column + (b + 0.5) / samples) * width)
        for a in range(samples)
        for b in range(samples)
    ]


def bilinear(features: Tensor, y: float, x: float) -> Tensor:
    """The features between four places, each weighted by its nearness: (C, H, W) -> (C).

    Up to one place outside the map the border goes on; farther out it is 0.

    Examples:
        >>> bilinear(torch.tensor([[[0.0, 4.0], [8.0, 12.0]]]), 0.5, 0.25).item()
        5.0
    """
    height, width = features.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return features.new_zeros(features.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return (
        (1 - down) * (1 - across) * features[:, top, left]
        + (1 - down) * across * features[:, top, right]
        + down * (1 - across) * features[:, bottom, left]
        + down * across * features[:, bottom, right]
    )


@dataclass(frozen=True, slots=True)
class Misalignment:
    """What RoIPool's rounding does to a box.

    Attributes:
        box: xyxy in pixels of the image.
        seen: the pixels that the rounded region stands for; its places are whole squares of `stride` pixels.
        shift: by how many pixels each edge moved: seen - box.
    """

    box: Box
    stride: int
    seen: Box

    @property
    def shift(self) -> Box:
        """Pixels by which each edge moved."""
        x1, y1, x2, y2 = (after - before for before, after in zip(self.box, self.seen, strict=True))
        return x1, y1, x2, y2

    @property
    def overlap(self) -> float:
        """Intersection over union of the box and what was pooled instead."""
        width = min(self.box[2], self.seen[2]) - max(self.box[0], self.seen[0])
        height = min(self.box[3], self.seen[3]) - max(self.box[1], self.seen[1])
        both = max(width, 0.0) * max(height, 0.0)
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (self.box, self.seen)]
        return both / (sum(areas) - both)


def misalignment(box: Box, stride: int = 16) -> Misalignment:
    """The pixels that RoIPool looks at instead of a box.

    Examples:
        >>> found = misalignment((17, 8, 92, 120))
        >>> found.seen, found.shift, round(found.overlap, 2)
        ((16, 16, 112, 144), (-1, 8, 20, 24), 0.61)
    """
    x1, y1, x2, y2 = rounded(box, 1 / stride)
    return Misalignment(box, stride, (x1 * stride, y1 * stride, (x2 + 1) * stride, (y2 + 1) * stride))


def _check(features: Tensor, size: int) -> None:
    if features.dim() != 3:
        raise UsageError(f"features are (C, H, W); {tuple(features.shape)} came.")
    if size < 1:
        raise UsageError(f"{size} cells along a side were asked for; 1 or more are possible.")
