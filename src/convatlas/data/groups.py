"""Groups: samples that belong together, such as the pictures of one patient or of one scene.

What the user says is either the column of a CSV or a regular expression with one group, matched on a
sample's key. A sample without a name of a group belongs to none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from convatlas.data.sources import SPLITS, Item, Source
from convatlas.data.sources.table import Table
from convatlas.errors import UsageError


def group_column(group_by: str | None) -> str:
    """The column of a CSV that `group_by` may name."""
    return group_by if group_by and re.fullmatch(r"\w+", group_by) else "group"


def group_pattern(source: Source, group_by: str | None) -> re.Pattern[str] | None:
    """The expression that names groups; None where a column does. Raises `UsageError` if it is not one."""
    if group_by is None or (isinstance(source, Table) and group_by == source.group_column):
        return None
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UsageError(f"group_by {group_by!r} is no regular expression: {error}.") from error
    if pattern.groups != 1:
        raise UsageError(
            f"group_by {group_by!r} has {pattern.groups} groups; expected is one, as in 'patient(\\d+)'."
        )
    return pattern


def group_names(source: Source, items: Sequence[Item], group_by: str | None) -> list[str]:
    """The name of each sample's group, or nothing. Raises `UsageError` if no sample has one."""
    pattern = group_pattern(source, group_by)
    if pattern is None:
        groups = [item.group for item in items]
    else:
        groups = [match[1] or "" if (match := pattern.search(item.key)) else "" for item in items]
    if group_by is not None and items and not any(groups):
        raise UsageError(
            f"group_by {group_by!r} names no group; a sample's key is, for instance, {items[0].key!r}."
        )
    return groups


def torn_groups(items: Sequence[Item], groups: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Groups that the source itself puts into several splits: group -> split -> rows of `items`."""
    rows: dict[str, dict[str, list[int]]] = {}
    for row, (item, group) in enumerate(zip(items, groups, strict=True)):
        if group and item.split:
            rows.setdefault(group, {}).setdefault(item.split, []).append(row)
    return {
        group: {split: where[split] for split in SPLITS if split in where}
        for group, where in sorted(rows.items())
        if len(where) > 1
    }
