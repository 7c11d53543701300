"""One entrance to every kind of data: `open_data(where)` gives three splits that do not leak."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data import survey as surveys
from convatlas.data.decode import Scaled, Shrink
from convatlas.data.groups import group_column, group_pattern
from convatlas.data.roles import Roles
from convatlas.data.sources import SPLITS, BadFile, Source, open_source
from convatlas.data.sources.source import counted
from convatlas.errors import DataError, UsageError, did_you_mean

VAL_SHARE = 0.1
LISTED = 10  # bad files that an error names
_NAMED = 5  # classes that a note names


class _Kept:
    """Pixels of small images that the survey decoded; they stay in the process that made them."""

    def __init__(self, pixels: dict[int, bytes]) -> None:
        self.pixels = pixels

    def __getstate__(self) -> dict[str, object]:
        return {"pixels": {}}


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of one role, sorted by key. Small to send to another process: it holds no pixels and no files.

    `ids` are positions among all accepted samples; random functions know a sample by its id.
    """

    name: str
    keys: list[str]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    hashes: list[str]
    sizes: NDArray[np.int32]  # (N, 2): width, height in pixels
    channels: int
    _source: Source = field(repr=False)
    _places: list[Any] = field(repr=False)
    _kept: _Kept = field(repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, i: int) -> NDArray[np.uint8]:
        """Sample `i` decoded at full size: (H, W, channels). Raises `BadImage` if the file has changed."""
        return self.scaled(i).pixels

    def scaled(self, i: int, shrink: Shrink | None = None) -> Scaled:
        """Sample `i`, a JPEG shrunk as it is decoded by what `shrink` says of its size: see `decode_scaled`."""
        kept = self._kept.pixels.get(int(self.ids[i]))
        if kept is not None:
            width, height = self.sizes[i]
            pixels = np.frombuffer(kept, np.uint8).reshape(height, width, 3)
            return Scaled(pixels if self.channels == 3 else np.ascontiguousarray(pixels[..., :1]))
        return self._source.scaled(self._places[i], self.channels, self.keys[i], shrink)

    def parts(self) -> NDArray[np.int64]:
        """The part of the source that each sample lies in: the number of its shard; 0 where there are no parts."""
        return np.array([self._source.part(place) for place in self._places], np.int64)

    @property
    def part_names(self) -> Sequence[str]:
        """The names of these parts, by number: those of the shards."""
        return self._source.parts

    @property
    def absent(self) -> frozenset[int]:
        """Parts that are not on this machine (`open_data`'s `apart`): their samples are known, and cannot be read."""
        return self._source.absent

    def here(self) -> Split:
        """The samples that can be read on this machine: all of them, but where each machine has its part."""
        return self.subset(np.flatnonzero(~np.isin(self.parts(), list(self.absent)))) if self.absent else self

    @staticmethod
    def joined(name: str, parts: Sequence[Split]) -> Split:
        """The samples of several splits of the same data, by id."""
        whole = Split(
            name,
            [key for part in parts for key in part.keys],
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.ids for part in parts]),
            [digest for part in parts for digest in part.hashes],
            np.concatenate([part.sizes for part in parts]),
            parts[0].channels,
            parts[0]._source,
            [place for part in parts for place in part._places],
            parts[0]._kept,
        )
        return whole.subset(np.argsort(whole.ids, kind="stable"))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Split:
        """The samples at `indices`, in that order; their ids stay what they were."""
        rows = np.asarray(indices, np.int64).reshape(-1)
        return Split(
            self.name,
            [self.keys[row] for row in rows],
            self.labels[rows],
            self.ids[rows],
            [self.hashes[row] for row in rows],
            self.sizes[rows],
            self.channels,
            self._source,
            [self._places[row] for row in rows],
            self._kept,
        )


@dataclass(frozen=True, eq=False)
class Data:
    """Three splits, the classes' names, and what was left out. `channels` is 1 where every image is grey."""

    where: str
    kind: str
    classes: tuple[str, ...]
    channels: int
    train: Split
    val: Split
    test: Split
    bad: tuple[BadFile, ...]
    fingerprint: str  # SHA-256 over the accepted (key, class, split, content hash)
    notes: tuple[str, ...]

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """train, val, test."""
        return self.train, self.val, self.test

    @property
    def all(self) -> Split:
        """Every sample, whatever its role, by id."""
        return Split.joined("all", self.splits)

    def here(self) -> Data:
        """These data with the images of train that can be read on this machine: see `Split.here`."""
        return replace(self, train=self.train.here())

    def typical_side(self) -> int:
        """The median of the images' shorter sides, in pixels."""
        sizes = np.concatenate([split.sizes for split in self.splits])
        return int(np.median(sizes.min(axis=1))) if len(sizes) else 0

    def summary(self) -> dict[str, Any]:
        """What a run keeps of its data, as JSON."""
        sizes = np.concatenate([split.sizes for split in self.splits])
        return {
            "where": self.where,
            "kind": self.kind,
            "classes": list(self.classes),
            "channels": self.channels,
            "counts": {split.name: len(split) for split in self.splits},
            "per_class": {split.name: class_counts(split.labels, self.classes) for split in self.splits},
            "sizes": size_summary(sizes),
            "bad": len(self.bad),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }

    def samples_csv(self) -> bytes:
        """Every accepted sample as a table with the columns key, label, split, hash."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["key", "label", "split", "hash"])
        for split in self.splits:
            labels: list[int] = split.labels.tolist()
            names = [self.classes[label] for label in labels]
            writer.writerows(zip(split.keys, names, [split.name] * len(names), split.hashes, strict=True))
        return text.getvalue().encode()

    def seen(self, samples_csv: bytes) -> dict[str, list[str]]:
        """Keys of this data's images that another data set's `samples_csv` holds, by the split they had there."""
        rows = csv.DictReader(io.StringIO(samples_csv.decode()))
        role = {row["hash"]: row["split"] for row in rows}
        found: dict[str, list[str]] = {}
        for split in self.splits:
            for key, digest in zip(split.keys, split.hashes, strict=True):
                if digest in role:
                    found.setdefault(role[digest], []).append(key)
        return found


def class_counts(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """How many samples each class has."""
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def size_summary(sizes: NDArray[np.int32]) -> dict[str, list[int]]:
    """Least, median and largest width and height."""
    if not len(sizes):
        return {"min": [0, 0], "median": [0, 0], "max": [0, 0]}
    rows = {"min": sizes.min(axis=0), "median": np.median(sizes, axis=0), "max": sizes.max(axis=0)}
    return {name: [int(value) for value in row] for name, row in rows.items()}


def open_data(
    where: str | Path = "digits",
    *,
    seed: int = 0,
    val_share: float = VAL_SHARE,
    test_share: float | None = None,
    group_by: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    workers: int | None = None,
    classes: Sequence[str] | None = None,
    survey: surveys.Survey | None = None,
    told: Callable[[str], None] | None = None,
    apart: bool = False,
) -> Data:
    """Look at every sample, name the classes, and draw the splits that the source does not give.

    `where`: "digits", a folder, a zip or tar, a folder of MNIST idx files, or a CSV. `group_by`: what must
    not be torn apart: a regular expression with one group, matched on the key, or a CSV's column.
    `classes`: the classes of a trained network; labels are positions among them, and others are refused.
    `survey`: one that was made before. `told`: gets a sentence before thousands of images are read.
    `apart`: shards of train may lie on other machines, with their indexes here (for training on several).

    Raises `DataError` where the data cannot be used, also for bad files unless `on_bad` is "skip": a
    skipped file is left out and counted, never replaced by another. Raises `UsageError` for a setting
    that makes no sense.

    Examples:
        >>> data = open_data("digits")
        >>> len(data.train), len(data.val), len(data.test), data.channels
        (1293, 145, 359, 1)
    """
    _check_shares(val_share, test_share, on_bad)
    source = survey.source if survey is not None else open_source(where, group_column(group_by), apart=apart)
    group_pattern(source, group_by)  # what is wrong with it is said before every file is read
    if survey is None:
        survey = surveys.survey(source, workers=workers, keep=True, told=told)
    name, notes = survey.source.name, list(survey.listing.notes)
    if survey.bad and on_bad == "error":
        raise DataError(_bad_message(name, survey.bad))
    if not survey.items:
        raise DataError(f"{name} has no image that can be read: {counted(len(survey.bad), 'bad file')}.")
    if survey.bad:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in Counter(b.reason for b in survey.bad).most_common()
        )
        notes.append(f"{counted(len(survey.bad), 'file was', 'files were')} left out: {reasons}")
    names, labels = _labels(name, survey, classes, notes)
    roles = Roles(survey, labels, seed, group_by, notes)
    roles.assign(val_share, test_share)
    data = _build(name, survey, names, labels, roles.role, notes)
    for split in (data.val, data.test):
        if len(split.here()) < len(split):
            raise DataError(
                f"{name}: images of {split.name} are on other machines alone. Each machine may have its part of the "
                "train shards, and needs all of val and test: name shards after their split (train-0000.tar, "
                "val-0000.tar), as `convatlas data shard` does where the source has splits."
            )
    return data


def _check_shares(val_share: float, test_share: float | None, on_bad: str) -> None:
    if not 0 <= val_share < 1:
        raise UsageError(f"val_share is {val_share}; expected is a share from 0 to less than 1.")
    if test_share is not None and not 0 <= test_share <= 1:
        raise UsageError(f"test_share is {test_share}; expected is a share from 0 to 1.")
    if on_bad not in ("error", "skip"):
        raise UsageError(f"on_bad is {on_bad!r}; expected is 'error' or 'skip'.")


def _bad_message(where: str, bad: Sequence[BadFile]) -> str:
    lines = [
        f"  {one.key}: {one.reason}" + (f" ({one.detail})" if one.detail else "") for one in bad[:LISTED]
    ]
    more = [f"  ... and {len(bad) - LISTED} more"] if len(bad) > LISTED else []
    return "\n".join(
        [
            f"{where} has {counted(len(bad), 'bad file')}:",
            *lines,
            *more,
            f"`convatlas data check {where}` lists them all; `--on-bad skip` leaves them out.",
        ]
    )


def _labels(
    where: str, survey: surveys.Survey, classes: Sequence[str] | None, notes: list[str]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes' names in order, and each sample's position among them."""
    found = {item.label for item in survey.items}
    names = tuple(classes) if classes is not None else class_order(found)
    if classes is not None and (unknown := sorted(found - set(names))):
        near = did_you_mean(unknown[0], names)
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{where} has classes that the network does not know: {shown}.{near} It knows {len(names)}: "
            f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}."
        )
    empty = sorted({label for _, label in survey.listing.folders} - found)
    if empty and classes is None:
        notes.append(f"classes without an image are left out: {', '.join(empty[:_NAMED])}")
    position = {name: index for index, name in enumerate(names)}
    return names, np.array([position[item.label] for item in survey.items], np.int64)


def class_order(names: set[str]) -> tuple[str, ...]:
    """Classes in the order of their labels: numbers by value, names by code point (as torchvision's ImageFolder).

    Examples:
        >>> class_order({"10", "9"}), class_order({"dog", "Cat"})
        (('9', '10'), ('Cat', 'dog'))
    """
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _build(
    where: str,
    survey: surveys.Survey,
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    role: NDArray[np.str_],
    notes: list[str],
) -> Data:
    """Put the splits together and take their fingerprint."""
    channels = 1 if bool(survey.grey.all()) else 3
    lines = (
        json.dumps([item.key, names[label], str(split), digest]) + "\n"
        for item, label, split, digest in zip(survey.items, labels, role, survey.hashes, strict=True)
    )
    fingerprint = sha256("".join(lines).encode()).hexdigest()
    kept = _Kept(survey.kept)
    everything = Split(
        "all",
        [item.key for item in survey.items],
        labels,
        np.arange(len(labels), dtype=np.int64),
        survey.hashes,
        survey.sizes,
        channels,
        survey.source,
        [item.place for item in survey.items],
        kept,
    )
    train, val, test = (
        replace(everything.subset(np.flatnonzero(role == split)), name=split) for split in SPLITS
    )
    bad = tuple(survey.bad)
    return Data(where, survey.source.kind, names, channels, train, val, test, bad, fingerprint, tuple(notes))
