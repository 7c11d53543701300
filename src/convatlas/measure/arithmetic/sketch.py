"""Squares, lines and words as SVG text, for the figures of this package.

The same figure is the same text. It needs no other file, and follows the reader's choice of light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

from convatlas.measure.drawing import label
from convatlas.plots import COLOURS, FILLS, PAPER, darkened

INK, MUTED, LINE, BLUE, ORANGE = (COLOURS[name] for name in ("ink", "muted", "grid", "series-1", "series-2"))
PIXEL, WINDOW, RESULT, EMPTY = FILLS["conv"], FILLS["pool"], FILLS["linear"], FILLS["other"]

words = partial(label, size=12)
"""A line of words, as `drawing.label` draws it, in the size of these figures."""


def sheet(width: float, height: float, title: str, body: Sequence[str]) -> str:
    """A whole file; `title` is read out to those who do not see it."""
    return darkened(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="DejaVu Sans, sans-serif" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>' + "".join(body) + "</svg>\n"
    )


def square(x: float, y: float, side: float, fill: str) -> str:
    """One cell of a grid, its upper left corner at (x, y)."""
    return squares([(x, y)], side, fill)


def squares(corners: Sequence[tuple[float, float]], side: float, fill: str, *, dashed: bool = False) -> str:
    """Cells of one kind, by their upper left corners."""
    if not corners:
        return ""
    path = "".join(f"M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" for x, y in corners)
    dash = ' stroke-dasharray="2 2"' if dashed else ""
    return f'<path d="{path}" fill="{fill}" stroke="{MUTED}" stroke-width="0.7"{dash}/>'


def frame(x: float, y: float, width: float, height: float, colour: str, *, dashed: bool = False) -> str:
    """An empty rectangle with a strong line."""
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" stroke="{colour}" '
        f'stroke-width="2.5"{dash}/>'
    )


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1.2, dashed: bool = False
) -> str:
    """A straight line."""
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}"{dash}/>'


def dot(x: float, y: float, colour: str, radius: float = 3.0) -> str:
    """A point."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{colour}"/>'


def number(value: float) -> str:
    """A number as a cell shows it."""
    return f"{value:.3g}"
