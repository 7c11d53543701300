"""One measurement, printed: for a terminal, as plain text, Markdown, HTML rows, CSV or JSON.

`COLUMNS` makes the words once; every style only sets them. `facts` puts a network's sums beside the figures that its
paper printed. What nobody can count is "?", and sums with it are at least (">=") what is printed: `doubts` says why.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

from convatlas.measure.cost import Measurement, Row
from convatlas.registry import Spec

IN_PLACE = "in place"


def visible(text: str) -> str:
    r"""A name with everything escaped that would break a line or that a terminal would obey.

    Examples:
        >>> visible("new\nline")
        'new\\nline'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def csv_cell(text: str) -> str:
    """A name as a cell of CSV: a spreadsheet takes one that begins like a formula for a formula.

    Examples:
        >>> csv_cell("=cmd()"), csv_cell("conv1")
        ("'=cmd()", 'conv1')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def bytes_text(count: int) -> str:
    """A size for people: "512 B", "12.3 MiB".

    Examples:
        >>> bytes_text(60_950_432)
        '58.1 MiB'
    """
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def count_text(count: int) -> str:
    """A count for people, three digits: "61.7 k", "138 M", "15.5 G".

    Examples:
        >>> count_text(138_357_544), count_text(61_706), count_text(999)
        ('138 M', '61.7 k', '999')
    """
    size, units = float(count), ["", " k", " M", " G", " T"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    digits = 0 if not units[0] or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f}{units[0]}"


def shape_text(shape: Sequence[int]) -> str:
    """(64, 112, 112) as "64 x 112 x 112"."""
    return " x ".join(str(side) for side in shape)


@dataclass(frozen=True, slots=True)
class Column:
    """A title, the words of a row and those under the sums; numbers are set flush right.

    `wanted` says of a measurement whether the column tells something, `wide` that it is for wide pages alone.
    """

    title: str
    of_row: Callable[[Row], str]
    of_sums: Callable[[Measurement], str] = lambda measurement: ""
    number: bool = True
    wide: bool = False
    wanted: Callable[[Measurement], bool] = lambda measurement: True


def _counted(count: int, row: Row, sign: str = "") -> str:
    """A count of operations; "?" where some of them are unknown and the others none."""
    if row.unknown:
        return f">= {count:,}" if count else "?"
    return f"{count:,}" if count else sign


def _activations(row: Row) -> str:
    return f"{row.activations:,}" if row.activations else IN_PLACE if row.output_shape else ""


def _at_least(count: int, measurement: Measurement) -> str:
    return f">= {count:,}" if measurement.unknown else f"{count:,}"


COLUMNS = (
    Column("layer", lambda row: visible(row.name), lambda cost: "total", number=False),
    Column("what", lambda row: visible(row.kind), number=False),
    Column("output", lambda row: shape_text(row.output_shape)),
    Column("parameters", lambda row: _dashed(row.params), lambda cost: f"{cost.params:,}"),
    Column("frozen", lambda row: _dashed(row.params - row.trainable), lambda cost: f"{frozen(cost):,}",
           wanted=lambda cost: frozen(cost) > 0),
    Column("MACs", lambda row: _counted(row.macs, row), lambda cost: _at_least(cost.macs, cost)),
    Column("other operations", lambda row: _counted(row.operations, row),
           lambda cost: _at_least(cost.operations, cost), wide=True, wanted=lambda cost: cost.operations > 0),
    Column("activations", _activations, lambda cost: f"{cost.activations:,}"),
    Column("memory", lambda row: bytes_text(row.activation_bytes) if row.activations else "",
           lambda cost: bytes_text(cost.activation_bytes), wide=True),
    Column("field", lambda row: str(row.field or ""),
           wanted=lambda cost: any(row.field for row in cost.rows)),
)  # fmt: skip


def _dashed(count: int) -> str:
    return f"{count:,}" if count else ""


def columns(measurement: Measurement, *, wide: bool = False) -> list[Column]:
    """The columns that tell something of this measurement; `wide` for pages, without it for terminals."""
    return [column for column in COLUMNS if column.wanted(measurement) and (wide or not column.wide)]


def header(measurement: Measurement, *, wide: bool = False) -> list[str]:
    """Titles of `cells`."""
    return [column.title for column in columns(measurement, wide=wide)]


def cells(measurement: Measurement, *, wide: bool = False) -> list[list[str]]:
    """The words of the table: a list for every row, the last one the sums, in the order of `header`."""
    shown = columns(measurement, wide=wide)
    rows = [[column.of_row(row) for column in shown] for row in measurement.rows]
    return [*rows, [column.of_sums(measurement) for column in shown]]


def frozen(measurement: Measurement) -> int:
    """Parameters that training would leave as they are."""
    return measurement.params - measurement.trainable


def doubts(measurement: Measurement) -> list[str]:
    """Sentences on what is not in the sums, and on receptive fields that are not known or not centred."""
    said: list[str] = []
    if measurement.unknown:
        where = _some([row.name for row in measurement.rows if row.unknown])
        said.append(
            f"Not counted, because nothing is known of them: {', '.join(measurement.unknown)}, in {where}. "
            "The sums are at least what is printed."
        )
    lost = next((row for row in measurement.rows if row.field and row.field.unknown), None)
    if lost is not None and lost.field is not None:
        said.append(
            f'"?" as a receptive field: no rule follows it through "{lost.field.unknown}" in '
            f"{lost.name.partition(' (')[0]}, nor through what comes after."
        )
    apart = {row.name: row.field.apart for row in measurement.rows if row.field and row.field.apart}
    if apart:
        said.append(
            f"Branches whose units look at different places are joined, up to {max(apart.values()):g} px apart, "
            f"in {_some(list(apart))}: the receptive field holds them all."
        )
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(visible, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def facts(measurement: Measurement, spec: Spec | None = None) -> list[tuple[str, str, str]]:
    """What, measured here, and as the paper printed it ("" where it did not): the head of a description."""
    published, unused = spec.published if spec is not None else None, measurement.unused_params
    figures: list[tuple[str, str, str | None]] = [
        ("input", shape_text(measurement.input_shape), ""),
        ("parameters", f"{measurement.params - unused:,}", published and published.params),
        ("parameters unused in evaluation", f"{unused:,}" if unused else "", ""),
        ("frozen parameters", _dashed(frozen(measurement)), ""),
        ("MACs", _at_least(measurement.macs, measurement), published and published.macs),
        (
            "other operations",
            _at_least(measurement.operations, measurement) if measurement.operations else "",
            "",
        ),
        ("activations", f"{measurement.activations:,}", ""),
        ("activation memory", bytes_text(measurement.activation_bytes), ""),
        ("receptive field", _field_text(measurement), ""),
    ]
    if published is not None:
        test = f" ({published.test})" if published.test else ""
        figures += [
            ("weight layers", "", str(published.layers or "")),
            (f"error{test}", "", published.error_pct and f"{published.error_pct} %"),
            (f"top-1 error{test}", "", published.top1_error_pct and f"{published.top1_error_pct} %"),
            (f"top-5 error{test}", "", published.top5_error_pct and f"{published.top5_error_pct} %"),
        ]
        for layer, printed in published.params_by_layer.items():
            inside = (row.params for row in measurement.rows if f"{row.name}.".startswith(f"{layer}."))
            figures.append((f"parameters of {layer}", f"{sum(inside):,}", printed))
        for layer, printed in published.macs_by_layer.items():
            inside = (row.macs for row in measurement.rows if f"{row.name}.".startswith(f"{layer}."))
            figures.append((f"MACs of {layer}", f"{sum(inside):,}", printed))
        figures += [
            (f"error ({test})", "", f"{error} %") for test, error in published.other_errors_pct.items()
        ]
    return [(what, ours, paper or "") for what, ours, paper in figures if ours or paper]


def _field_text(measurement: Measurement) -> str:
    """Size and stride of the last map that sees part of the image alone."""
    field = measurement.field
    if field is None or field.unknown:
        return ""
    strides = list(dict.fromkeys(str(step) for step in field.stride if step is not None))
    return f"{field}, stride {' x '.join(strides)}"


def rich_facts(measurement: Measurement, spec: Spec | None = None) -> Table:
    """`facts` for a terminal."""
    rows = facts(measurement, spec)
    printed = any(paper for _, _, paper in rows)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("measured here", justify="right")
    if printed:
        table.add_column("published", justify="right")
    for row in rows:
        table.add_row(*map(Text, row if printed else row[:2]))
    return table


def rich_table(measurement: Measurement) -> Table:
    """The rows for a terminal; names are folded, never cut."""
    table = Table(header_style="bold", show_footer=True, pad_edge=False, box=None)
    *rows, total = cells(measurement)
    for column, foot in zip(columns(measurement), total, strict=True):
        justify, fixed = ("right", True) if column.number else ("left", False)
        table.add_column(
            column.title, foot, justify=justify, no_wrap=fixed, overflow="fold", footer_style="bold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def text(measurement: Measurement) -> str:
    """The rows in columns of plain text."""
    shown = columns(measurement)
    lines = [header(measurement), *cells(measurement)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(shown))]
    rule = "  ".join("-" * width for width in widths)

    def line(words: Sequence[str]) -> str:
        set_ = (
            word.rjust(width) if column.number else word.ljust(width)
            for word, width, column in zip(words, widths, shown, strict=True)
        )
        return "  ".join(set_).rstrip()

    printed = [line(words) for words in lines]
    return "\n".join([printed[0], rule, *printed[1:-1], rule, printed[-1]]) + "\n"


def markdown(measurement: Measurement) -> str:
    """The rows as a Markdown table, the sums in bold."""
    *rows, total = [[cell.replace("|", "\\|") for cell in line] for line in cells(measurement)]
    marks = ["---:" if column.number else "---" for column in columns(measurement)]
    lines = [header(measurement), marks, *rows, [f"**{cell}**" if cell else "" for cell in total]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def html_rows(measurement: Measurement) -> str:
    """The rows as `<tr>` elements, every word escaped; the sums carry the class "total"."""
    shown = columns(measurement)
    *rows, total = [
        "".join(
            f'<td class="{"n" if column.number else "w"}">{escape(cell)}</td>'
            for column, cell in zip(shown, line, strict=True)
        )
        for line in cells(measurement)
    ]
    return "\n".join([*(f"<tr>{row}</tr>" for row in rows), f'<tr class="total">{total}</tr>'])


def to_csv(measurement: Measurement) -> str:
    """The rows with exact numbers, without sums: a line each, after one with the names of `Row`'s fields."""
    written = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(names)
    for row in measurement.rows:
        writer.writerow([_plain(name, getattr(row, name)) for name in names])
    return written.getvalue()


def _plain(name: str, value: Any) -> object:
    """What a cell of a CSV file can hold: (64, 112, 112) is "64x112x112"."""
    if isinstance(value, tuple):
        return (" " if name == "unknown" else "x").join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return "" if value is None else value if isinstance(value, (int, float)) else csv_cell(str(value))


def to_json(measurement: Measurement) -> str:
    """Sums and rows as JSON with exact numbers."""
    return json.dumps(measurement.to_json(), indent=2) + "\n"
