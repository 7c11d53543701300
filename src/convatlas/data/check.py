"""What is wrong with a data set, before a network learns it: `convatlas data check`.

Every bad file stands once in the list, with its reason. Beside them stand findings about the set:

=====================  ========  ====================================================================
kind                   level     what it says
=====================  ========  ====================================================================
contradiction          error     files of equal content in two classes
leak                   error     files of equal content in two splits
group leak             error     a group (a patient, a scene) in two given splits
near leak              warning   pictures that look alike in two splits (a judgement: `data.similar`)
duplicate              warning   files of equal content in one class and split
empty class            warning   a class folder without an image
one image              warning   a class of one image in the whole set
missing class          warning   a class that a given split lacks
names alike            warning   classes or files that differ only in case or Unicode's form
=====================  ========  ====================================================================

A set is in order (`ok`) without bad files and without errors; warnings are for a person to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convatlas.data.dataset import class_order, size_summary
from convatlas.data.groups import group_column, group_names, group_pattern, torn_groups
from convatlas.data.similar import components, equal, near_duplicates
from convatlas.data.sources import SPLITS, BadFile, open_source
from convatlas.data.sources.source import alike, counted, printable
from convatlas.data.survey import Survey, survey

_KEYS = 4  # that a finding's sentence names
SHOWN = 20  # lines of one list on a terminal; JSON has them all


class Finding(NamedTuple):
    """Something about the set: `keys` are the files or classes that it is about."""

    level: Literal["error", "warning"]
    kind: str
    message: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """The result of looking at every file of `where`."""

    where: str
    kind: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split ("all" where there is one level) -> class -> images
    sizes: dict[str, list[int]]
    channels: int
    bad: tuple[BadFile, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """No bad file and no error among the findings."""
        return not self.bad and all(finding.level != "error" for finding in self.findings)

    @property
    def images(self) -> int:
        """Images that can be used."""
        return sum(sum(split.values()) for split in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON; the time it took is left out, so equal data give equal text."""
        return {
            "where": self.where,
            "kind": self.kind,
            "ok": self.ok,
            "images": self.images,
            "classes": list(self.classes),
            "counts": self.counts,
            "sizes": self.sizes,
            "channels": self.channels,
            "bad": [one._asdict() for one in self.bad],
            "findings": [{**one._asdict(), "keys": list(one.keys)} for one in self.findings],
            "notes": list(self.notes),
        }

    def render(self, console: Console) -> None:
        """Print it for a reader."""
        state = "[green]in order[/]" if self.ok else "[red]not in order[/]"
        colour = "grey" if self.channels == 1 else "colour"
        console.print(
            f"[bold]{escape(self.where)}[/] ({self.kind}): {counted(self.images, 'image')} in "
            f"{counted(len(self.classes), 'class', 'classes')}, {colour}, {state} ({self.seconds:.1f} s)"
        )
        least, middle, most = (" x ".join(map(str, self.sizes[name])) for name in ("min", "median", "max"))
        console.print(f"sizes: least {least}, median {middle}, largest {most}")
        console.print(self._count_table())
        if self.bad:
            table = Table(
                title=counted(len(self.bad), "bad file"), title_justify="left", title_style="bold red"
            )
            for column in ("file", "reason", "detail"):
                table.add_column(column, overflow="fold")
            for one in self.bad[:SHOWN]:
                table.add_row(*(escape(str(value)) for value in one))
            console.print(table)
            _more(console, len(self.bad))
        for finding in self.findings[:SHOWN]:
            style = "red" if finding.level == "error" else "yellow"
            console.print(f"[{style}]{finding.level}[/]: {escape(finding.message)}")
        _more(console, len(self.findings))
        for note in self.notes:
            console.print(f"note: {escape(note)}")

    def _count_table(self) -> Table:
        table = Table(title="images per class", title_justify="left")
        table.add_column("class", overflow="fold")
        for split in self.counts:
            table.add_column(split, justify="right")
        for name in self.classes[:SHOWN]:
            table.add_row(escape(name), *(f"{split.get(name, 0):,}" for split in self.counts.values()))
        if len(self.classes) > SHOWN:
            table.add_row(f"... {len(self.classes) - SHOWN} more", *("" for _ in self.counts))
        table.add_row("all", *(f"{sum(split.values()):,}" for split in self.counts.values()), style="bold")
        return table


def _more(console: Console, count: int) -> None:
    if count > SHOWN:
        console.print(f"... and {count - SHOWN} more (all are in the JSON)")


def check(
    where: str | Path,
    *,
    workers: int | None = None,
    group_by: str | None = None,
    survey_of: Survey | None = None,
) -> Check:
    """Read and decode every file of `where` and say what is wrong with it.

    `workers`: processes that decode; chosen if None. `group_by`: what belongs together, as in `open_data`; a
    CSV's column "group" counts by itself. `survey_of`: a survey that was made before.

    Raises `DataError` where there is nothing to look at, `UsageError` for a `group_by` that names no group.
    """
    source = survey_of.source if survey_of is not None else open_source(where, group_column(group_by))
    group_pattern(source, group_by)  # what is wrong with it is said before every file is read
    seen = survey_of if survey_of is not None else survey(source, workers=workers)
    groups = group_names(seen.source, seen.items, group_by)
    counts: dict[str, Counter[str]] = {}
    for item in seen.items:
        counts.setdefault(item.split or "all", Counter())[item.label] += 1
    ordered = [split for split in (*SPLITS, "all") if split in counts]
    names = class_order({item.label for item in seen.items} | {label for _, label in seen.listing.folders})
    return Check(
        where=seen.source.name,
        kind=seen.source.kind,
        classes=names,
        counts={
            split: {name: counts[split][name] for name in names if counts[split][name]} for split in ordered
        },
        sizes=size_summary(seen.sizes),
        channels=1 if len(seen.grey) and bool(seen.grey.all()) else 3,
        bad=tuple(seen.bad),
        findings=tuple(_findings(seen, groups, names, counts)),
        notes=tuple(seen.listing.notes),
        seconds=seen.seconds,
    )


def _findings(
    seen: Survey, groups: Sequence[str], names: Sequence[str], counts: dict[str, Counter[str]]
) -> list[Finding]:
    found = [*_copies(seen), *_group_leaks(seen, groups), *_near_leaks(seen)]
    total = Counter(item.label for item in seen.items)
    splits = [split for split in SPLITS if split in counts]
    for name in names:
        if not total[name]:
            found.append(Finding("warning", "empty class", f"class {name!r} has no image", (name,)))
        elif total[name] == 1:
            found.append(Finding("warning", "one image", f"class {name!r} has one image", (name,)))
    found += [
        Finding("warning", "missing class", f"{split} has no image of class {name!r}", (name,))
        for split in splits
        for name in names
        if total[name] and not counts[split][name]
    ]
    for what, group in [
        *(("classes", group) for group in alike(names)),
        *(("files", group) for group in alike(item.key for item in seen.items)),
    ]:
        told = f"{what} differ only in case or Unicode form: {', '.join(map(ascii, group))}"
        found.append(Finding("warning", "names alike", told, group))
    return sorted(found, key=lambda finding: finding.level)


def _copies(seen: Survey) -> Iterable[Finding]:
    """Files of equal content: in two classes, in two splits, or just twice."""
    same: dict[str, list[int]] = {}
    for row, digest in enumerate(seen.hashes):
        same.setdefault(digest, []).append(row)
    for rows in same.values():
        if len(rows) < 2:
            continue
        items = [seen.items[row] for row in rows]
        keys = tuple(item.key for item in items)
        shown = _some(keys)
        labels, splits = sorted({item.label for item in items}), sorted({item.split for item in items})
        if len(labels) > 1:
            yield Finding(
                "error", "contradiction", f"the same file in classes {', '.join(labels)}: {shown}", keys
            )
        if len(splits) > 1:
            yield Finding("error", "leak", f"the same file in {' and '.join(splits)}: {shown}", keys)
        if len(labels) == len(splits) == 1:
            yield Finding("warning", "duplicate", f"the same file {len(keys)} times: {shown}", keys)


def _group_leaks(seen: Survey, groups: Sequence[str]) -> Iterable[Finding]:
    """Groups that the source gives to several splits; one key of every split is named first."""
    for group, places in torn_groups(seen.items, groups).items():
        rows = [rows[0] for rows in places.values()] + [row for rows in places.values() for row in rows[1:]]
        shown = _some([seen.items[row].key for row in rows])
        keys = tuple(seen.items[row].key for row in sorted(rows))
        told = f"group {printable(group)} in {' and '.join(places)}: {shown}"
        yield Finding("error", "group leak", told, keys)


def _some(keys: Sequence[str]) -> str:
    """The first few keys, and how many more there are."""
    return ", ".join(keys[:_KEYS]) + (f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else "")


def _near_leaks(seen: Survey) -> Iterable[Finding]:
    """Families of pictures that look alike and lie in two splits, without equal files among them."""
    splits = np.array([item.split for item in seen.items], dtype="U5")
    if len(set(splits.tolist())) < 2:
        return
    unit = components(len(splits), equal(seen.hashes), near_duplicates(seen.thumbs, seen.sizes))
    order = np.argsort(unit, kind="stable")
    families: list[list[int]] = [
        rows.tolist() for rows in np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)
    ]
    for rows in families:
        several = len(rows) > 1 and len(set(splits[rows].tolist())) > 1
        if several and len({seen.hashes[row] for row in rows}) > 1:
            keys = tuple(seen.items[row].key for row in rows)
            where = " and ".join(sorted(set(splits[rows].tolist())))
            shown = _some(keys)
            yield Finding("warning", "near leak", f"pictures that look alike in {where}: {shown}", keys)
