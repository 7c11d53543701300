"""Networks side by side: what each costs, and what is known of its error, with the test that gave it.

Errors of different tests cannot be compared: one crop is not ten, and the validation set of a contest is not your
images. So an error here always carries its test and where it comes from, and a best line is drawn within one test only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

from convatlas.errors import UsageError
from convatlas.measure.cost import Measurement
from convatlas.measure.table import count_text
from convatlas.registry import Published, Spec

Metric = Literal["top1", "top5"]
Axis = Literal["params", "macs", "ms"]
METRICS = {"top1": "top-1 error", "top5": "top-5 error"}
AXES = {"params": "parameters", "macs": "multiply-adds", "ms": "milliseconds"}
_SPELLINGS = ((r"\b(1|one)[ -]crops?\b", "1-crop"),)


@dataclass(frozen=True, slots=True)
class Error:
    """An error in percent, as text where it was printed, the test that gave it, and who says so."""

    metric: Metric
    percent: float
    printed: str
    test: str
    source: str
    measured: bool = False  # by a run of the reader's own


@dataclass(frozen=True, slots=True)
class Entry:
    """One network: counts for one image of `input_shape`, errors with the main one first, milliseconds if measured.

    `params` leaves out what evaluation does not use, such as auxiliary heads, as papers do.
    """

    name: str
    input_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int
    field: str = ""
    errors: tuple[Error, ...] = ()
    milliseconds: float | None = None

    def cost(self, axis: Axis) -> float | None:
        """Its place on a cost axis. Raises `UsageError` for an axis that there is not."""
        if axis not in get_args(Axis):
            raise UsageError(f"--x {axis!r}: one of {', '.join(get_args(Axis))} is expected.")
        return {"params": self.params, "macs": self.macs, "ms": self.milliseconds}[axis]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "params": self.params,
            "macs": self.macs,
            "activations": self.activations,
            "receptive_field": self.field or None,
            "milliseconds": self.milliseconds,
            "errors": [
                {"metric": e.metric, "error_pct": e.percent, "test": e.test, "source": e.source,
                 "measured": e.measured}
                for e in self.errors
            ],
        }  # fmt: skip


def entry(
    name: str,
    cost: Measurement,
    *,
    spec: Spec | None = None,
    errors: Sequence[Error] = (),
    milliseconds: float | None = None,
) -> Entry:
    """A measured network with what is known of its error: `errors`, then those that its paper printed."""
    known = [*errors, *(published_errors(spec.published) if spec is not None else [])]
    return Entry(
        name,
        cost.input_shape,
        cost.params - cost.unused_params,
        cost.macs,
        cost.activations,
        str(cost.field or ""),
        tuple(known),
        milliseconds,
    )


def published_errors(published: Published) -> list[Error]:
    """Every error that a paper printed, the main one first. An error without "top-k" in its name is a top-1 error."""
    source = f"paper, {published.source}" if published.source else "paper"
    main: list[tuple[Metric, str | None]] = [
        ("top1", published.error_pct),
        ("top1", published.top1_error_pct),
        ("top5", published.top5_error_pct),
    ]
    found = [
        Error(metric, float(text), text, spelled(published.test or "not said"), source)
        for metric, text in main
        if text is not None
    ]
    for test, text in published.other_errors_pct.items():
        metric: Metric = "top5" if "top-5" in test else "top1"
        name = spelled(re.sub(r"top-[15]", "", test))
        found.append(Error(metric, float(text), text, name, source))
    return found


def spelled(text: str) -> str:
    """A test in one spelling: "1 crop" and "one crop" are "1-crop"; nothing else is taken for the same.

    Examples:
        >>> spelled("ILSVRC-2012 val, one crop")
        'ILSVRC-2012 val, 1-crop'
    """
    for pattern, word in _SPELLINGS:
        text = re.sub(pattern, word, text)
    return re.sub(r"(, )+", ", ", text).strip(", ")


# --- what can be drawn ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """A network in a chart: cost to the right, error upwards, and the test that the error comes from."""

    name: str
    x: float
    y: float
    test: str
    size: float = 0.0  # of a bubble


def usual_metric(entries: Sequence[Entry]) -> Metric:
    """The error that most of them have; top-1 where it is equal."""
    has = Counter(metric for e in entries for metric in {error.metric for error in e.errors})
    return "top5" if has["top5"] > has["top1"] else "top1"


def points(entries: Sequence[Entry], axis: Axis, metric: Metric | None = None) -> list[Point]:
    """A point for every error of every network, of those tests that are the main test of at least one of them.

    Sorted by test, then cost. Networks without such an error, or without the cost, have none.
    Raises `UsageError` for an unknown metric or axis.
    """
    metric = metric or usual_metric(entries)
    if metric not in METRICS:
        raise UsageError(f"--error {metric!r}: one of {', '.join(METRICS)} is expected.")
    main = {e.errors[0].test for e in entries if e.errors} | {
        error.test for e in entries for error in e.errors if error.measured
    }
    found = [
        Point(e.name, x, error.percent, error.test, float(e.params))
        for e in entries
        if (x := e.cost(axis))
        for error in e.errors
        if error.metric == metric and error.test in main and error.percent > 0
    ]
    return sorted(set(found), key=lambda p: (p.test, p.x, p.y, p.name))


def pareto(found: Sequence[Point]) -> list[Point]:
    """Those that no other one beats: none is as cheap and as good, and better in one of the two. Cheapest first."""
    best: list[Point] = []
    for point in sorted(found, key=lambda p: (p.x, p.y)):
        if not best or point.y < best[-1].y or (point.x, point.y) == (best[-1].x, best[-1].y):
            best.append(point)
    return best


# --- the table ------------------------------------------------------------------------------------------------

COLUMNS = (
    "network",
    "input",
    "parameters",
    "MACs",
    "activations",
    "field",
    "ms",
    "error, %",
    "test",
    "source",
)
NUMBERS = frozenset({"parameters", "MACs", "activations", "field", "ms"})


def cells(entries: Sequence[Entry], *, short: bool = False) -> tuple[list[str], list[list[str]]]:
    """Titles and words of the table: a line for each network and test, with the counts on its first one.

    Columns that say nothing of any network are left out. `short` rounds the counts to three digits.
    """
    lines: list[list[str]] = []

    def counted(count: int) -> str:
        return count_text(count) if short else f"{count:,}"

    for e in entries:
        counts = [
            e.name,
            ("x" if short else " x ").join(map(str, e.input_shape)),
            counted(e.params),
            counted(e.macs),
            counted(e.activations),
            e.field,
            "" if e.milliseconds is None else f"{e.milliseconds:.3g}",
        ]
        tests = list(dict.fromkeys((error.test, error.source) for error in e.errors))
        for number, (test, source) in enumerate(tests or [("", "")]):
            errors = [error for error in e.errors if (error.test, error.source) == (test, source)]
            words = ", ".join(f"{METRICS[error.metric].split()[0]} {error.printed}" for error in errors)
            lines.append([*(counts if number == 0 else [""] * len(counts)), words, test, source])
    told = [i for i in range(len(COLUMNS)) if i < 2 or any(line[i] for line in lines)]
    return [COLUMNS[i] for i in told], [[line[i] for i in told] for line in lines]


STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --ink: #1b2430; --muted: #5c6875; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161b; --ink: #e6eaef; --muted: #9aa5b1; --line: #2c343d; }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px; }
svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 5px 12px 5px 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(titles: Sequence[str], lines: Sequence[Sequence[str]], drawing: str = "") -> str:
    """The table, and a chart given as SVG text, as one HTML page that needs no other file."""

    def row(words: Sequence[str], tag: str) -> str:
        marks = (
            f"<{tag}{' class=n' if title in NUMBERS else ''}>{escape(word)}</{tag}>"
            for title, word in zip(titles, words, strict=True)
        )
        return f"<tr>{''.join(marks)}</tr>"

    rows = "\n".join(row(line, "td") for line in lines)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Networks compared</title>
<style>{STYLE}</style></head>
<body><main>
<h1>Networks compared</h1>
{drawing}
<div class="wide"><table>
<thead>{row(titles, "th")}</thead>
<tbody>
{rows}
</tbody></table></div>
<p>Errors of different tests cannot be compared: a mark's shape is its test.</p>
</main></body></html>
"""
