"""One measurement, printed: for a terminal, as plain text, Markdown, HTML rows or JSON.

`cells` makes the words once; every style only sets them. `facts` puts a network's sums beside the figures
that its paper printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from rich.table import Table
from rich.text import Text

from convatlas.measure.cost import Measurement, Row
from convatlas.registry import Spec

HEADER = ("layer", "what", "output", "parameters", "MACs", "memory")
_NUMBERS = 2  # columns from here on are set flush right
IN_PLACE = "in place"


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


def cells(measurement: Measurement) -> list[list[str]]:
    """The words of the table: a list for every row, the last one the sums, in the order of `HEADER`."""
    rows = [_cells(row) for row in measurement.rows]
    total = ["total", "", "", f"{measurement.params:,}", f"{measurement.macs:,}"]
    return [*rows, [*total, bytes_text(measurement.activation_bytes)]]


def _cells(row: Row) -> list[str]:
    memory = bytes_text(row.activation_bytes) if row.activations else IN_PLACE if row.output_shape else ""
    counts = [f"{count:,}" if count else "" for count in (row.params, row.macs)]
    return [row.name, row.kind, shape_text(row.output_shape), *counts, memory]


def facts(measurement: Measurement, spec: Spec | None = None) -> list[tuple[str, str, str]]:
    """What, measured here, and as the paper printed it ("" where it did not): the head of a description."""
    published, unused = spec.published if spec is not None else None, measurement.unused_params
    figures: list[tuple[str, str, str | None]] = [
        ("input", shape_text(measurement.input_shape), ""),
        ("parameters", f"{measurement.params - unused:,}", published and published.params),
        ("parameters unused in evaluation", f"{unused:,}" if unused else "", ""),
        ("MACs", f"{measurement.macs:,}", published and published.macs),
        ("activations", f"{measurement.activations:,}", ""),
        ("activation memory", bytes_text(measurement.activation_bytes), ""),
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


def rich_facts(measurement: Measurement, spec: Spec | None = None) -> Table:
    """`facts` for a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("measured here", justify="right")
    table.add_column("published", justify="right")
    for row in facts(measurement, spec):
        table.add_row(*row)
    return table


def rich_table(measurement: Measurement) -> Table:
    """The rows for a terminal; names are folded, never cut."""
    table = Table(header_style="bold", show_footer=True, pad_edge=False, box=None)
    *rows, total = cells(measurement)
    for index, (title, foot) in enumerate(zip(HEADER, total, strict=True)):
        justify, fixed = ("right", True) if index >= _NUMBERS else ("left", False)
        table.add_column(title, foot, justify=justify, no_wrap=fixed, overflow="fold", footer_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def text(measurement: Measurement) -> str:
    """The rows in columns of plain text."""
    lines = [list(HEADER), *cells(measurement)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(HEADER))]
    rule = "  ".join("-" * width for width in widths)
    printed = ["  ".join(_set(cell, width, index) for index, (cell, width) in enumerate(zip(line, widths, strict=True)))
               for line in lines]  # fmt: skip
    return "\n".join(line.rstrip() for line in [printed[0], rule, *printed[1:-1], rule, printed[-1]]) + "\n"


def _set(cell: str, width: int, index: int) -> str:
    return cell.rjust(width) if index >= _NUMBERS else cell.ljust(width)


def markdown(measurement: Measurement) -> str:
    """The rows as a Markdown table, the sums in bold."""
    *rows, total = [[cell.replace("|", "\\|") for cell in line] for line in cells(measurement)]
    marks = ["---:" if index >= _NUMBERS else "---" for index in range(len(HEADER))]
    lines = [list(HEADER), marks, *rows, [f"**{cell}**" if cell else "" for cell in total]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def html_rows(measurement: Measurement) -> str:
    """The rows as `<tr>` elements, every word escaped; the sums carry the class "total"."""
    *rows, total = [
        "".join(
            f'<td class="{"n" if i >= _NUMBERS else "w"}">{escape(cell)}</td>' for i, cell in enumerate(line)
        )
        for line in cells(measurement)
    ]
    return "\n".join([*(f"<tr>{row}</tr>" for row in rows), f'<tr class="total">{total}</tr>'])


def to_json(measurement: Measurement) -> str:
    """Sums and rows as JSON with exact numbers."""
    return json.dumps(measurement.to_json(), indent=2) + "\n"
