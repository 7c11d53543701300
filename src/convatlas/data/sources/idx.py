"""MNIST's idx files, gzipped or not: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`.

The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values. Fashion-MNIST, KMNIST and EMNIST use it as well.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.source import ArraySource, Item, Listing, printable
from convatlas.errors import DataError
from convatlas.files import open_untrusted

MAX_VALUES = 4 * 2**30
_NAME = re.compile(r"(?:.*-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder: ("train" or "test", "images" or "labels") -> path."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            found.setdefault((_SPLITS[match[1]], match[2]), path)
    return found


def read_idx(path: Path) -> NDArray[np.uint8]:
    """One idx file as an array of its dimensions. Raises `DataError` if the file is not what it says."""
    try:
        with open_untrusted(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            zeros, kind, rank = struct.unpack(">HBB", file.read(4))
            if (zeros, kind) != (0, 8) or rank not in (1, 3):
                raise DataError(f"{printable(str(path))} is not an idx file of bytes in 1 or 3 dimensions.")
            shape = struct.unpack(f">{rank}I", file.read(4 * rank))
            count = int(np.prod(shape, dtype=object))
            if count > MAX_VALUES:
                raise DataError(
                    f"{printable(str(path))} says it holds {count:,} values; at most {MAX_VALUES:,} are read."
                )
            values = file.read(count + 1)
    except (OSError, EOFError, zlib.error, struct.error, OverflowError) as error:
        raise DataError(f"{printable(str(path))} is damaged or ends too early: {error}.") from error
    if len(values) != count:
        there = "more" if len(values) > count else f"{len(values):,}"
        raise DataError(f"{printable(str(path))} says it holds {count:,} values and has {there}.")
    return np.frombuffer(values, np.uint8).reshape(shape)


@lru_cache(maxsize=4)
def _pair(folder: str, split: str, stamp: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and labels of one split; `stamp` (time of change) makes a changed file a new one."""
    del stamp
    found = idx_files(Path(folder))
    for part in ("images", "labels"):
        if (split, part) not in found:
            raise DataError(f"{printable(folder)} has no idx file of {split} {part}.")
    images, labels = read_idx(found[split, "images"]), read_idx(found[split, "labels"])
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{printable(folder)}: {split} images {images.shape} and labels {labels.shape} do not belong together."
        )
    if 0 in images.shape:
        raise DataError(f"{printable(folder)}: {split} images are empty: {images.shape}.")
    return images, labels


class Idx(ArraySource):
    """A folder of idx files; a sample's place is (split, row)."""

    kind = "idx"

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._loaded: dict[str, NDArray[np.uint8]] = {}

    def _split(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        path = idx_files(Path(self.where)).get((split, "images"))
        return _pair(self.where, split, path.stat().st_mtime_ns if path else 0)

    def listing(self) -> Listing:
        """Train and test as the files give them; classes are the numbers that occur."""
        splits = sorted({split for split, _ in idx_files(Path(self.where))})
        listing = Listing()
        for split in splits:
            for row, label in enumerate(self._split(split)[1].tolist()):
                listing.items.append(Item(f"{split}/{row:07d}", str(label), (split, row), split))
        listing.items.sort(key=lambda item: item.key)
        return listing

    def array(self, place: tuple[str, int]) -> NDArray[np.uint8]:
        """One image (H, W)."""
        split, row = place
        if split not in self._loaded:
            self._loaded[split] = self._split(split)[0]
        return self._loaded[split][row]

    def __getstate__(self) -> dict[str, object]:
        return {"where": self.where, "_loaded": {}}  # another process reads the files itself
