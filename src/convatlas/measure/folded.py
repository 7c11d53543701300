"""A measurement with less detail: the rows of a block or of a stage summed into one.

Levels are read from the names of modules: `features.conv2_x.0.residual.conv1` lies in the stage `features.conv2_x` and
its block `features.conv2_x.0`. A container in the plural is no level of its own: `features.conv2_x`, `stages.0` and
`blocks.3` count one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.cost import UNUSED, Measurement, Row

LEVELS: Mapping[str, int | None] = {"stage": 1, "block": 2, "layer": None}


@dataclass(frozen=True, slots=True)
class Group:
    """A row that stands for those of the module `row.name`, in call order: its sums, and what they are made of."""

    row: Row
    members: tuple[Row | Group, ...]


def read_depth(text: str | None) -> int | None:
    """What `--depth` says: "stage" is 1, "block" 2, "layer" and nothing are all levels. Raises `UsageError`.

    Examples:
        >>> read_depth("block"), read_depth("3"), read_depth("layer")
        (2, 3, None)
    """
    if text is None or text in LEVELS:
        return None if text is None else LEVELS[text]
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise UsageError(f"--depth {text!r}: stage, block, layer, or a number of levels from 1 on is expected.")


def fold(measurement: Measurement, depth: int | None, model: nn.Module | None = None) -> Measurement:
    """The same sums in fewer rows: what lies deeper than `depth` levels is summed; None leaves it as it is.

    `model` gives the classes of the modules that are summed. A module that is called twice, with others between, keeps
    a row for each time.
    """
    if depth is None:
        return measurement
    rows: list[Row] = []
    for member in tree(measurement, model):
        rows += _cut(member, depth)
    return replace(measurement, rows=tuple(rows))


def _cut(member: Row | Group, depth: int) -> Iterator[Row]:
    if isinstance(member, Row):
        yield member
    elif len(levels(member.row.name)) >= depth:
        yield member.row
    else:
        for inner in member.members:
            yield from _cut(inner, depth)


def tree(measurement: Measurement, model: nn.Module | None = None) -> tuple[Row | Group, ...]:
    """The rows as the modules hold one another. A module with one row alone is that row."""
    classes = {} if model is None else {name: type(module).__name__ for name, module in model.named_modules()}
    return tuple(_grouped(list(measurement.rows), 0, classes))


def _grouped(rows: list[Row], depth: int, classes: Mapping[str, str]) -> Iterator[Row | Group]:
    """`rows` lie in one module, whose name has `depth` levels."""

    def key(row: Row) -> tuple[bool, tuple[str, ...]]:
        """Rows of one part have the same; weights that evaluation does not use stay apart."""
        return row.kind == UNUSED, levels(module_of(row))[: depth + 1]

    for (_, path), found in groupby(rows, key):
        members = list(found)
        if len(path) <= depth:  # operations of the module itself
            yield from members
        elif len(members) == 1:
            yield members[0]
        else:
            name = ".".join(path)
            inner = tuple(_grouped(members, depth + 1, classes))
            yield Group(_sum(name, members, classes.get(name, "")), inner)


def module_of(row: Row) -> str:
    """The module that a row belongs to: that of `layer1.0 (add)` is `layer1.0`; a row of the network's own has none.

    Examples:
        >>> module_of(Row("layer1.0 (add)", "add", (64, 56, 56), 0, 0, 0, 0))
        'layer1.0'
    """
    name = row.name.partition("(")[0].rstrip()
    return name.rpartition(".")[0] if row.kind == UNUSED else name


def levels(name: str) -> tuple[str, ...]:
    """The parts of a module's name that count as levels.

    Examples:
        >>> levels("features.conv2_x.0.residual.conv1"), levels("stages.0.blocks.1.conv")
        (('features.conv2_x', '0', 'residual', 'conv1'), ('stages.0', 'blocks.1', 'conv'))
    """
    found: list[str] = []
    plural = False
    for part in name.split(".") if name else ():
        if plural:
            found[-1] += f".{part}"
        else:
            found.append(part)
        plural = not plural and len(part) > 2 and part.endswith("s") and not part.endswith("ss")
    return tuple(found)


def _sum(name: str, rows: list[Row], kind: str) -> Row:
    """Sums of the counts; shape and receptive field of what comes out last."""
    last = rows[-1]
    kind = UNUSED if last.kind == UNUSED else kind or f"{len(rows)} rows"
    columns = ("params", "trainable", "macs", "operations", "activations", "activation_bytes")
    sums: dict[str, Any] = {column: sum(getattr(row, column) for row in rows) for column in columns}
    sums["unknown"] = tuple(sorted({name for row in rows for name in row.unknown}))
    return replace(last, name=name, kind=kind, **sums)
