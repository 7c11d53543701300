"""Pictures that are decoded once: in memory, in a file without a name, or in a cache that outlives the run.

Two things can be kept. *Fitted* pictures have the network's size and are what evaluation sees, bit for bit; they
serve wherever no random part is cut and resized. *Shrunk* pictures are whole, their shorter side at most so long
that hardly a part cut from them has to be enlarged; they serve where random parts are cut.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data.augment import JITTER_CROP, Augment
from convatlas.data.cache import Told, cached, silent
from convatlas.data.reader import FITTED, SHRUNK, Job, Reader, Shrunk, Surveyed
from convatlas.data.workers import Workers
from convatlas.errors import ResourceError, UsageError

SHARE_OF_FREE_MEMORY = 0.25
MOST_ENLARGED = 2.0  # a cached picture's shorter side is at most so many times the network's
_ROWS = 256  # pictures per job while a store is filled
_JOB_BYTES = 2**26


def fitted(
    reader: Reader, workers: int, *, in_memory: bool = True, cache: Path | None = None, told: Told = silent
) -> torch.Tensor:
    """Every picture of the reader's split in the evaluation geometry: uint8 (N, C, H, W)."""
    prepare = reader.preprocessing
    shape = (len(reader.split), prepare.channels, *prepare.size)
    size = int(np.prod(shape))

    def fill(pixels: NDArray[np.uint8]) -> None:
        rows = max(min(_ROWS, _JOB_BYTES // max(size // max(shape[0], 1), 1)), 1)
        target = pixels.reshape(shape)
        _work(
            reader,
            workers,
            FITTED,
            (rows, *prepare.size, shape[1]),
            lambda start, made: _put(target, start, made),
        )

    if cache is not None:
        what = {"kind": "fitted", **_images(reader), **_geometry(reader)}
        return torch.from_numpy(cached(cache, what, size, fill, told).reshape(shape))
    store = np.empty(size, dtype=np.uint8) if in_memory else mapped(size)
    fill(store)
    return torch.from_numpy(store.reshape(shape))


def shrunk(reader: Reader, workers: int, cache: Path, told: Told) -> Shrunk:
    """Every picture of the reader's split, whole, from a cache."""
    if not isinstance(reader.split, Surveyed) or reader.augment is None:
        raise UsageError("a cache needs data that `open_data` gave")
    kept = Shrunk(reader.split, kept_side(reader.preprocessing.size, reader.augment))
    reader = Reader(reader.split, reader.preprocessing, reader.augment, reader.seed, kept)
    most = int(kept.bytes.max()) if len(kept.bytes) else 1

    def fill(pixels: NDArray[np.uint8]) -> None:
        def put(start: int, made: NDArray[np.uint8]) -> None:
            for row, picture in enumerate(made.reshape(len(made), -1), start):
                pixels[kept.starts[row] : kept.starts[row + 1]] = picture[: kept.bytes[row]]

        rows = max(min(_ROWS, _JOB_BYTES // most), 1)
        _work(reader, workers, SHRUNK, (rows, 1, 1, most), put)

    interpolation = reader.preprocessing.interpolation
    what = {"kind": "shrunk", **_images(reader), "side": kept.side, "interpolation": interpolation}
    kept.pixels = cached(cache, what, int(kept.starts[-1]), fill, told)
    return kept


def kept_side(size: tuple[int, int], augment: Augment) -> int:
    """The shorter side of cached pictures, pixels: as long as the smallest part needs, up to `MOST_ENLARGED`.

    Examples:
        >>> kept_side((224, 224), Augment(crop="resized", resized_scale=(0.35, 1.0)))
        438
        >>> kept_side((224, 224), Augment(crop="resized", resized_scale=(0.08, 1.0)))
        448
    """
    if augment.crop == "scale-jitter":
        share = JITTER_CROP / augment.scale_jitter[1]
    else:
        share = math.sqrt(
            augment.resized_scale[0] * min(augment.resized_ratio[0], 1 / augment.resized_ratio[1])
        )
    return math.ceil(max(size) * min(1 / share, MOST_ENLARGED))


def _work(
    reader: Reader,
    workers: int,
    kind: int,
    shape: tuple[int, int, int, int],
    put: Callable[[int, NDArray[np.uint8]], None],
) -> None:
    """Read every picture once, some at a time, and `put` them away."""
    starts = range(0, len(reader.split), shape[0])
    jobs: list[Job] = [(kind, np.arange(at, min(at + shape[0], len(reader.split)))) for at in starts]
    pool = Workers(workers, reader.fill, reader.describe, shape)
    try:
        for start, made in zip(starts, pool.run((job, len(job[1])) for job in jobs), strict=True):
            put(start, made)
    finally:
        pool.close()


def _put(target: NDArray[np.uint8], start: int, made: NDArray[np.uint8]) -> None:
    """Pictures (n, H, W, C) into their places of `target` (N, C, H, W)."""
    target[start : start + len(made)] = made.transpose(0, 3, 1, 2)


def _images(reader: Reader) -> Mapping[str, Any]:
    """What the pixels depend on as far as the images go: their content, in their order."""
    if not isinstance(reader.split, Surveyed):
        raise UsageError("a cache needs data that `open_data` gave")
    content = sha256("\n".join(reader.split.hashes).encode()).hexdigest()
    return {"images": content, "count": len(reader.split), "channels": reader.split.channels}


def _geometry(reader: Reader) -> Mapping[str, Any]:
    """The preprocessing up to the normalisation, which is done later."""
    told = reader.preprocessing.to_json()
    return {name: value for name, value in told.items() if name not in ("mean", "std")}


def mapped(size: int) -> NDArray[np.uint8]:
    """`size` bytes in a file that has no name any more: it vanishes with the process, also after kill -9.

    Raises `ResourceError` if the disk has no room; found out here, it is not a bus error later.
    """
    folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)  # noqa: S108
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    except OSError as error:
        raise ResourceError(
            f"cannot keep {size:,} bytes of decoded pictures in {folder or tempfile.gettempdir()}: "
            f"{error.strerror or error}. Make room, or set TMPDIR to a folder on a larger disk."
        ) from error
