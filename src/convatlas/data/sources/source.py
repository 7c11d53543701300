"""What a kind of source has to say: which samples there are, and the content of each.

A source is small and can be pickled: it holds where the data are, never an open file or the data
themselves. A sample's `key` is its printable relative name, stable between machines; its `place` is
whatever the source needs to find it again without loss.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.decode import Scaled, Shrink, decode_scaled
from convatlas.errors import BadImage

SPLITS = ("train", "val", "test")


class BadFile(NamedTuple):
    """A file that is left out: its key, a reason out of `decode.REASONS`, and the rest of the sentence."""

    key: str
    reason: str
    detail: str = ""


class Seen(NamedTuple):
    """What is left of an accepted file: `pixels` only where the image is small and wanted."""

    hash: str
    width: int
    height: int
    grey: bool
    thumb: bytes  # (16, 16, 3) uint8
    pixels: bytes | None


class Failed(NamedTuple):
    """Why a file is left out."""

    reason: str
    detail: str


class Memory:
    """What earlier surveys saw of a source's samples, by position in its listing; most sources keep nothing."""

    def __init__(self) -> None:
        self.known: dict[int, Seen] = {}

    def add(self, position: int, seen: Seen | Failed) -> None:
        """Take note of what has just been seen."""


class Item(NamedTuple):
    """One sample: `split` and `group` are empty where the source does not give them."""

    key: str
    label: str
    place: Any
    split: str = ""
    group: str = ""


@dataclass
class Listing:
    """All that a source knows without reading a picture."""

    items: list[Item] = field(default_factory=list[Item])
    bad: list[BadFile] = field(default_factory=list[BadFile])
    notes: list[str] = field(default_factory=list[str])
    folders: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])  # (split, class), also empty


class Source(ABC):
    """Where samples come from; `kind` is its name in a run."""

    kind: ClassVar[str]
    encoded: ClassVar[bool] = True  # samples are image files, to be decoded
    parts: Sequence[str] = ()  # names of the parts that samples lie in, where there are some
    absent: frozenset[int] = (
        frozenset()
    )  # numbers of the parts that are not on this machine; known after `listing`

    def __init__(self, where: str) -> None:
        self.where = where

    @property
    def name(self) -> str:
        """`where`, fit to be shown."""
        return printable(self.where)

    @abstractmethod
    def listing(self) -> Listing:
        """Every sample, sorted by key, and what is bad already. Raises `DataError` if there is nothing."""

    @abstractmethod
    def content(self, place: Any) -> bytes:
        """The bytes of one sample's file. Raises `BadImage` if they cannot be read."""

    def part(self, place: Any) -> int:
        """The number of the part that a sample lies in; most sources are one."""
        del place
        return 0

    def memory(self, items: Sequence[Item]) -> Memory:
        """What is known of the listing's `items`, and where to note what is seen of the others."""
        del items
        return Memory()

    def pixels(self, place: Any, channels: int, name: str = "") -> NDArray[np.uint8]:
        """One sample, decoded: (H, W, channels). Raises `BadImage`."""
        return self.scaled(place, channels, name).pixels

    def scaled(self, place: Any, channels: int, name: str = "", shrink: Shrink | None = None) -> Scaled:
        """One sample, decoded, and scaled by what `shrink` says if it can be. Raises `BadImage`."""
        try:
            content = self.content(place)
        except BadImage as error:
            raise BadImage(error.reason, error.detail, name) from error
        return decode_scaled(content, shrink, channels=channels, name=name)


class ArraySource(Source):
    """Samples that are arrays already: nothing is decoded, and nothing can be a bad file."""

    encoded = False

    @abstractmethod
    def array(self, place: Any) -> NDArray[np.uint8]:
        """One grey sample (H, W)."""

    def content(self, place: Any) -> bytes:
        """Shape and pixels, to be hashed."""
        array = self.array(place)
        return repr(array.shape).encode() + array.tobytes()

    def scaled(self, place: Any, channels: int, name: str = "", shrink: Shrink | None = None) -> Scaled:
        """One sample as (H, W, channels), never scaled."""
        del name, shrink
        return Scaled(np.repeat(self.array(place)[..., None], channels, axis=2))


def digest(content: bytes) -> str:
    """The hash by which samples are told apart: the first 32 digits of SHA-256."""
    return sha256(content).hexdigest()[:32]


def printable(name: str) -> str:
    r"""A file's name as text that can be shown, logged and put into JSON; different names stay different.

    Backslashes are doubled; bytes that are no UTF-8 and characters that do not print become escapes.

    Examples:
        >>> printable("a\nb\udcff.jpg")
        'a\\nb\\xff.jpg'
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(_escape(character) for character in name)


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun, and with its verb where that is wanted.

    Examples:
        >>> counted(1, "bad file"), counted(2000, "class has", "classes have")
        ('1 bad file', '2,000 classes have')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only in case or in Unicode's form: some file systems cannot tell them apart."""
    folded: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        folded.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    return [tuple(group) for group in folded.values() if len(group) > 1]
