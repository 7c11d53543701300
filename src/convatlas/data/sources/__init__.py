"""Kinds of sources, a file each; `open_source` finds out which one a path is."""

from __future__ import annotations

import os
from pathlib import Path

from convatlas.data.sources.archive import Tar, Zip, is_tar, is_zip
from convatlas.data.sources.digits import Digits
from convatlas.data.sources.folder import Folder
from convatlas.data.sources.idx import Idx, idx_files
from convatlas.data.sources.shards import Shards, expand, is_pattern, is_shard, shard_files
from convatlas.data.sources.source import SPLITS, BadFile, Item, Listing, Source, printable
from convatlas.data.sources.table import Table
from convatlas.errors import DataError, did_you_mean

__all__ = ["SPLITS", "BadFile", "Item", "Listing", "Source", "open_source"]

KINDS = (
    "digits, a folder of images, a zip or tar of one, a folder of MNIST idx files, a CSV (path,label), "
    "or shards ('shards/{0000..0099}.tar', in quotes)"
)


def open_source(where: str | Path, group_column: str = "group", *, apart: bool = False) -> Source:
    """The source at `where`. Raises `DataError` that says what was expected, and what is near.

    `group_column`: the column of a CSV that tells groups apart. `apart`: shards may lie on another machine.
    """
    name = os.fspath(where)
    if name == "digits":
        return Digits(name)
    path, shown = Path(name), printable(name)
    try:
        if is_pattern(name):
            return Shards(name, expand(name), apart=apart)
        if path.is_dir():
            if idx_files(path):
                return Idx(name)
            return Shards(name, shards, apart=apart) if (shards := shard_files(path)) else Folder(name)
        if path.is_file():
            return _file(name, path, group_column)
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror}.") from error
    if os.path.exists(path):
        raise DataError(f"{shown} is neither a folder nor a file. Data are {KINDS}.")
    raise DataError(f"{shown} does not exist.{_siblings(path)} Data are {KINDS}.")


def _file(name: str, path: Path, group_column: str) -> Source:
    if path.suffix.casefold() in (".csv", ".tsv"):
        return Table(name, group_column)
    with open(path, "rb") as file:
        head = file.read(1024)
    if is_zip(head):
        return Zip(name)
    if is_tar(head):
        return Shards(name, [name]) if is_shard(name, head) else Tar(name)
    raise DataError(f"{printable(name)} is a file of another kind. Data are {KINDS}.")


def _siblings(path: Path) -> str:
    try:
        near = [printable(child.name) for child in path.parent.iterdir()]
    except (OSError, ValueError):
        return "" if path.parent.exists() else f" Nor does {printable(str(path.parent))}."
    return did_you_mean(path.name, [*near, "digits"])
