"""Near-duplicates: the same picture encoded again or at another size.

A picture is compared by its thumbnail, 16x16 pixels with zero mean and unit norm, so brightness and
contrast do not count; two are alike where these vectors are at most `RADIUS` apart. A projection never
enlarges a distance, so pairs are looked for among the lowest frequencies, in windows along the one that
varies most, and then measured in full: none within the radius is missed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RADIUS = 0.06  # finds photographs encoded again (JPEG 50 to 95) or resized; merges no two of MNIST's digits
RADIUS_SMALL = 0.12  # for coloured images up to 64 px, which JPEG damages more: 23 pairs of CIFAR-10's 60,000
_FREQUENCIES = 5  # a side, of the cosine transform
_BLOCK = 512
_FLAT = 2.0  # standard deviation in grey levels below which a picture shows nothing
_DENSE = 1_000_000  # candidates in one block; in a family so large links between neighbours suffice
_NEIGHBOURS = 8


def near_duplicates(thumbs: NDArray[np.uint8], sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pairs (P, 2) of rows of `thumbs` (N, S, S, 3) that show the same picture, smaller row first.

    `sizes` (N, 2) are the pictures' own. Equal thumbnails are linked to the first of them instead of
    pairwise. Flat pictures are like nothing.
    """
    if len(thumbs) < 2:
        return np.empty((0, 2), np.int64)
    grey = bool((thumbs[..., :1] == thumbs[..., 1:]).all())
    flat = (thumbs[..., 0] if grey else thumbs).reshape(len(thumbs), -1)
    rows, links = _unequal(flat)
    spread = np.concatenate([flat[part].std(axis=1) for part in np.array_split(rows, len(rows) // 4096 + 1)])
    shows = spread >= _FLAT
    links = links[np.isin(links[:, 0], rows[shows])]
    rows = rows[shows]
    if len(rows) < 2:
        return links
    small = not grey and float(np.median(sizes.max(axis=1))) <= 64
    found = _within(flat, rows, RADIUS_SMALL if small else RADIUS)
    return np.concatenate([links, found]) if len(found) else links


def _unequal(flat: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that differ from all before them, and links (first, other) between equal rows."""
    first: dict[bytes, int] = {}
    links = [
        (before, row)
        for row, one in enumerate(flat)
        if (before := first.setdefault(one.tobytes(), row)) != row
    ]
    return np.fromiter(first.values(), np.int64, len(first)), np.array(links, np.int64).reshape(-1, 2)


def _unit(flat: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails as vectors of zero mean and unit norm."""
    vectors = flat.astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _within(flat: NDArray[np.uint8], rows: NDArray[np.int64], radius: float) -> NDArray[np.int64]:
    """Pairs (P, 2) out of `rows` at most `radius` apart."""
    axes = _axes(flat.shape[1])
    points = np.concatenate(
        [_unit(flat[part]) @ axes for part in np.array_split(rows, len(rows) // _BLOCK + 1)]
    )
    widest = int(points.std(axis=0).argmax())
    order = np.argsort(points[:, widest], kind="stable")
    points, rows = points[order], rows[order]
    ends = np.searchsorted(points[:, widest], points[:, widest] + radius, side="right")
    squares, ones = (points**2).sum(axis=1, keepdims=True), np.ones((len(points), 1), np.float32)
    left, right = np.hstack([points, squares, ones]), np.hstack([-2 * points, ones, squares])
    limit = radius**2 + 1e-5  # what float32 may err by for vectors not longer than 1
    found: list[NDArray[np.int64]] = []
    for start in range(0, len(points), _BLOCK):
        stop = min(start + _BLOCK, len(points))
        last = int(ends[stop - 1])
        apart = left[start:stop] @ right[start:last].T  # squared distances: |a|^2 + |b|^2 - 2ab
        near = np.stack(np.divmod(np.flatnonzero(apart <= limit), last - start), axis=1)
        near = near[near[:, 1] > near[:, 0]] + start
        if len(near) > _DENSE:
            near = near[near[:, 1] <= near[:, 0] + _NEIGHBOURS]
        for part in np.array_split(near, len(near) // 65536 + 1):
            pair = rows[part]
            gap = _unit(flat[pair[:, 0]]) - _unit(flat[pair[:, 1]])
            found.append(np.sort(pair[(gap**2).sum(axis=1) <= radius**2], axis=1))
    return np.concatenate(found)


def _axes(length: int) -> NDArray[np.float32]:
    """The lowest frequencies of a thumbnail as orthonormal columns (length, 24), by the cosine transform.

    Pictures differ most in these. The channels of a coloured thumbnail are averaged.
    """
    channels = 3 if length % 3 == 0 else 1
    side = math.isqrt(length // channels)
    waves = np.cos(np.pi * np.outer(np.arange(side) + 0.5, np.arange(_FREQUENCIES)) / side)
    waves /= np.linalg.norm(waves, axis=0)
    planes = np.einsum("yu,xv->yxuv", waves, waves).reshape(side * side, -1)[:, 1:]  # without the mean
    return np.repeat(planes / math.sqrt(channels), channels, axis=0).astype(np.float32)


def components(count: int, *links: NDArray[np.int64] | Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Join `count` rows along the links: (count,) numbers of the unit that each row belongs to."""
    sparse: Any = importlib.import_module("scipy.sparse")  # untyped, and not needed by every caller
    csgraph: Any = importlib.import_module("scipy.sparse.csgraph")
    pairs = np.concatenate(
        [np.asarray(link, np.int64).reshape(-1, 2) for link in links] or [np.empty((0, 2), np.int64)]
    )
    graph = sparse.coo_matrix(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count)
    )
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], np.int64)


def equal(names: Sequence[str]) -> NDArray[np.int64]:
    """Links (P, 2) between rows of the same non-empty name: the first of them and each other one."""
    first: dict[str, int] = {}
    links = [
        (before, row)
        for row, name in enumerate(names)
        if name and (before := first.setdefault(name, row)) != row
    ]
    return np.array(links, np.int64).reshape(-1, 2)
