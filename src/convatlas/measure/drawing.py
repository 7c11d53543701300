"""Drawing primitives for graphs of boxes, as SVG text: boxes, words, arrows, and the sheet that they stand on.

A drawing needs no other file and no network. It follows the reader's choice of light or dark (`plots.darkened`).
"""

from __future__ import annotations

from html import escape

from convatlas.measure.layout import LINE_HEIGHT, Layout, Node
from convatlas.plots import COLOURS, FILLS, PAPER, darkened

INK, MUTED = COLOURS["ink"], COLOURS["muted"]
LINE = "#8b97a5"


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A box whose upper left corner is (x, y), in the colour of its kind."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
        f'fill="{FILLS.get(kind, FILLS["other"])}" stroke="{LINE}" stroke-width="1"/>'
    )


def label(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11,
    anchor: str = "middle",
    colour: str = INK,
    bold: bool = False,
) -> str:
    """A line of words; `y` is that of the line they stand on."""
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}{weight}>{escape(text)}</text>"


def arrow(points: list[tuple[float, float]], *, head: bool = True) -> str:
    """A way through the points, with a smooth curve wherever it leaves the vertical."""
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for a, b in rest:
        middle = (y + b) / 2
        path += (
            f" L{a:.1f} {b:.1f}"
            if abs(a - x) < 0.5
            else f" C{x:.1f} {middle:.1f} {a:.1f} {middle:.1f} {a:.1f} {b:.1f}"
        )
        x, y = a, b
    return f'<path d="{path}" fill="none" stroke="{MUTED}" stroke-width="1.2"' + (
        ' marker-end="url(#tip)"/>' if head else "/>"
    )


def graph(layout: Layout, left: float, top: float) -> list[str]:
    """The boxes and arrows of a graph, its upper left corner at (left, top)."""
    drawn: list[str] = []
    bottoms = {}  # of each level: a way leaves its level before it turns, so that it cuts no taller box beside
    for node in layout.nodes:
        bottoms[node.level] = max(bottoms.get(node.level, 0.0), node.y + node.height / 2)
    tops: dict[int, float] = {}
    for node in layout.nodes:
        tops[node.level] = min(tops.get(node.level, 1e9), node.y - node.height / 2)
    for a, b in layout.edges:
        first, second = layout.nodes[a], layout.nodes[b]
        points = [
            (first.x, first.y + first.height / 2),
            (first.x, bottoms[first.level]),
            (second.x, tops[second.level]),
            (second.x, second.y + (second.height if second.dummy else -second.height) / 2),
        ]
        points = [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
        drawn.append(arrow([(left + x, top + y) for x, y in points], head=not second.dummy))
    for node in layout.nodes:
        if not node.dummy:
            drawn += _drawn(node, left + node.x, top + node.y)
    return drawn


def _drawn(node: Node, x: float, y: float) -> list[str]:
    if node.round:
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="12" fill="{PAPER}" stroke="{LINE}"/>'
        return [circle, label(x, y + 5, node.lines[0], size=15)]
    drawn = [box(x - node.width / 2, y - node.height / 2, node.width, node.height, node.kind)]
    line = y - node.height / 2 + 16
    if node.title:
        drawn.append(label(x, line, node.title, bold=True))
        line += LINE_HEIGHT
    for text in node.lines:
        drawn.append(label(x, line, text))
        line += LINE_HEIGHT
    if node.note:
        drawn.append(label(x, line, node.note, size=10.5).replace("<text ", '<text fill-opacity="0.75" '))
    return drawn


def sheet(title: str, body: list[str], width: float, height: float) -> str:
    """A drawing of so many pixels on its own ground."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="DejaVu Sans, Verdana, sans-serif">'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.8 L7 4 L0 7.2 z" fill="{MUTED}"/></marker></defs>'
    )
    ground = f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>'
    return darkened("\n".join([head, f"<title>{escape(title)}</title>", tip, ground, *body, "</svg>"]) + "\n")
