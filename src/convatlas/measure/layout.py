"""Where the boxes of a graph stand: in levels from top to bottom, no two of them on the same place.

The way of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system structures", 1981):
a box stands one level below the lowest that it reads; a way that passes levels gets a bend in each, which keeps room
for it; boxes of a level are ordered by the mean place of their neighbours, then pulled towards them as far as their
own neighbours allow. The same graph gives the same drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

CHAR, BOLD_CHAR, LINE_HEIGHT, GAP_X, GAP_Y = 6.3, 7.3, 14, 14, 26  # pixels, of letters that are 11 high


@dataclass
class Node:
    """One box: what it says, what kind it is, and the boxes that it receives from. `x`, `y` are its middle.

    `title` stands in bold above the lines, `note` paler below them. Boxes come after those that they read.
    """

    lines: list[str]
    kind: str
    inputs: list[int]
    title: str = ""
    note: str = ""
    level: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    dummy: bool = False  # a bend of a way

    @property
    def round(self) -> bool:
        """Whether it is a sign in a circle, such as the + of a sum."""
        return self.kind == "join" and len(self.lines) == 1 and len(self.lines[0]) == 1 and not self.note


@dataclass(frozen=True)
class Layout:
    """Boxes and bends with their places, the edges between neighbouring levels, and the size of it all in pixels."""

    nodes: list[Node]
    edges: list[tuple[int, int]]
    width: float
    height: float


def layered(boxes: list[Node]) -> Layout:
    """Give every box a place; their order is that of a forward pass, the last one is the end."""
    _set_levels(boxes)
    nodes, edges = _with_bends(boxes)
    for node in nodes:
        _size(node)
    levels: list[list[int]] = [[] for _ in range(1 + max(node.level for node in nodes))]
    for index, node in enumerate(nodes):
        levels[node.level].append(index)
    above: list[list[int]] = [[] for _ in nodes]
    below: list[list[int]] = [[] for _ in nodes]
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    _order(levels, above, below)
    for row in levels:  # every level about one middle line, so that long networks do not drift to a side
        left = -(sum(nodes[i].width for i in row) + GAP_X * (len(row) - 1)) / 2
        for i in row:
            nodes[i].x = left + nodes[i].width / 2
            left += nodes[i].width + GAP_X
    for sweep in range(60):
        for row in levels if sweep % 2 == 0 else reversed(levels):
            _align(row, nodes, above, below)
    _straighten(levels, nodes, above, below)
    low = min(node.x - node.width / 2 for node in nodes)
    top = 0.0
    for row in levels:
        height = max(nodes[i].height for i in row)
        for i in row:
            nodes[i].height = height if nodes[i].dummy else nodes[i].height
            nodes[i].x -= low
            nodes[i].y = top + height / 2
        top += height + GAP_Y
    return Layout(nodes, edges, max(node.x + node.width / 2 for node in nodes), top - GAP_Y)


def _set_levels(boxes: list[Node]) -> None:
    """Below what a box reads; boxes of short branches down to what they enter, so that branches end together."""
    users: list[list[int]] = [[] for _ in boxes]
    for index, node in enumerate(boxes):
        node.level = 1 + max((boxes[source].level for source in node.inputs), default=-1)
        for source in node.inputs:
            users[source].append(index)
    boxes[-1].level = max(node.level for node in boxes)
    for index in range(len(boxes) - 2, 0, -1):
        node = boxes[index]
        if len(users[index]) == 1 and len(node.inputs) == 1 and node.kind != "join":
            node.level = boxes[users[index][0]].level - 1


def _with_bends(boxes: list[Node]) -> tuple[list[Node], list[tuple[int, int]]]:
    nodes, edges = list(boxes), list[tuple[int, int]]()
    for index, node in enumerate(boxes):
        for source in node.inputs:
            last = source
            for level in range(boxes[source].level + 1, node.level):
                nodes.append(Node([], "bend", [], level=level, dummy=True))
                edges.append((last, len(nodes) - 1))
                last = len(nodes) - 1
            edges.append((last, index))
    return nodes, edges


def _size(node: Node) -> None:
    if node.dummy:
        node.width, node.height = 8, 8
    elif node.round:
        node.width = node.height = 24
    else:
        widths = [len(line) * CHAR for line in [*node.lines, node.note]]
        node.width = max([*widths, len(node.title) * BOLD_CHAR, 30]) + 16
        node.height = (len(node.lines) + bool(node.title) + bool(node.note)) * LINE_HEIGHT + 10


def _order(levels: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Sort the boxes of every level by the mean place of those that they read, then of those that read them."""
    at = {i: place for row in levels for place, i in enumerate(row)}
    for sweep in range(12):
        down = sweep % 2 == 0
        near = above if down else below
        for level in range(1, len(levels)) if down else range(len(levels) - 2, -1, -1):
            means = {
                i: sum(at[j] for j in near[i]) / len(near[i]) if near[i] else at[i] for i in levels[level]
            }
            levels[level].sort(key=means.__getitem__)
            at.update({i: place for place, i in enumerate(levels[level])})


def _apart(first: Node, second: Node) -> float:
    """How far the middles of two neighbours must be."""
    return (first.width + second.width) / 2 + GAP_X


def _align(row: list[int], nodes: list[Node], above: list[list[int]], below: list[list[int]]) -> None:
    """Pull each box of a level to the mean of its neighbours, as far as the boxes beside it allow."""
    wanted = []
    for i in row:
        near = [*above[i], *below[i]]
        wanted.append(sum(nodes[j].x for j in near) / len(near) if near else nodes[i].x)
    for i, x in zip(row, wanted, strict=True):
        nodes[i].x = 0.5 * nodes[i].x + 0.5 * x
    rightward, leftward = [nodes[i].x for i in row], [nodes[i].x for i in row]
    gaps = [_apart(nodes[first], nodes[second]) for first, second in pairwise(row)]
    for place, gap in enumerate(gaps, start=1):
        rightward[place] = max(rightward[place], rightward[place - 1] + gap)
    for place in range(len(gaps) - 1, -1, -1):
        leftward[place] = min(leftward[place], leftward[place + 1] - gaps[place])
    for i, right, left in zip(row, rightward, leftward, strict=True):
        nodes[i].x = (
            right + left
        ) / 2  # both keep the gaps, so their mean does; and neither side is preferred


def _straighten(
    levels: list[list[int]], nodes: list[Node], above: list[list[int]], below: list[list[int]]
) -> None:
    """Put chains, boxes that only feed one another, above each other where nothing stands in the way."""
    place = {i: (row, position) for row in levels for position, i in enumerate(row)}

    def room(i: int) -> tuple[float, float]:
        row, position = place[i]
        low, high = -1e9, 1e9
        if position:
            low = nodes[row[position - 1]].x + _apart(nodes[row[position - 1]], nodes[i])
        if position + 1 < len(row):
            high = nodes[row[position + 1]].x - _apart(nodes[i], nodes[row[position + 1]])
        return low, high

    def free(i: int, x: float) -> bool:
        low, high = room(i)
        return low - 1 <= x <= high + 1

    for chain in _chains(levels, above, below) * 4:
        rooms = [room(i) for i in chain]
        low, high = max(r[0] for r in rooms), min(r[1] for r in rooms)
        if low <= high:
            x = min(max(sum(nodes[i].x for i in chain) / len(chain), low), high)
            for i in chain:
                nodes[i].x = x
    for i, node in enumerate(nodes):  # what joins or parts, in the middle of what it joins
        near = above[i] if len(above[i]) > 1 else below[i] if len(below[i]) > 1 else []
        if near:
            x = (min(nodes[j].x for j in near) + max(nodes[j].x for j in near)) / 2
            node.x = x if free(i, x) else node.x
    for order in (range(len(nodes)), reversed(range(len(nodes)))):
        for i in order:  # the way in and the way out, straight
            if len(above[i]) == 1 and len(below[above[i][0]]) == 1:
                near = above[i]
            else:
                near = (
                    below[i] if len(below[i]) == 1 and len(above[below[i][0]]) == 1 and not above[i] else []
                )
            if near and abs(nodes[near[0]].x - nodes[i].x) > 0.1 and free(i, nodes[near[0]].x):
                nodes[i].x = nodes[near[0]].x


def _chains(levels: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    """The longest runs of boxes each of which feeds the next alone, and is all that the next reads."""

    def linked(a: int, b: int) -> bool:
        return len(below[a]) == 1 and len(above[b]) == 1

    chains: list[list[int]] = []
    for first in (i for row in levels for i in row):
        if len(above[first]) == 1 and linked(above[first][0], first):
            continue  # in the middle of a chain
        chain = [first]
        while len(below[chain[-1]]) == 1 and linked(chain[-1], below[chain[-1]][0]):
            chain.append(below[chain[-1]][0])
        if len(chain) > 1:
            chains.append(chain)
    return chains
