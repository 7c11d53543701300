"""A CSV with the columns `path` and `label`, and, if wanted, `split` and `group`.

Paths are relative to the CSV's folder and must stay inside. A row that cannot be used is listed by its
line number; the rows around it are read.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from convatlas.data.sources.folder import Folder
from convatlas.data.sources.layout import SPLIT_NAMES
from convatlas.data.sources.source import BadFile, Item, Listing, counted, printable
from convatlas.errors import DataError
from convatlas.files import open_untrusted

MAX_TABLE_BYTES = 2**30
COLUMNS = ("path", "label")


class Table(Folder):
    """Samples named by a table; a sample's place is its path relative to the table's folder."""

    kind = "table"

    def __init__(self, where: str, group_column: str = "group") -> None:
        super().__init__(os.path.dirname(where) or ".")
        self.where, self.group_column = where, group_column

    def listing(self) -> Listing:
        """Read the table; files are looked at later. Raises `DataError` for a table without its columns."""
        listing, seen = Listing(), dict[str, int]()
        with open_untrusted(Path(self.where), max_bytes=MAX_TABLE_BYTES) as raw:
            import io

            text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
            for line, row in self._rows(text, listing):
                if fault := _fault(row):
                    listing.bad.append(BadFile(self._line(line), "malformed row", fault))
                    continue
                path = os.path.normpath(row["path"])
                key = printable(path.replace(os.sep, "/"))
                if os.path.isabs(path) or path.split(os.sep)[0] == "..":
                    listing.bad.append(
                        BadFile(key, "unsafe name", f"line {line}: outside the table's folder")
                    )
                elif path in seen:
                    first = f"line {line}: line {seen[path]} has it already"
                    listing.bad.append(BadFile(key, "listed twice", first))
                else:
                    seen[path] = line
                    split = SPLIT_NAMES.get(row.get("split", "").strip().casefold(), "")
                    group = row.get(self.group_column, "").strip()
                    listing.items.append(Item(key, printable(row["label"].strip()), path, split, group))
        if not listing.items:
            told = (
                f" {counted(len(listing.bad), 'row is', 'rows are')} malformed: {listing.bad[0]}."
                if listing.bad
                else ""
            )
            raise DataError(f"{self.name} names no image.{told}")
        listing.items.sort(key=lambda item: item.key)
        listing.bad.sort()
        return listing

    def _line(self, line: int) -> str:
        return f"{printable(os.path.basename(self.where))}, line {line}"

    def _rows(self, text: TextIO, listing: Listing) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, row by column) of every row that has as many cells as the header."""
        tab = self.where.casefold().endswith(".tsv")
        reader = csv.reader(text, delimiter="\t" if tab else ",", strict=True)
        header: list[str] | None = None
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                listing.bad.append(BadFile(self._line(reader.line_num), "malformed row", str(error)))
                continue
            if header is None:
                header = [cell.strip().casefold() for cell in cells]
                self._check(header)
            elif len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            elif cells:
                told = f"{len(cells)} cells; the header has {len(header)}"
                listing.bad.append(BadFile(self._line(reader.line_num), "malformed row", told))
        if header is None:
            raise DataError(f"{self.name} is empty. Its first line must be: path,label")

    def _check(self, header: list[str]) -> None:
        missing = [column for column in COLUMNS if column not in header]
        if missing or len(set(header)) < len(header):
            shown = ",".join(printable(cell) for cell in header)[:100]
            raise DataError(
                f"{self.name} begins with {shown!r}; its first line must name the columns path and label "
                "(and split and group, if wanted), each once."
            )
        if self.group_column != "group" and self.group_column not in header:
            raise DataError(
                f"{self.name} has no column {self.group_column!r} to group by; it has {', '.join(header)}."
            )
        self.columns = tuple(header)


def _fault(row: dict[str, str]) -> str:
    """What is wrong with a row, or nothing."""
    if not row["path"].strip():
        return "no path"
    if "\0" in row["path"]:
        return "a path with a NUL"
    if not row["label"].strip():
        return "no label"
    split = row.get("split")
    if split is not None and split.strip().casefold() not in SPLIT_NAMES:
        return f"split {split!r}; expected train, val or test"
    return ""
