"""A network as a picture: boxes for its layers, blocks or stages, arrows for what each of them reads.

The arrows are the tensors of a traced pass (`measure.flow`), so the picture shows the network that runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from re import sub
from typing import get_args

from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.drawing import graph, label, sheet
from convatlas.measure.flow import Box, Depth, flow, grouping, groups, what
from convatlas.measure.layout import Node, layered
from convatlas.measure.table import count_text
from convatlas.measure.trace import Inputs, Trace, holds_others, trace

MARGIN, HEAD = 18.0, 58.0
WIDE = 40  # letters of a line


def svg(model: nn.Module, input_shape: Inputs, depth: Depth = "block", *, title: str = "") -> str:
    """The network's graph for one image of `input_shape` (C, H, W), as the text of an SVG file.

    A network with several inputs takes a list of shapes. Nothing is computed. Raises `UsageError` for an unknown depth,
    or if the network does not take such an image.
    """
    depth, traced = read_depth(depth), trace(model, input_shape)
    layout = layered(boxes(model, traced, depth))
    name = title or type(model).__name__
    used, unused = sum(sum(call.params.values()) for call in traced.calls), sum(traced.unused.values())
    total = f"{count_text(used)} parameters" + (f", {count_text(unused)} more in training" if unused else "")
    width = max(layout.width, 7.5 * len(name), 6 * len(total), 180) + 2 * MARGIN
    body = [
        label(MARGIN, 26, name, size=14, anchor="start", bold=True),
        label(MARGIN, 43, total, size=10.5, anchor="start").replace("<text ", '<text fill-opacity="0.75" '),
        *graph(layout, max(MARGIN, (width - layout.width) / 2), HEAD),
    ]
    return sheet(f"{name}: its {depth}s and what each reads", body, width, HEAD + layout.height + MARGIN)


def read_depth(text: str) -> Depth:
    """What `--depth` says to a drawing. Raises `UsageError`."""
    for depth in get_args(Depth):
        if depth == text:
            return depth
    raise UsageError(f"--depth {text!r}: a drawing shows one of {', '.join(get_args(Depth))}.")


def boxes(model: nn.Module, traced: Trace, depth: Depth = "block") -> list[Node]:
    """The boxes of `svg` without places: the image, the layers, blocks or stages, and the output."""
    chosen = groups(model, traced, depth)
    found = flow(traced, grouping(chosen))
    several = len(traced.inputs)
    nodes = [
        Node([f"{f'input {number}' if several > 1 else 'image'} {shape_text(box.shape)}"], "other", [])
        for number, box in enumerate(found[:several], start=1)
    ]
    paths = {name: [path for path, box in chosen.items() if box == name] for name in chosen.values()}
    nodes += [_node(model, box, paths.get(box.name, [])) for box in found[several:]]
    used = {source for node in nodes for source in node.inputs}
    ends = [number for number in range(len(nodes)) if number not in used]
    nodes.append(Node(["output"], "other", ends))
    return folded(nodes)


def shape_text(shape: Iterable[int]) -> str:
    """(64, 56, 56) as "64 × 56 × 56"."""
    return " × ".join(map(str, shape))


def _node(model: nn.Module, box: Box, paths: list[str]) -> Node:
    params = f" · {count_text(box.params)} params" if box.params else ""
    note = shape_text(box.shape) + params
    if box.sign:
        return Node([box.sign], "join", box.inputs, note=note if len(box.sign) > 1 else "")
    if not paths:  # a single call
        words, kind = what(box.calls[0])
        if kind == "act":
            return Node([words], "act", box.inputs, note=note)
        return Node(
            [words],
            kind,
            box.inputs,
            title=short(box.calls[0].weight or box.name)
            if box.calls[0].module or box.calls[0].weight
            else "",
            note=note,
        )
    words = [word for path in paths for word in _contents(model, path, box)]
    kinds = {what(call)[1] for call in box.calls}
    kind = next((k for k in ("conv", "linear", "pool") if k in kinds), "other")
    kind = "block" if len([call for call in box.calls if what(call)[1] in ("conv", "linear")]) > 1 else kind
    return Node(wrapped(runs(words)), kind, box.inputs, title=short(box.name), note=note)


def _contents(model: nn.Module, path: str, box: Box) -> list[str]:
    """A module in words: what a list holds, the only weighty layer of a unit, or the module's class."""
    module = model.get_submodule(path)
    inside = [call for call in box.calls if call.name == path or call.name.startswith(f"{path}.")]
    written = not holds_others(module)  # with weights of its own, layer by layer
    told = [what(call) for call in inside if call.module is not None or (written and call.weight)]
    layers = [words for words, kind in told if kind in ("conv", "linear", "pool")]
    if not holds_others(module) or len(layers) == 1:
        return layers or ([words for words, kind in told if kind == "act"] if path == box.name else [])
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return [
            word for name, _ in module.named_children() for word in _contents(model, f"{path}.{name}", box)
        ]
    inner = [child for child in module.children() if any(True for _ in child.children())]
    if len(inner) > 2 and len({type(child) for child in inner}) == 1 and type(inner[0]) is not nn.Sequential:
        return [f"{spaced(module)} of {len(inner)} {spaced(inner[0])}s"]
    return [spaced(module)] if inside else []


def spaced(module: nn.Module) -> str:
    """The class of a module as words: "inverted residual"."""
    return sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type(module).__name__).lower()


def short(path: str) -> str:
    """A module's path without the part that most modules share."""
    return path.removeprefix("features.").removeprefix("head.") or "network"


def runs(words: list[str]) -> list[str]:
    """Equal neighbours once, with their number."""
    counted = [(word, len(list(group))) for word, group in groupby(words)]
    return [f"{count} × {word}" if count > 1 else word for word, count in counted]


def wrapped(words: list[str]) -> list[str]:
    """Words in lines of at most `WIDE` letters, six lines at most."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 3 <= WIDE:
            lines[-1] += f" · {word}"
        else:
            lines.append(word)
    return lines if len(lines) <= 6 else [*lines[:5], f"and {len(lines) - 5} more lines"]


def folded(nodes: list[Node]) -> list[Node]:
    """Normalisations and activations as words of the box that they follow, or of the one that follows them."""
    users: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for source in node.inputs:
            users[source].append(number)
    into: dict[int, int] = {}  # what was folded, and where
    tail = list(range(len(nodes)))  # the last one that was folded into a box: others read that one

    def home(number: int) -> int:
        while number in into:
            number = into[number]
        return number

    for number, node in enumerate(nodes):
        if node.kind != "act" or len(node.inputs) != 1:
            continue
        before = home(node.inputs[0])
        host = nodes[before]
        if (
            len(users[node.inputs[0]]) == 1
            and host.kind not in ("other", "block")
            and host.lines != ["concat"]
        ):
            host.lines = [*host.lines, *node.lines]
            into[number], tail[before] = before, number
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        if node.kind != "act" or number in into or len(users[tail[number]]) != 1:
            continue
        after = users[tail[number]][0]
        if nodes[after].kind in ("conv", "act") and len(nodes[after].inputs) == 1 and after not in into:
            nodes[after].lines = [*node.lines, *nodes[after].lines]
            nodes[after].inputs = node.inputs
            into[number] = after
    kept = [number for number in range(len(nodes)) if number not in into]
    place = {number: index for index, number in enumerate(kept)}
    return [
        replace(
            nodes[number],
            kind="other" if nodes[number].kind == "act" else nodes[number].kind,
            lines=_joined(nodes[number].lines),
            inputs=list(dict.fromkeys(place[home(source)] for source in nodes[number].inputs)),
        )
        for number in kept
    ]


def _joined(lines: list[str]) -> list[str]:
    """Short words beside each other."""
    found: list[str] = []
    for word in lines:
        if found and len(word) <= 9 and len(found[-1]) <= 12 and len(found[-1].split(" · ")[-1]) <= 9:
            found[-1] += f" · {word}"
        else:
            found.append(word)
    return found
