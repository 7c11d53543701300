"""Shards: samples in many plain tars, as WebDataset writes them, read where they lie and in any order.

`where` is a pattern (`shards/{0000..0999}.tar`, `/disk{1..4}/{train,val}-{00..99}.tar`), a folder of tars, or
one such tar. A sample is what has the same path up to the first dot of its file name: one image, and its class
in `.cls` (a number or a name) or in `.json` ({"label": ..., and if wanted "key" and "group"}). Nothing else is
ever opened: pickles, arrays and tensors are counted in a note. What is refused in an archive is refused here.

A shard's table of contents, and what the survey saw of its images, are kept in an index: it is made once. Where
several machines train, a shard may lie on another one, with its index here alone (`apart`).
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from convatlas.data.sources.archive import Member, Tar, parts_of
from convatlas.data.sources.index import Contents, Index, stamp
from convatlas.data.sources.layout import IMAGE_SUFFIXES, SPLIT_NAMES, is_junk
from convatlas.data.sources.source import (
    BadFile,
    Failed,
    Item,
    Listing,
    Memory,
    Seen,
    Source,
    counted,
    printable,
)
from convatlas.errors import BadImage, DataError
from convatlas.files import open_untrusted

MAX_SHARDS = 100_000
MAX_LABEL_BYTES = 2**16  # of a `.cls` or `.json`
_OPEN = 64  # shards that a process holds open
_NAMED = 3  # things that a message names
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)


def is_pattern(where: str) -> bool:
    """Whether `where` has braces to be expanded, and is no file of that very name."""
    return _BRACES.search(where) is not None and not os.path.lexists(where)


def expand(pattern: str) -> list[str]:
    """Every name that a pattern stands for: `{a,b}` is one of several, `{00..11}` a number of as many digits.

    Raises `DataError` where braces hold neither, or stand for more than 100,000 names.

    Examples:
        >>> expand("{train,val}-{08..10}.tar")[2:4]
        ['train-10.tar', 'val-08.tar']
    """
    pieces, at, count = list[Sequence[str]](), 0, 1
    for braces in _BRACES.finditer(pattern):
        choices = _choices(braces.group(1), pattern)
        pieces += [[pattern[at : braces.start()]], choices]
        count, at = count * len(choices), braces.end()
        if count > MAX_SHARDS:
            raise DataError(f"{printable(pattern)} stands for more than {MAX_SHARDS:,} shards.")
    if "{" in (rest := pattern[at:]) or "}" in rest or any("{" in one[0] or "}" in one[0] for one in pieces):
        raise DataError(f"{printable(pattern)}: braces must be closed, and must not stand in one another.")
    return ["".join(parts) for parts in itertools.product(*pieces, [rest])]


def _choices(inside: str, pattern: str) -> Sequence[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = found.groups()
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MAX_SHARDS:
            raise DataError(f"{printable(pattern)} stands for more than {MAX_SHARDS:,} shards.")
        if numbers:
            return [f"{number:0{len(first)}d}" for number in numbers]
    if "," in inside:
        return inside.split(",")
    raise DataError(
        f"{printable(pattern)}: {{{printable(inside)}}} is neither a range, as {{0000..0099}}, nor a list, as {{a,b}}."
    )


def shard_files(folder: Path) -> list[str]:
    """The tars of a folder that holds nothing else (but their indexes and hidden files); none for another one.

    Where there is an index without its shard, the shard is named as well: it is missing, or elsewhere.
    """
    names = [name for name in os.listdir(folder) if not is_junk(name)]
    tars = {name for name in names if name.casefold().endswith(".tar")}
    others = [
        name for name in names if name not in tars and not name.endswith((".index", ".txt", ".md", ".json"))
    ]
    indexed = {name.removesuffix(".index") for name in names if name.casefold().endswith(".tar.index")}
    return [] if others else [str(folder / name) for name in sorted(tars | indexed)]


def is_shard(where: str, head: bytes) -> bool:
    """Whether a tar that starts with `head` is plain and begins with a sample in WebDataset's form."""
    if head[257:262] != b"ustar":
        return False
    try:
        first = list(itertools.islice(Tar(where).members(), 8))
    except DataError:  # said where it is read
        return False
    kinds = [_split_name(member.name)[1] for member in first if member.place is not None]
    return "cls" in kinds and any(kind in _IMAGES for kind in kinds)


class Shards(Source):
    """Samples of many tars; a sample's place is (number of the shard, offset, bytes).

    `apart`: a shard may lie on another machine, if its index is here; those are `absent`.
    """

    kind = "shards"

    def __init__(self, where: str, paths: Sequence[str], *, apart: bool = False) -> None:
        super().__init__(where)
        self.paths, self.apart = list(paths), apart
        whole = [os.path.abspath(path) for path in self.paths]
        folder = os.path.commonpath([os.path.dirname(path) for path in whole])
        self.parts = [os.path.relpath(path, folder) for path in whole]  # the same where the folder is moved
        self._files: OrderedDict[int, int] = (
            OrderedDict()
        )  # number of the shard -> descriptor, last used last
        self._indexes: list[Index] = []

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict[int, int](), "_indexes": []}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def listing(self) -> Listing:
        """The table of contents of every shard, from its index where there is one that fits."""
        missing = [number for number, path in enumerate(self.paths) if not os.path.isfile(path)]
        indexes = {number: Index.read(self.paths[number]) for number in missing}
        self._check(indexes)
        self.absent = frozenset(missing)
        listing, keys, others = Listing(), set[str](), Counter[str]()
        roles = [_role(path) for path in self.paths]
        if any(roles) and not all(roles):
            lost = self.paths[roles.index("")]
            raise DataError(
                f"{printable(lost)} is named after no split, and {printable(self.paths[_first(roles)])} is: "
                "name all shards after train, val or test, or none."
            )
        self._indexes = [
            indexes.get(number) or Index.read(path) or Index(path, stamp(path), contents(path))
            for number, path in enumerate(self.paths)
        ]
        for number, (index, role) in enumerate(zip(self._indexes, roles, strict=True)):
            listing.bad += index.contents.bad
            others.update(index.contents.others)
            for key, label, offset, size, group in index.contents.samples:
                if key in keys:
                    listing.bad.append(
                        BadFile(key, "listed twice", f"also in {printable(self.paths[number])}")
                    )
                else:
                    keys.add(key)
                    listing.items.append(Item(key, label, (number, offset, size), role, group))
        if not listing.items:
            told = (
                f" {counted(len(listing.bad), 'entry is', 'entries are')} refused: {listing.bad[0]}."
                if listing.bad
                else ""
            )
            raise DataError(
                f"{self.name} has no sample: an image and its class (0001.jpg and 0001.cls, or 0001.json with a "
                f'"label") were expected in a shard.{told}'
            )
        listing.items.sort(key=lambda item: item.key)
        listing.bad.sort()
        if others:
            named = ", ".join(
                f"{count:,} .{printable(name)}" for name, count in sorted(others.items())[:_NAMED]
            )
            listing.notes.append(f"members that are neither image nor class were not opened: {named}")
        return listing

    def _check(self, indexes: Mapping[int, Index | None]) -> None:
        """Raise `DataError` where shards are missing; `apart`, only where their index is not here and whole."""
        known = {number for number, index in indexes.items() if index is not None and index.whole}
        lost = [self.paths[number] for number in indexes if not (self.apart and number in known)]
        if not lost:
            return
        named = ", ".join(map(printable, lost[:_NAMED])) + (", ..." if len(lost) > _NAMED else "")
        advice = ""
        if self.apart:
            advice = (
                ". What lies on another machine needs its index here (0000.tar.index), which is whole when `convatlas "
                "data check` has looked at the shard and found nothing bad in it"
            )
        elif known:
            advice = (
                f". {counted(len(known), 'index is', 'indexes are')} here: only a training on several machines can "
                "leave shards where they lie. To leave one out, take it from the pattern, or its index from the folder"
            )
        raise DataError(
            f"{self.name}: {len(lost):,} of {counted(len(self.paths), 'shard')} "
            f"{'is' if len(lost) == 1 else 'are'} missing: {named}{advice}"
        )

    def part(self, place: Any) -> int:
        """The number of the shard."""
        return place[0]

    def memory(self, items: Sequence[Item]) -> Memory:
        """What the shards' indexes know of `items`; a shard's index is written when all of it has been seen."""
        indexes, self._indexes = self._indexes, []
        return _ShardMemory(indexes, items)

    def content(self, place: Any) -> bytes:
        """The bytes of one member."""
        number, offset, size = place
        try:
            content = os.pread(self._descriptor(number), size, offset)
        except OSError as error:
            raise BadImage("unreadable", f"{printable(self.paths[number])}: {error.strerror}") from error
        if len(content) != size:
            raise BadImage(
                "truncated", f"in {printable(self.paths[number])}: {len(content):,} of {size:,} bytes"
            )
        return content

    def _descriptor(self, number: int) -> int:
        found = self._files.pop(number, None)
        if found is None:
            while len(self._files) >= _OPEN:
                os.close(self._files.popitem(last=False)[1])
            found = os.open(self.paths[number], os.O_RDONLY | os.O_CLOEXEC)
        self._files[number] = found
        return found


class _ShardMemory(Memory):
    """Fills the indexes while the survey goes on, and keeps each as soon as it is whole."""

    def __init__(self, indexes: Sequence[Index], items: Sequence[Item]) -> None:
        super().__init__()
        self._indexes, self._places = indexes, [item.place for item in items]
        self._missing = Counter[int]()
        for position, (number, offset, _) in enumerate(self._places):
            seen = indexes[number].seen.get(offset)
            if seen is None:
                self._missing[number] += 1
            else:
                self.known[position] = seen

    def add(self, position: int, seen: Seen | Failed) -> None:
        number, offset, _ = self._places[position]
        if isinstance(seen, Seen):
            self._indexes[number].seen[offset] = seen._replace(pixels=None)
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._indexes[number].write()


def contents(path: str) -> Contents:
    """Read a shard's table of contents and its classes, and no image. Raises `DataError` if it is damaged."""
    tar, stem = Tar(path), Path(path).stem
    with open_untrusted(Path(path)) as file:
        if file.read(512)[257:262] != b"ustar":
            raise DataError(
                f"{printable(path)} is no plain tar. Shards are read at any place, and so must not be compressed: "
                "unpack them (the images inside are compressed already)."
            )
    found, groups = Contents(), dict[str, dict[str, Member]]()
    for member in tar.members():
        parts, unsafe = parts_of(member.name)
        base, kind = _split_name("/".join(map(printable, parts)))
        key = f"{stem}/{base}.{kind}" if kind else f"{stem}/{base}"
        if unsafe or member.wrong:
            found.bad.append(BadFile(key, *(unsafe or member.wrong or ("damaged", ""))))
        elif member.place is None or any(map(is_junk, parts)):
            continue
        elif kind not in _IMAGES and kind not in ("cls", "json"):
            found.others[kind] += 1
        elif kind in groups.setdefault(base, {}):
            found.bad.append(BadFile(key, "listed twice", "the first member of this name is used"))
        else:
            groups[base][kind] = member
    for base, members in groups.items():
        _sample(tar, f"{stem}/{base}", members, found)
    return found


def _sample(tar: Tar, name: str, members: dict[str, Member], found: Contents) -> None:
    """Add the sample that `members` (by the end of their names) make, or what is wrong with it."""
    images = [kind for kind in members if kind in _IMAGES]
    if not images:
        found.others["cls" if "cls" in members else "json"] += 1
        return
    key = f"{name}.{images[0]}"
    if len(images) > 1:
        found.bad.append(
            BadFile(key, "listed twice", f"a sample has one image; this has {', '.join(images)}")
        )
        return
    try:
        label, told, group = _described(tar, members)
    except (BadImage, ValueError, RecursionError) as error:
        found.bad.append(BadFile(key, "no class", str(error)[:200]))
        return
    offset, size = members[images[0]].place
    found.samples.append((told or key, label, offset, size, group))


def _described(tar: Tar, members: dict[str, Member]) -> tuple[str, str, str]:
    """Label, key and group of a sample (the last two may be empty). Raises `ValueError` where there is no label."""
    described: dict[str, object] = {}
    if "json" in members:
        value: object = json.loads(_text(tar, members["json"]), parse_constant=_no_number)
        if not isinstance(value, dict):
            raise ValueError(".json holds no object")
        described = cast("dict[str, object]", value)
    label = described.get("label")
    if label is None and "cls" in members:
        label = _text(tar, members["cls"]).strip()
    if label is None:
        raise ValueError("neither .cls nor .json names one")
    fields: list[str] = []
    for field, value in (
        ("label", label),
        ("key", described.get("key", "")),
        ("group", described.get("group", "")),
    ):
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f"its {field} is {type(value).__name__}, not text or a whole number")
        text = str(value)
        fields.append(text if text.isprintable() else printable(text))  # a printable name is escaped already
    if not fields[0]:
        raise ValueError("neither .cls nor .json names one")
    return fields[0], fields[1], fields[2]


def _text(tar: Tar, member: Member) -> str:
    if member.place[1] > MAX_LABEL_BYTES:
        raise ValueError(f"{member.place[1]:,} bytes; at most {MAX_LABEL_BYTES:,} are read")
    return tar.content(member.place).decode("utf-8")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _split_name(name: str) -> tuple[str, str]:
    """A member's path up to the first dot of its file name, and what follows: what makes a sample, and its part."""
    folder, slash, last = name.rpartition("/")
    base, _, kind = last.partition(".")
    return folder + slash + base, kind.casefold()


def _role(path: str) -> str:
    """The split that a shard is named after: the first such word of its name, or the folder that it lies in."""
    words = re.split(r"[^A-Za-z]+", Path(path).name)
    named = [SPLIT_NAMES[word.casefold()] for word in words if word.casefold() in SPLIT_NAMES]
    return named[0] if named else SPLIT_NAMES.get(Path(path).absolute().parent.name.casefold(), "")


def _first(roles: Sequence[str]) -> int:
    return next(number for number, role in enumerate(roles) if role)
