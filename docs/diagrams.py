"""Draw the networks of the family pages: `python docs/diagrams.py`, or with --check compare only.

A page asks for a drawing with `<!-- diagram: NAME -->`, a network or a family. `families/diagrams/NAME.svg` is made
from the running network: its parts in order with what each gives, and one of the blocks that it repeats, with the
branches, sums and concatenations that a forward pass really makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from convatlas.audit.counted import Counted, counted
from convatlas.hooks import eval_mode, watched
from convatlas.layers.drop_path import DropPath
from convatlas.measure import measure
from convatlas.measure.trace import META, tensors_in
from convatlas.models import list_models, specs
from convatlas.models.googlenet import TABLE_1, naive_module, reduced_module

PAGES = Path(__file__).parent / "families"
REQUEST = re.compile(r"(<!-- diagram: (\w+) -->\n)(?:!\[[^\]]*\]\([^)]*\)\n)?")
WIDTH = 700

# A family's drawing shows the network that its page is about.
REPRESENTATIVES = {
    "alexnet": "alexnet_paper", "all_cnn": "all_cnn_c", "bn_inception": "bn_inception_paper", "densenet": "densenet121",
    "deeply_supervised": "dsn_cifar10", "efficientnet": "efficientnet_b0", "fractalnet": "fractalnet21_cifar",
    "highway": "highway19_cifar", "lenet": "lenet5_1998", "mcdnn": "mcdnn_column", "mnasnet": "mnasnet1_0",
    "inception_resnet": "inception_resnet_v2", "mobilenet_v3": "mobilenet_v3_large", "nin": "nin_cifar10",
    "preact": "resnet200_preact", "resnet": "resnet50_v1", "senet": "se_resnet50_paper", "bagnet": "bagnet33",
    "resnext": "resnext50_32x4d", "shufflenet_v2": "shufflenet_v2_x1_0", "squeezenet": "squeezenet1_0",
    "stochastic_depth": "resnet110_stochastic_depth_cifar", "vgg": "vgg16", "wide_resnet": "wide_resnet28_10_cifar",
}  # fmt: skip
PARTS = {  # one part of a network: (network, path, title)
    "inception_v3_a": ("inception_v3", "features.mixed5c", "Inception v3 at 35 × 35 pixels: mixed5c"),
    "inception_v3_b": ("inception_v3", "features.mixed6b", "Inception v3 at 17 × 17 pixels: mixed6b"),
    "inception_v3_c": ("inception_v3", "features.mixed7b", "Inception v3 at 8 × 8 pixels: mixed7b"),
}
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], str]] = {
    "inception_naive": (
        lambda: naive_module(256, 128, 192, 96),
        (256, 28, 28),
        "the lectures' example, naive",
    ),
    "inception_reduced": (
        lambda: reduced_module(192, TABLE_1["3a"]),
        (192, 28, 28),
        "module 3a of GoogLeNet",
    ),
}

INK, MUTED, PAPER, LINE = "#1b2430", "#5b6776", "#ffffff", "#8b97a5"
FILLS = {
    "conv": "#dbe7fb",
    "pool": "#fbe6d6",
    "linear": "#d9f0e1",
    "other": "#eceff3",
    "block": "#e9e0f7",
    "join": "#ffffff",
}
ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.Tanh,
    nn.Sigmoid,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.ELU,
    nn.LeakyReLU,
)
SILENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, DropPath)
JOINS = {"add": "+", "__add__": "+", "__radd__": "+", "__iadd__": "+", "add_": "+", "cat": "concat", "concat": "concat",
         "concatenate": "concat", "mul": "×", "__mul__": "×", "__rmul__": "×", "__imul__": "×", "mul_": "×",
         "mean": "mean", "stack": "stack"}  # fmt: skip


# --- the graph of a forward pass ------------------------------------------------------------------------------


@dataclass
class Node:
    """One box: what it says, what kind it is, and the boxes that it receives from."""

    lines: list[str]
    kind: str
    inputs: list[int]
    level: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    dummy: bool = False


class Recorder(TorchFunctionMode):
    """Remembers which call made each tensor: leaf modules, and the functions that join tensors between them."""

    def __init__(
        self, words: Callable[[str, nn.Module, Tensor], tuple[str, str]], one_box: Callable[[nn.Module], bool]
    ) -> None:
        super().__init__()
        self.words, self.one_box = words, one_box
        self.nodes: list[Node] = []
        self.made: Any = WeakTensorKeyDictionary()
        self.inside = 0
        self.pending: list[list[int]] = []

    def sources(self, values: Any) -> list[int]:
        found = [self.made[tensor] for tensor in tensors_in(values) if tensor in self.made]
        return list(dict.fromkeys(found))

    def put(self, values: Any, node: int) -> None:
        for tensor in tensors_in(values):
            self.made[tensor] = node

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.inside or self.one_box(module):
            self.inside += 1
            self.pending.append(self.sources((args, kwargs)))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        if not self.inside:
            return
        self.inside -= 1
        sources = self.pending.pop()
        if self.inside:
            return
        if isinstance(module, SILENT) or not sources or (type(module) is nn.Sequential and not len(module)):
            self.put(output, sources[0] if sources else 0)
            return
        text, kind = self.words(name, module, tensors_in(output)[0])
        self.nodes.append(Node([text], kind, sources))
        self.put(output, len(self.nodes) - 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.inside:
            return output
        sources = self.sources((args, kwargs))
        word = JOINS.get(getattr(func, "__name__", ""))
        if word and len(sources) > 1:
            self.nodes.append(Node([word], "join", sources))
            self.put(output, len(self.nodes) - 1)
        elif sources:
            self.put(output, sources[0])
            if word == "mean" and self.nodes[sources[0]].lines == ["stack"]:
                self.nodes[sources[0]].lines = ["mean"]
        return output


def is_leaf(module: nn.Module) -> bool:
    """Drawn as one box: a module without others inside."""
    return not any(True for _ in module.children())


def graph(block: nn.Module, given: tuple[Any, ...]) -> list[Node]:
    """The boxes of one forward pass for these arguments, activations and norms written into their neighbours.

    In a large block, chains of layers such as separable convolutions are one box.
    """
    large = sum(is_leaf(module) for module in block.modules()) > 30

    def one_box(module: nn.Module) -> bool:
        chain = (
            isinstance(module, nn.Sequential) and sum(isinstance(m, nn.Conv2d) for m in module.modules()) > 1
        )
        return is_leaf(module) or (large and chain and module is not block)

    def words(name: str, module: nn.Module, output: Tensor) -> tuple[str, str]:
        if not is_leaf(module):
            return chain_words(module)
        return describe(module, kind_of(module, given_to[name], output), output)

    given_to: dict[str, Any] = {}

    class Remembering(Recorder):
        def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            given_to[name] = args
            super().enter(name, module, args, kwargs)

    recorder = Remembering(words, one_box)
    tensors = tensors_in(given)
    for number, tensor in enumerate(tensors, start=1):
        which = f"input {number}" if len(tensors) > 1 else "input"
        recorder.nodes.append(Node([f"{which} {shape_text(tuple(tensor.shape[1:]))}"], "other", []))
        recorder.made[tensor] = number - 1
    with eval_mode(block), torch.no_grad(), META, watched(block, recorder.enter, recorder.leave), recorder:
        output = block(*given)
    ends = recorder.sources(output)
    text = f"output {shape_text(tuple(tensors_in(output)[0].shape[1:]))}"
    return folded([*recorder.nodes, Node([text], "other", ends)])


def chain_words(module: nn.Module) -> tuple[str, str]:
    """A chain of layers in one box."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    side, stride = convs[0].kernel_size, max(m.stride[0] for m in convs)
    deep = [m for m in convs if m.groups > 1]
    if deep:
        side = deep[0].kernel_size
    text = "separable" if deep else "conv"
    return f"{text} {side[0]}x{side[1]}" + (f"/{stride}" if stride > 1 else ""), "conv"


def kind_of(module: nn.Module, given: Any, output: Tensor) -> str:
    """What a leaf module is, in the words of the layer tables."""
    del output
    shape = tuple(tensors_in(given)[0].shape[1:])
    rows = [row for row in measure(module, shape).rows[1:] if row.kind != "unused in evaluation"]
    return rows[0].kind if rows else type(module).__name__


def describe(module: nn.Module, kind: str, output: Tensor) -> tuple[str, str]:
    """Words and kind of a leaf module."""
    if isinstance(module, ACTIVATIONS):
        return type(module).__name__, "act"
    if "Norm" in type(module).__name__:
        return {"BatchNorm2d": "BN", "BatchNorm1d": "BN", "LocalResponseNorm": "LRN"}.get(
            type(module).__name__, "norm"
        ), "act"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "global avg pool", "pool"
    text = kind.replace("depthwise conv", "depthwise").replace("adaptive ", "")
    if "conv" in kind or "depthwise" in kind:
        return text, "conv"
    if "pool" in kind.lower():
        return text, "pool"
    if kind.startswith("linear"):
        return text, "linear"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(module).__name__).lower(), "other"


def folded(nodes: list[Node]) -> list[Node]:
    """Norms and activations as further lines of the box before them; after an input or a join, of the box behind."""
    alive = dict(enumerate(nodes))
    changed = True
    while changed:
        changed = False
        users: dict[int, list[int]] = {i: [] for i in alive}
        for i, node in alive.items():
            for source in node.inputs:
                users[source].append(i)
        for i, node in list(alive.items()):
            if node.kind != "act" or len(node.inputs) != 1:
                continue
            before = node.inputs[0]
            if (
                len(users[before]) == 1
                and alive[before].kind in ("conv", "linear", "pool", "act", "join")
                and not (
                    alive[before].kind == "join" and alive[before].lines == ["concat"] and len(users[i]) == 1
                )
            ):
                target = alive[before]
                target.lines = [*target.lines, *node.lines]
                for j in users[i]:
                    alive[j].inputs = [before if source == i else source for source in alive[j].inputs]
            elif (
                len(users[i]) == 1
                and len(alive[users[i][0]].inputs) == 1
                and alive[users[i][0]].kind in ("conv", "act")
            ):
                behind = alive[users[i][0]]
                behind.lines = [*node.lines, *behind.lines]
                behind.inputs = [before]
            else:
                continue
            del alive[i]
            changed = True
            break
    place = {old: new for new, old in enumerate(alive)}
    for node in alive.values():
        node.inputs = [place[source] for source in node.inputs]
        if node.kind == "act":
            node.kind = "other"
        node.lines = merged(node)
    return list(alive.values())


def narrow(node: Node) -> Node:
    """The same box with its words below each other."""
    if node.kind in ("conv", "pool"):
        node.lines = [part for line in node.lines for part in re.split(r" (?=\d+x\d+)", line)]
    return node


def merged(node: Node) -> list[str]:
    """At most three lines: short words beside each other."""
    lines: list[str] = []
    for word in node.lines:
        short = len(word) <= 8
        if (
            lines
            and short
            and len(lines[-1]) <= 10
            and lines[-1].split(" · ")[-1] in ("BN", "ReLU", "ReLU6", "LRN", "norm")
        ):
            lines[-1] += f" · {word}"
        else:
            lines.append(word)
    return lines


# --- where the boxes stand ------------------------------------------------------------------------------------

CHAR, LINE_HEIGHT, GAP_X, GAP_Y = 6.3, 14, 14, 26


def layered(nodes: list[Node]) -> tuple[list[Node], list[tuple[int, int]], float, float]:
    """Give every box a place: levels by the longest way from the input, straight ways for edges that pass levels.

    Returns the boxes with the bends that were added, the edges between neighbouring levels, width and height.
    """
    for node in nodes:  # inputs stand before what they enter
        node.level = 1 + max((nodes[source].level for source in node.inputs), default=-1)
    nodes[-1].level = max(node.level for node in nodes)
    _sink(nodes)
    every, edges = list(nodes), list[tuple[int, int]]()
    for index, node in enumerate(nodes):
        for source in node.inputs:
            last = source
            for level in range(nodes[source].level + 1, node.level):
                every.append(Node([], "bend", [], level=level, dummy=True))
                edges.append((last, len(every) - 1))
                last = len(every) - 1
            edges.append((last, index))
    for node in every:
        _size(node)
    levels: list[list[int]] = [[] for _ in range(nodes[-1].level + 1)]
    for index, node in enumerate(every):
        levels[node.level].append(index)
    above: dict[int, list[int]] = {i: [] for i in range(len(every))}
    below: dict[int, list[int]] = {i: [] for i in range(len(every))}
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    for sweep in range(12):
        order = range(1, len(levels)) if sweep % 2 == 0 else range(len(levels) - 2, -1, -1)
        near = above if sweep % 2 == 0 else below
        for level in order:
            at = {i: p for row in levels for p, i in enumerate(row)}
            levels[level].sort(
                key=lambda i: (sum(at[j] for j in near[i]) / len(near[i])) if near[i] else at[i]
            )
    for row in levels:
        left = 0.0
        for i in row:
            every[i].x = left + every[i].width / 2
            left += every[i].width + GAP_X
    for sweep in range(60):
        for row in levels if sweep % 2 == 0 else reversed(levels):
            _align(row, every, above, below)
    _straighten(levels, every, above, below)
    low = min(node.x - node.width / 2 for node in every)
    top = 0.0
    for row in levels:
        height = max(every[i].height for i in row)
        for i in row:
            every[i].height = height if every[i].dummy else every[i].height
            every[i].x -= low
            every[i].y = top + height / 2
        top += height + GAP_Y
    return every, edges, max(node.x + node.width / 2 for node in every), top - GAP_Y


def _sink(nodes: list[Node]) -> None:
    """Move boxes of short branches down to what they enter, so that branches end together."""
    for index in range(len(nodes) - 2, 0, -1):
        users = [node.level for node in nodes if index in node.inputs]
        if users and nodes[index].kind != "join":
            nodes[index].level = (
                min(users) - 1 if len(nodes[index].inputs) == 1 and len(users) == 1 else nodes[index].level
            )


def _size(node: Node) -> None:
    if node.dummy:
        node.width, node.height = 8, 8
    elif node.kind == "join" and len(node.lines[0]) == 1 and len(node.lines) == 1:
        node.width = node.height = 24
    else:
        node.width = max(max(len(line) for line in node.lines) * CHAR + 16, 46)
        node.height = len(node.lines) * LINE_HEIGHT + 10


def _align(
    row: list[int], nodes: list[Node], above: dict[int, list[int]], below: dict[int, list[int]]
) -> None:
    """Pull each box of a level to the mean of its neighbours, as far as the boxes beside it allow."""
    wanted = []
    for i in row:
        near = [*above[i], *below[i]]
        wanted.append(sum(nodes[j].x for j in near) / len(near) if near else nodes[i].x)
    for i, x in zip(row, wanted, strict=True):
        nodes[i].x = 0.5 * nodes[i].x + 0.5 * x
    for first, second in pairwise(row):
        room = (nodes[first].width + nodes[second].width) / 2 + GAP_X
        if nodes[second].x - nodes[first].x < room:
            push = (room - (nodes[second].x - nodes[first].x)) / 2
            nodes[first].x -= push
            nodes[second].x += push
    for first, second in pairwise(row):
        room = (nodes[first].width + nodes[second].width) / 2 + GAP_X
        nodes[second].x = max(nodes[second].x, nodes[first].x + room)


def _straighten(
    levels: list[list[int]], nodes: list[Node], above: dict[int, list[int]], below: dict[int, list[int]]
) -> None:
    """Put chains, boxes that only feed one another, above each other where nothing stands in the way."""
    place = {i: (row, position) for row in levels for position, i in enumerate(row)}

    def free(i: int, x: float) -> bool:
        row, position = place[i]
        beside = [row[p] for p in (position - 1, position + 1) if 0 <= p < len(row)]
        return all(abs(nodes[j].x - x) >= (nodes[i].width + nodes[j].width) / 2 + GAP_X - 1 for j in beside)

    def room(i: int) -> tuple[float, float]:
        row, position = place[i]
        low, high = -1e9, 1e9
        if position:
            other = nodes[row[position - 1]]
            low = other.x + (other.width + nodes[i].width) / 2 + GAP_X
        if position + 1 < len(row):
            other = nodes[row[position + 1]]
            high = other.x - (other.width + nodes[i].width) / 2 - GAP_X
        return low, high

    chains: list[list[int]] = []
    for first in (i for row in levels for i in row):
        chain = [first]
        while len(below[chain[-1]]) == 1 and len(above[below[chain[-1]][0]]) == 1:
            chain.append(below[chain[-1]][0])
        if len(chain) > 1 and not any(set(chain) <= set(other) for other in chains):
            chains.append(chain)
    for chain in chains * 4:
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
            near = (
                above[i]
                if len(above[i]) == 1 and len(below[above[i][0]]) == 1
                else (
                    below[i] if len(below[i]) == 1 and len(above[below[i][0]]) == 1 and not above[i] else []
                )
            )
            if near and abs(nodes[near[0]].x - nodes[i].x) > 0.1 and free(i, nodes[near[0]].x):
                nodes[i].x = nodes[near[0]].x


# --- which block to show --------------------------------------------------------------------------------------


def received(of: Counted) -> dict[str, tuple[Any, ...]]:
    """The arguments that each module is first called with, by its path; of modules that take one or two tensors."""
    inputs: dict[str, tuple[Any, ...]] = {}

    def kept(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if len(tensors_in(args)) in (1, 2) and not kwargs:
            inputs.setdefault(name, tree_map(kept, args))

    with eval_mode(of.network), torch.no_grad(), META, watched(of.network, enter, lambda *_: None):
        of.network(torch.empty(1, *of.image))
    return inputs


def repeated_block(of: Counted) -> tuple[str, nn.Module, tuple[Any, ...]] | None:
    """The outermost module that the network repeats and that can be drawn: (name, module, its arguments)."""
    inputs = received(of)
    named = dict(of.network.get_submodule("features").named_modules(prefix="features"))
    by_class: dict[type, list[str]] = {}
    for name, module in named.items():
        own = type(module).__module__.startswith("convatlas") and type(module) is not nn.Sequential
        if own and not is_leaf(module) and name in inputs and tensors_in(inputs[name])[0].dim() == 4:
            by_class.setdefault(type(module), []).append(name)
    found: list[tuple[int, str]] = []
    for names in by_class.values():
        inside = {
            name
            for name in names
            for others in by_class.values()
            for other in others
            if name.startswith(other + ".")
        }
        usual = [
            name for name in names if tuple(tensors_in(inputs[name])[0].shape[1:]) == of.shapes[name]
        ] or names
        chosen = usual[min(1, len(usual) - 1)]
        size = sum(is_leaf(m) for m in named[chosen].modules())
        convs = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in named[chosen].modules())
        limit = 45 if len(tensors_in(inputs[chosen])) == 1 else 120
        if len(names) > 1 and convs >= 2 and size <= limit:
            found.append((len(names) - len(inside), chosen))
    if not found:
        return None
    chosen = max(found, key=lambda each: each[0])[1]
    return chosen, named[chosen], inputs[chosen]


def fed_by(of: Counted) -> dict[str, list[str]]:
    """What each child of `features` reads: names of other children, or "image"."""
    children = {
        child: name
        for name, child in of.network.get_submodule("features").named_children()
        if not isinstance(child, (*SILENT, *ACTIVATIONS))
    }
    made: Any = WeakTensorKeyDictionary()
    found: dict[str, list[str]] = {}
    depth = [0]

    class Sources(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            sources = [
                name for tensor in tensors_in((args, kwargs)) if tensor in made for name in made[tensor]
            ]
            if not depth[0] and sources:
                for tensor in tensors_in(output):
                    made[tensor] = list(dict.fromkeys(sources))
            return output

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module in children:
            depth[0] += 1
            sources = [source for tensor in tensors_in(args) if tensor in made for source in made[tensor]]
            found[children[module]] = list(dict.fromkeys(sources))

    def leave(name: str, module: nn.Module, output: Any) -> None:
        if module in children:
            depth[0] -= 1
            for tensor in tensors_in(output):
                made[tensor] = [children[module]]

    with eval_mode(of.network), torch.no_grad(), META, watched(of.network, enter, leave), Sources():
        image = torch.empty(1, *of.image)
        made[image] = ["image"]
        of.network(image)
    return found


# --- drawing --------------------------------------------------------------------------------------------------


def shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
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
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}{weight}>{escape(text)}</text>"


@dataclass
class Part:
    """One row of the overview."""

    name: str
    what: str
    shape: str
    kind: str
    count: int = 1  # alike ones that follow each other, down to the one named `until`
    until: str = ""
    params: int = 0
    reads: list[int] = field(default_factory=list[int])  # how many parts before it stands what it reads

    @property
    def title(self) -> str:
        return f"{self.name} to {self.until}" if self.until else self.name

    @property
    def words(self) -> str:
        return f"{self.count} × {self.what}" if self.count > 1 else self.what


def parts(of: Counted) -> list[Part]:
    """The image, the children of `features` and of `head`, each with what it does and gives."""
    found, feeds, order = [Part("image", "", shape_text(of.image), "other")], fed_by(of), ["image"]
    for side in ("features", "head"):
        for name, child in of.network.get_submodule(side).named_children():
            path = f"{side}.{name}"
            if isinstance(child, (*SILENT, *ACTIVATIONS)) or path not in of.shapes:
                continue
            what, kind = summary(of, path, child)
            last, shape = found[-1], shape_text(of.shapes[path])
            if isinstance(child, nn.AdaptiveAvgPool2d) and shape == last.shape:
                continue  # leaves a map of its size as it is
            part = Part(name, what, shape, kind, params=of.params_of(path))
            if side == "features":
                order.append(name)
                part.reads = [len(order) - 1 - order.index(source) for source in feeds[name]]
            if part == replace(last, name=name, count=1, until="") and kind == "block":
                last.count, last.until = last.count + 1, name
            else:
                found.append(part)
    return found


def summary(of: Counted, path: str, child: nn.Module) -> tuple[str, str]:
    """A child in a few words, and its colour."""
    blocks = [b for b in child.children() if type(b).__module__.startswith("convatlas") and not is_leaf(b)]
    if isinstance(child, nn.AdaptiveAvgPool2d):
        side = of.shapes[path][-1]
        return "global average pool" if side == 1 else f"average pool to {side} × {side}", "pool"
    if blocks and isinstance(child, nn.Sequential):
        words = [
            called(each) if each in blocks else summary(of, f"{path}.{name}", each)[0]
            for name, each in child.named_children()
            if not isinstance(each, (*SILENT, *ACTIVATIONS)) and "Norm" not in type(each).__name__
        ]
        runs = [(word, len(list(group))) for word, group in groupby(words)]
        return " · ".join(f"{n} × {word}" if n > 1 else word for word, n in runs), "block"
    rows = [row for row in of.rows_of(path) if row.macs or "pool" in row.kind.lower()]
    kinds = [row.kind for row in rows]
    colour = "other"
    for word in ("pool", "linear", "conv"):
        colour = word if any(word in kind for kind in kinds) else colour
    if kinds and len(kinds) <= 3 and len(" · ".join(kinds)) <= 44:
        return " · ".join(kinds), colour
    if kinds and len(set(kinds)) == 1:
        return f"{len(rows)} × {kinds[0]}", colour
    if type(child).__module__.startswith("convatlas") and type(child) is not nn.Sequential:
        inner = [called(each) for each in child.children() if type(each).__module__.startswith("convatlas")]
        many = f", {len(inner)} × {inner[0]}" if len(inner) > 2 and len(set(inner)) == 1 and kinds else ""
        return called(child) + many, "block" if kinds else "other"
    convs = sum("conv" in kind for kind in kinds)
    if convs > 1:
        return f"{convs} convolutions", colour
    leaves = [module for module in child.modules() if is_leaf(module)]
    return " · ".join(called(module) for module in leaves), colour


NAMES = {
    "BatchNorm2d": "BatchNorm",
    "LocalResponseNorm": "local response normalisation",
    "ReLU": "ReLU",
    "RBF": "RBF",
    "Branches": "parallel branches",
    "convatlas.models.resnet.Block": "residual block",
    "convatlas.models.preact.Unit": "residual unit",
}


def called(module: nn.Module) -> str:
    """A class as words."""
    name = type(module).__name__
    return NAMES.get(f"{type(module).__module__}.{name}") or NAMES.get(name) or spaced(name)


def spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def reads(part: Part, rows: list[Part]) -> str:
    """What a part reads, where it is not the part before it alone."""
    if sorted(part.reads) == [1, 2]:
        return "reads the two before"
    if any(row.until for row in rows):
        return "reads " + ", ".join(f"{back} before" for back in part.reads)
    names = [rows[rows.index(part) - back].name for back in part.reads]
    short = [name.removeprefix("conv") for name in names]
    return ("reads conv " if all(each.isdigit() for each in short) else "reads ") + ", ".join(
        short if all(each.isdigit() for each in short) else names
    )


ROW, GAP = 34, 12


def overview(of: Counted, x: float, y: float, width: float) -> tuple[list[str], float]:
    """The parts as a column of boxes with arrows: drawing and height."""
    drawn, top, rows = list[str](), y, parts(of)
    for number, part in enumerate(rows):
        height = ROW if part.what else 22
        drawn.append(box(x, top, width, height, part.kind))
        drawn.append(label(x + 9, top + 14, part.title, anchor="start", bold=True))
        drawn.append(label(x + width - 9, top + 14, part.shape, anchor="end", colour=MUTED))
        if part.what:
            drawn.append(label(x + 9, top + 28, part.words, size=10.5, anchor="start"))
        if part.reads not in ([], [1]):
            drawn.append(
                label(x + width - 9, top + 28, reads(part, rows), size=9.5, anchor="end", colour=MUTED)
            )
        if number < len(rows) - 1 and (not rows[number + 1].reads or 1 in rows[number + 1].reads):
            drawn.append(arrow([(x + width / 2, top + height), (x + width / 2, top + height + GAP)]))
        top += height + GAP
    return drawn, top - GAP - y


def arrow(points: list[tuple[float, float]], *, head: bool = True) -> str:
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


def drawn_block(
    block: nn.Module, given: tuple[Any, ...], x: float, y: float, room: float
) -> tuple[list[str], float, float]:
    """One block with its branches: drawing, width and height."""
    nodes, edges, width, height = layered(graph(block, given))
    if width > WIDTH - 36:  # narrower boxes with more lines
        nodes, edges, width, height = layered([narrow(node) for node in graph(block, given)])
    left = x + max(0.0, (room - width) / 2)
    drawn: list[str] = []
    for a, b in edges:
        first, second = nodes[a], nodes[b]
        start = (left + first.x, y + first.y + first.height / 2)
        end = (left + second.x, y + second.y - second.height / 2)
        through = [(end[0], y + second.y + second.height / 2)] if second.dummy else []
        drawn.append(arrow([start, end, *through], head=not second.dummy))
    for node in nodes:
        if node.dummy:
            continue
        cx, cy = left + node.x, y + node.y
        if node.width == node.height == 24:
            drawn.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="12" fill="{PAPER}" stroke="{LINE}"/>')
            drawn.append(label(cx, cy + 5, node.lines[0], size=15))
            continue
        drawn.append(box(cx - node.width / 2, cy - node.height / 2, node.width, node.height, node.kind))
        for number, line in enumerate(node.lines):
            drawn.append(label(cx, cy - node.height / 2 + 16 + number * LINE_HEIGHT, line))
    return drawn, width, height


def svg(title: str, body: list[str], width: float, height: float) -> str:
    """A drawing on its own light ground, so that it can be read on a dark page too."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="DejaVu Sans, Verdana, sans-serif">'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.8 L7 4 L0 7.2 z" fill="{MUTED}"/></marker></defs>'
    )
    ground = f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", tip, ground, *body, "</svg>"]) + "\n"


def diagram(name: str) -> tuple[str, str]:
    """The drawing of a network, a family or a module, and the words for those who do not see it."""
    margin, top = 18.0, 48.0
    if name in MODULES or name in PARTS:
        if name in MODULES:
            build, given, title = MODULES[name]
            with META:
                block, arguments = build(), (torch.empty(1, *given),)
        else:
            network, path, title = PARTS[name]
            block, arguments = counted(network).network.get_submodule(path), received(counted(network))[path]
        body, width, height = drawn_block(block, arguments, margin, top, WIDTH - 2 * margin)
        heading = label(margin, 28, title, size=14, anchor="start", bold=True)
        return svg(title, [heading, *body], max(WIDTH, width + 2 * margin), top + height + margin), title
    network = REPRESENTATIVES.get(name) or (name if name in list_models() else first_of(name))
    of, column = counted(network), 290.0
    body = [label(margin, 28, network, size=14, anchor="start", bold=True)]
    found = repeated_block(of)
    if found is None:
        column = 420.0
    left, height = overview(of, margin if found else (WIDTH - column) / 2, top, column)
    body += left
    total = WIDTH
    if found is not None:
        path, block, given = found
        x, room = margin + column + 34, WIDTH - 2 * margin - column - 34
        _, width, _ = drawn_block(block, given, x, top, room)
        y = top
        if width > room:  # too wide to stand beside the column
            x, room, y = margin, WIDTH - 2 * margin, top + height + 56
        body.append(
            label(
                x,
                y - 20,
                f"{path.removeprefix('features.')}: {called(block)}",
                size=12,
                anchor="start",
                bold=True,
            )
        )
        right, width, block_height = drawn_block(block, given, x, y, room)
        body += right
        total = max(WIDTH, width + 2 * margin)
        height = max(height, y - top + block_height)
    return svg(
        network, body, total, top + height + margin
    ), f"{network}: its parts in order, and a block that it repeats"


def first_of(family: str) -> str:
    """The family's network for the largest images."""
    members = [spec for spec in specs() if spec.family == family]
    return max(members, key=lambda spec: spec.image).name


def shown(text: str, name: str, words: str) -> str:
    """A page with the line that shows a drawing below the one that asks for it."""
    line = f"![{words}](diagrams/{name}.svg)\n"
    return REQUEST.sub(lambda asked: asked[1] + line if asked[2] == name else asked[0], text)


def main(arguments: list[str]) -> int:
    """Write or compare every drawing that a page asks for, and the line that shows it; or those of the names given."""
    only_check = "--check" in arguments
    names = [word for word in arguments if not word.startswith("-")]
    stale: list[str] = []
    for page in sorted(PAGES.glob("*.md")):
        for _, name in REQUEST.findall(page.read_text()):
            if names and name not in names:
                continue
            drawing, words = diagram(name)
            file, text = PAGES / "diagrams" / f"{name}.svg", page.read_text()
            if file.exists() and file.read_text() == drawing and shown(text, name, words) == text:
                continue
            stale.append(name)
            if not only_check:
                file.parent.mkdir(exist_ok=True)
                file.write_text(drawing)
                page.write_text(shown(text, name, words))
    for name in stale:
        print(
            f"{name}: "
            + ("differs from the network; run `python docs/diagrams.py`" if only_check else "drawn")
        )
    return 1 if stale and only_check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
