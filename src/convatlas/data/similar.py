"""Near-duplicates: the same picture encoded again or at another size.

A picture is compared by its thumbnail, 16x16 pixels with zero mean and unit norm, so brightness and
contrast do not count; two are alike where these vectors are at most `RADIUS` apart. A projection never
enlarges a distance, so pairs are looked for in the first principal components, in windows along the
first of them, and then measured in full: none within the radius is missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RADIUS = 0.06
COMPONENTS = 16
_BLOCK = 1024
_SAMPLE = 4096  # thumbnails that the components are computed from
_FLAT = 2.0  # standard deviation in grey levels below which a picture shows nothing
_MOST = 5_000_000  # pairs; beyond, a set is one big family and links to the nearest suffice


def near_duplicates(thumbs: NDArray[np.uint8], radius: float = RADIUS) -> NDArray[np.int64]:
    """Pairs (P, 2) of rows of `thumbs` (N, S, S, 3) that show the same picture, smaller row first.

    Equal thumbnails are linked in a chain instead of pairwise. Flat pictures are like nothing.
    """
    grey = bool((thumbs[..., :1] == thumbs[..., 1:]).all()) if len(thumbs) else True
    flat = (thumbs[..., 0] if grey else thumbs).reshape(len(thumbs), -1)
    rows, links = _unequal(flat)
    spread = np.concatenate([flat[part].std(axis=1) for part in np.array_split(rows, len(rows) // 4096 + 1)])
    shows = spread >= _FLAT
    links = links[np.isin(links[:, 0], rows[shows])]
    rows = rows[shows]
    if len(rows) < 2:
        return links
    found = _within(flat, rows, radius)
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
    sample = _unit(flat[rows[:: max(1, len(rows) // _SAMPLE)]])
    sample -= sample.mean(axis=0)
    axes = np.linalg.eigh(sample.T @ sample)[1][:, : -COMPONENTS - 1 : -1]  # most variance first
    parts = [_unit(flat[part]) @ axes for part in np.array_split(rows, len(rows) // 4096 + 1)]
    points = np.concatenate(parts).astype(np.float32)
    order = np.argsort(points[:, 0], kind="stable")
    points, rows = points[order], rows[order]
    ends = np.searchsorted(points[:, 0], points[:, 0] + radius, side="right")
    squares = (points**2).sum(axis=1)
    slack = 1e-5  # of a float32 dot product of vectors not longer than 1
    found, count = list[NDArray[np.int64]](), 0
    for start in range(0, len(points), _BLOCK):
        stop = min(start + _BLOCK, len(points))
        last = int(ends[stop - 1])
        inner = points[start:stop] @ points[start:last].T
        apart = squares[start:stop, None] + squares[None, start:last] - 2 * inner
        near = np.argwhere(apart <= radius**2 + slack)
        near = near[near[:, 1] > near[:, 0]] + start
        if count > _MOST:  # a set this dense is joined through neighbours along the axis
            near = near[near[:, 1] == near[:, 0] + 1]
        for part in np.array_split(near, len(near) // 65536 + 1):
            pair = rows[part]
            gap = _unit(flat[pair[:, 0]]) - _unit(flat[pair[:, 1]])
            close = np.sort(pair[(gap**2).sum(axis=1) <= radius**2], axis=1)
            found.append(close)
            count += len(close)
    return np.concatenate(found)


def components(count: int, *links: NDArray[np.int64] | Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Join `count` rows along the links: (count,) numbers of the unit that each row belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate(
        [np.asarray(link, np.int64).reshape(-1, 2) for link in links] or [np.empty((0, 2), np.int64)]
    )
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def equal(names: Sequence[str]) -> NDArray[np.int64]:
    """Links (P, 2) between rows of the same non-empty name: the first of them and each other one."""
    first: dict[str, int] = {}
    links = [
        (before, row)
        for row, name in enumerate(names)
        if name and (before := first.setdefault(name, row)) != row
    ]
    return np.array(links, np.int64).reshape(-1, 2)
