"""Where the words beside the points of a chart go, so that none covers another: a small search, always the same.

Units are pixels, y downwards or upwards alike. A rectangle is (x, y, width, height) from its lower corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]
Segment = tuple[tuple[float, float], tuple[float, float]]
Marker = tuple[float, float, float]  # x, y, radius
DIRECTIONS = 16
DISTANCES = (0.0, 7.0, 16.0, 28.0, 44.0, 64.0)  # between the marker and its words


def place(
    markers: Sequence[Marker],
    sizes: Sequence[tuple[float, float]],
    bounds: Rectangle,
    taken: Sequence[Rectangle] = (),
) -> list[Rectangle | None]:
    """A place for the words of each marker (x, y, radius), or None where there is none left.

    Those that come first choose first: the nearest place that covers no words, no marker and nothing of `taken`, and
    lies within `bounds`; of equally near ones that with the most air, to the right before the left. Words that stand
    off their marker get a line to it (`lead`), which crosses no other words either.
    """
    circles = [(x - r, y - r, 2 * r, 2 * r) for x, y, r in markers]
    placed: list[Rectangle | None] = []
    lines: list[Segment] = []
    for marker, size in zip(markers, sizes, strict=True):
        words = [*taken, *(each for each in placed if each is not None)]
        found = _nearest(marker, size, bounds, circles, words, lines)
        placed.append(found)
        if found is not None and (line := lead(marker, found)):
            lines.append(line)
    return placed


def _nearest(
    marker: Marker,
    size: tuple[float, float],
    bounds: Rectangle,
    circles: Sequence[Rectangle],
    words: Sequence[Rectangle],
    lines: Sequence[Segment],
) -> Rectangle | None:
    x, y, radius = marker
    width, height = size
    for distance in DISTANCES:
        free: list[tuple[float, int, Rectangle]] = []
        for number in range(DIRECTIONS):
            angle = 2 * math.pi * number / DIRECTIONS
            reach = radius + 2 + distance
            left = x + math.cos(angle) * (reach + width / 2) - width / 2
            low = y + math.sin(angle) * (reach + height / 2) - height / 2
            place = (left, low, width, height)
            line = lead(marker, place)
            if (
                within(place, bounds)
                and not any(overlap(place, each) for each in (*circles, *words))
                and not any(crosses(each, place) for each in lines)
                and not (line and any(crosses(line, each) for each in words))
            ):
                air = min((_between(place, each) for each in (*circles, *words)), default=0.0)
                free.append((-min(air, 12.0), number, place))
        if free:
            return min(free)[2]
    return None


def lead(marker: Marker, words: Rectangle) -> Segment | None:
    """The line from the edge of a marker to its words, where they do not stand beside it."""
    x, y, radius = marker
    left, low, width, height = words
    end = (min(max(x, left), left + width), min(max(y, low), low + height))
    far = math.hypot(end[0] - x, end[1] - y)
    if far <= radius + 6:
        return None
    return (x + (end[0] - x) * radius / far, y + (end[1] - y) * radius / far), end


def crosses(line: Segment, rectangle: Rectangle) -> bool:
    """Whether a line and a rectangle share more than an edge (Liang and Barsky, 1984)."""
    (x0, y0), (x1, y1) = line
    x, y, width, height = rectangle
    first, last = 0.0, 1.0
    for start, step, low, high in ((x0, x1 - x0, x, x + width), (y0, y1 - y0, y, y + height)):
        if step == 0:
            if not low < start < high:
                return False
            continue
        enter, leave = sorted(((low - start) / step, (high - start) / step))
        first, last = max(first, enter), min(last, leave)
    return last - first > 1e-9


def overlap(first: Rectangle, second: Rectangle) -> bool:
    """Whether two rectangles share more than an edge."""
    (x, y, w, h), (a, b, c, d) = first, second
    return x < a + c and a < x + w and y < b + d and b < y + h


def within(inner: Rectangle, outer: Rectangle) -> bool:
    """Whether a rectangle lies inside another."""
    (x, y, w, h), (a, b, c, d) = inner, outer
    return x >= a and y >= b and x + w <= a + c and y + h <= b + d


def _between(first: Rectangle, second: Rectangle) -> float:
    """The free distance between two rectangles."""
    (x, y, w, h), (a, b, c, d) = first, second
    return math.hypot(max(a - x - w, x - a - c, 0.0), max(b - y - h, y - b - d, 0.0))
