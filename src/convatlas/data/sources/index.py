"""A shard's index: what lies in it, and what the survey saw of its images; made once, kept beside it.

`0000.tar.index` lies beside `0000.tar`, or in convatlas's cache folder where that cannot be written. It holds
for a shard of the same length and time of change, and the same rules of reading; any other is made anew. It
is a safetensors file: numbers and text, nothing that could run. One that is damaged is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from convatlas.data.decode import MAX_BYTES, MAX_PIXELS, MAX_SIDE
from convatlas.data.sources.archive import cache_folder
from convatlas.data.sources.source import BadFile, Seen
from convatlas.errors import DataError, ResourceError
from convatlas.files import make_folder, read_untrusted, write_durable

RULES = 1  # of reading a shard and of seeing an image; another number makes every index anew
MAX_INDEX_BYTES = 2**31
_THUMB = (16, 16, 3)

_NO_INDEX = (  # what a file that is none, or lies, makes of its reading
    DataError,
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)

Sample = tuple[str, str, int, int, str]  # key, label, offset, bytes, group


@dataclass
class Contents:
    """A shard's samples, its bad members, and how many members of other kinds it has."""

    samples: list[Sample] = field(default_factory=list[Sample])
    bad: list[BadFile] = field(default_factory=list[BadFile])
    others: Counter[str] = field(default_factory=Counter[str])


@dataclass
class Index:
    """The contents of the shard at `path`, and what is known of the images, by their offsets."""

    path: str
    stamp: tuple[int, int]  # of the shard when its contents were read
    contents: Contents
    seen: dict[int, Seen] = field(default_factory=dict[int, Seen])

    @classmethod
    def read(cls, path: str) -> Index | None:
        """The index of a shard, if there is one that is whole and fits. That of a shard elsewhere is believed."""
        for place in _places(path):
            try:
                parts = load(read_untrusted(place, max_bytes=MAX_INDEX_BYTES))
                told: dict[str, Any] = json.loads(parts["text"].tobytes())
                length, changed = map(int, told["stamp"])
                if told["rules"] == RULES and (not os.path.exists(path) or (length, changed) == stamp(path)):
                    return cls(path, (length, changed), _contents(told), dict(_seen(parts)))
            except _NO_INDEX:
                continue
        return None

    @property
    def whole(self) -> bool:
        """Whether every sample has been seen, so that the shard itself is not needed to know them."""
        return all(offset in self.seen for _, _, offset, _, _ in self.contents.samples)

    def write(self) -> None:
        """Keep the index, if there is a place for it and the shard has not changed meanwhile."""
        if stamp(self.path) != self.stamp:
            return
        text = {
            "rules": RULES,
            "stamp": self.stamp,
            "samples": self.contents.samples,
            "bad": self.contents.bad,
            "others": self.contents.others,
        }
        rows = sorted(self.seen.items())
        content = save(
            {
                "text": np.frombuffer(json.dumps(text).encode(), np.uint8),
                "offset": np.array([offset for offset, _ in rows], np.int64),
                "side": np.array([(seen.width, seen.height) for _, seen in rows], np.int32).reshape(-1, 2),
                "grey": np.array([seen.grey for _, seen in rows], np.uint8),
                "hash": _bytes([bytes.fromhex(seen.hash) for _, seen in rows], (16,)),
                "thumb": _bytes([seen.thumb for _, seen in rows], _THUMB),
            }
        )
        for place in _places(self.path):
            try:
                make_folder(place.parent)
                write_durable(place, content)
            except (ResourceError, OSError):
                continue
            return


def stamp(path: str) -> tuple[int, int]:
    """Length and time of the last change of a file. Raises `DataError` if it cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return found.st_size, found.st_mtime_ns


def _places(path: str) -> Iterator[Path]:
    """Beside the shard, then in the cache folder under a name of its own."""
    yield Path(f"{path}.index")
    name = hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest()
    yield cache_folder() / "indexes" / f"{name}.index"


def _contents(told: dict[str, Any]) -> Contents:
    """What the text of an index says; `ValueError` where no walk over a shard could have said it."""
    samples: list[Sample] = []
    for key, label, offset, size, group in told["samples"]:
        samples.append((_plain(key), _plain(label), int(offset), int(size), _plain(group)))
        if not (int(offset) >= 0 and 0 <= int(size) <= MAX_BYTES):
            raise ValueError("a sample outside its shard")
    others = Counter({_plain(kind): int(count) for kind, count in told["others"].items()})
    return Contents(samples, [BadFile(*map(_plain, bad)) for bad in told["bad"]], others)


def _plain(text: Any) -> str:
    """Text that can be shown; an index may come with shards from elsewhere."""
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError("text that does not print")
    return text


def _seen(parts: dict[str, NDArray[Any]]) -> Iterator[tuple[int, Seen]]:
    offset, side, grey = parts["offset"], parts["side"], parts["grey"]
    count = len(offset)
    for name, shape in (("side", (2,)), ("grey", ()), ("hash", (16,)), ("thumb", _THUMB)):
        if parts[name].shape != (count, *shape):
            raise ValueError(f"{name} of another shape")
    for row in range(count):
        width, height = (int(length) for length in side[row])
        if not (min(width, height) >= 1 and max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS):
            raise ValueError(f"a picture of {width} x {height}")
        content, thumb = parts["hash"][row].tobytes().hex(), parts["thumb"][row].tobytes()
        yield int(offset[row]), Seen(content, width, height, bool(grey[row]), thumb, None)


def _bytes(rows: list[bytes], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), *shape)
