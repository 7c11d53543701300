"""Charts of networks: error over cost, with the test of every error as the shape of its mark; bars by year.

Costs are on a logarithmic axis. A line joins those that nobody beats within one test, never across tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from convatlas.measure.comparison import AXES, METRICS, Axis, Metric, Point, pareto
from convatlas.measure.labels import Segment, lead, place
from convatlas.measure.table import count_text
from convatlas.plots import COLOURS, PAPER, style

SHAPES = "osD^vPXp<>hd*8"  # a test's shape: by its place among the tests, sorted by name
SERIES = [role for role in COLOURS if role.startswith("series")]
MARK = 5.5  # radius of a mark in pixels


@dataclass(frozen=True)
class Drawn:
    """A figure, and the names for which there was no room."""

    figure: Figure
    unnamed: tuple[str, ...]


def scatter(
    points: Sequence[Point],
    axis: Axis,
    metric: Metric,
    *,
    title: str = "",
    bubbles: bool = False,
    size: tuple[float, float] = (12.0, 7.5),
) -> Drawn:
    """Error over cost; `size` in inches of 72 pixels. `bubbles`: the area of a mark is the number of parameters."""
    with style():
        figure = Figure(figsize=size, dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, pad=10)
        axes.set_xlabel(AXES[axis] + (" for one image" if axis != "params" else ""))
        axes.set_ylabel(f"{METRICS[metric]}, %")
        tests = sorted({point.test for point in points})
        radii = [_radius(point, points) if bubbles else MARK for point in points]
        for number, test in enumerate(tests):
            colour = COLOURS[SERIES[number % len(SERIES)]]
            shape = SHAPES[number % len(SHAPES)]
            own = sorted(  # the smaller bubbles above the larger ones
                ((p, r) for p, r in zip(points, radii, strict=True) if p.test == test),
                key=lambda each: -each[1],
            )
            best = pareto([p for p, _ in own])
            if len(best) > 2:
                axes.plot(
                    [p.x for p in best],
                    [p.y for p in best],
                    color=colour,
                    linewidth=1.0,
                    alpha=0.55,
                    zorder=1,
                )
            axes.scatter(
                [p.x for p, _ in own],
                [p.y for p, _ in own],
                s=[(2 * r) ** 2 for _, r in own],
                marker=shape,
                color=colour,
                alpha=0.55 if bubbles else 0.9,
                linewidths=0.6,
                edgecolors=PAPER,
                zorder=3,
            )
        _log(axes, points, axis)
        _legend(figure, tests, lines=any(len(pareto([p for p in points if p.test == t])) > 2 for t in tests))
        unnamed = _name(figure, axes, points, radii)
        return Drawn(figure, unnamed)


def _radius(point: Point, points: Sequence[Point]) -> float:
    """Of a bubble: its area is in proportion to its size, the largest has 18 pixels."""
    return max(18 * math.sqrt(point.size / max(p.size for p in points)), 2.5)


def _log(axes: Axes, points: Sequence[Point], axis: Axis) -> None:
    """Both axes logarithmic, with a margin, and numbers that people read."""
    for scale, limit, values in (
        (axes.set_xscale, axes.set_xlim, [p.x for p in points]),
        (axes.set_yscale, axes.set_ylim, [p.y for p in points]),
    ):
        scale("log")
        span = math.log(max(values) / min(values)) or 1.0
        limits = min(values) / math.exp(0.09 * span), max(values) * math.exp(0.09 * span)
        limit(*limits)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)))
    for each in (axes.xaxis, axes.yaxis):
        each.set_minor_locator(NullLocator())
        each.set_minor_formatter(NullFormatter())
    words = (lambda value, _: f"{value:g}") if axis == "ms" else (lambda value, _: _short(value))  # pyright: ignore[reportUnknownLambdaType]
    axes.xaxis.set_major_formatter(FuncFormatter(words))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(value: float) -> str:
    """A count on an axis: "20 M"."""
    number, _, unit = count_text(round(value)).partition(" ")
    return f"{float(number):g} {unit}".strip()


def _legend(figure: Figure, tests: Sequence[str], *, lines: bool) -> None:
    handles = [
        Line2D(
            [], [], linestyle="none", marker=SHAPES[i % len(SHAPES)], color=COLOURS[SERIES[i % len(SERIES)]],
            markersize=7, label=test,
        )
        for i, test in enumerate(tests)
    ]  # fmt: skip
    if lines:
        handles.append(
            Line2D([], [], color=COLOURS["muted"], linewidth=1.0, label="best of one test at its cost")
        )
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), 3 if figure.get_figwidth() > 9 else 1)),
        fontsize=9.5,
        labelcolor=COLOURS["ink"],
    )


def _name(figure: Figure, axes: Axes, points: Sequence[Point], radii: Sequence[float]) -> tuple[str, ...]:
    """Write the names beside the marks; the best of each test choose their places first."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the names must not move what they were placed by
    best = {id(p) for test in {p.test for p in points} for p in pareto([q for q in points if q.test == test])}
    order = sorted(
        range(len(points)),
        key=lambda i: (id(points[i]) not in best, points[i].x, points[i].y, points[i].name),
    )
    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    texts = {
        i: axes.annotate(points[i].name, (0, 0), xycoords="figure pixels", fontsize=8.5, color=COLOURS["ink"])
        for i in order
    }
    sizes = [_extent(texts[i], renderer) for i in order]
    pixels = [axes.transData.transform((points[i].x, points[i].y)) for i in order]
    marks = [(float(x), float(y), radii[i]) for i, (x, y) in zip(order, pixels, strict=True)]
    box: Bbox = axes.get_window_extent(renderer)
    bounds = (box.x0 + 2, box.y0 + 2, box.width - 4, box.height - 4)
    unnamed: list[str] = []
    for i, mark, words in zip(order, marks, place(marks, sizes, bounds), strict=True):
        if words is None:
            texts[i].remove()
            unnamed.append(points[i].name)
            continue
        texts[i].set_position((words[0] + 1, words[1] + 3))
        if line := lead(mark, words):
            _draw_lead(figure, line)
    return tuple(unnamed)


def _extent(text: Text, renderer: object) -> tuple[float, float]:
    """Width and height of words, with room for a wider font."""
    box = text.get_window_extent(renderer)  # pyright: ignore[reportArgumentType]
    return 1.05 * box.width + 2, box.height + 1


def _draw_lead(figure: Figure, line: Segment) -> None:
    inverse = figure.transFigure.inverted().transform
    (x0, y0), (x1, y1) = inverse(line[0]), inverse(line[1])
    figure.add_artist(Line2D([x0, x1], [y0, y1], color=COLOURS["muted"], linewidth=0.6, zorder=2))


# --- bars -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name below, its value, and further words above it."""

    name: str
    value: float
    above: str
    note: str = ""


def bars(given: Sequence[Bar], *, title: str, y_label: str, size: tuple[float, float] = (9.0, 4.6)) -> Figure:
    """Bars side by side, with the value and a note above each."""
    with style():
        figure = Figure(figsize=size, dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, pad=10)
        axes.set_ylabel(y_label)
        axes.bar(
            range(len(given)), [bar.value for bar in given], width=0.62, color=COLOURS["series-1"], zorder=2
        )
        for number, bar in enumerate(given):
            note = f"\n{bar.note}" if bar.note else ""
            axes.annotate(
                bar.above + note, (number, bar.value), (0, 4), textcoords="offset points", ha="center", va="bottom",
                fontsize=9.5, color=COLOURS["ink"],
            )  # fmt: skip
        axes.set_xticks(range(len(given)), [bar.name for bar in given], fontsize=9.5)
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")
        axes.set_ylim(0, 1.18 * max(bar.value for bar in given))
        return figure
