"""The graph of a network: its arrows are those of the forward pass, its boxes keep apart, its words fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure import diagram
from convatlas.measure.flow import Depth, flow, grouping, groups, what
from convatlas.measure.layout import GAP_X, Node, layered
from convatlas.measure.operations import macs
from convatlas.measure.trace import trace
from convatlas.models import create_model, find

SVG = "{http://www.w3.org/2000/svg}"


def built(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    spec = find(name)
    with blueprint():
        return create_model(name), (spec.channels, spec.image, spec.image)


def reads(nodes: list[Node]) -> dict[str, list[str]]:
    """What each box reads, by their words."""
    words = [node.title or " / ".join(node.lines) for node in nodes]
    return {words[i]: sorted(words[j] for j in node.inputs) for i, node in enumerate(nodes)}


# --- arrows ---------------------------------------------------------------------------------------------------


class Crossing(nn.Module):
    """A residual sum, a gate, a split and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.left, self.gate, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(2, 4, 1)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        summed = self.drop(self.left(y)) + y
        gated = summed * torch.sigmoid(self.gate(summed))
        return torch.cat([gated, self.right(y.chunk(2, 1)[1]), y], 1)


def test_a_net_drawn_by_hand() -> None:
    net = Crossing()
    assert reads(diagram.boxes(net, trace(net, (3, 8, 8)), "layer")) == {
        "image 3 × 8 × 8": [],
        "stem.0": ["image 3 × 8 × 8"],
        "left": ["stem.0"],
        "+": ["left", "stem.0"],
        "gate": ["+"],
        "×": ["+", "gate"],
        "right": ["stem.0"],
        "concat": ["right", "stem.0", "×"],
        "output": ["concat"],
    }


def test_norms_and_activations_are_words_of_their_layer() -> None:
    net = Crossing()
    stem = diagram.boxes(net, trace(net, (3, 8, 8)), "layer")[1]
    assert [word for line in stem.lines for word in line.split(" · ")] == ["conv 3x3, 4", "BN", "ReLU"]
    assert stem.note == "4 × 8 × 8 · 112 params"


def test_a_norm_before_a_layer_is_a_word_of_it() -> None:
    branch = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    nodes = diagram.boxes(branch, trace(branch, (3, 8, 8)), "layer")
    assert [node.lines for node in nodes] == [["image 3 × 8 × 8"], ["BN · ReLU", "conv 1x1, 4"], ["output"]]


class Weightless(nn.Module):
    """Everything as functions, one module used twice, a module that gives back what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.same = nn.Conv2d(3, 3, 3, padding=1), nn.Identity()
        self.weight = nn.Parameter(torch.zeros(5, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.conv(x))
        z = nn.functional.conv2d(nn.functional.max_pool2d(self.same(y), 2), self.weight)
        return z.flatten(1)


def test_functions_and_shared_modules() -> None:
    net = Weightless()
    nodes = diagram.boxes(net, trace(net, (3, 8, 8)), "layer")
    assert [node.title or node.lines[0] for node in nodes] == [
        "image 3 × 8 × 8", "conv", "conv", "max pool 2x2/2", "weight", "output"]  # fmt: skip
    assert nodes[4].lines == ["conv 1x1, 5"]
    assert [node.inputs for node in nodes] == [[], [0], [1], [2], [3], [4]]
    assert nodes[2].note == "3 × 8 × 8", "the second use has no weights of its own"


def weighty_ancestors(
    parents: Callable[[Any], list[Any]], weighty: Callable[[Any], str], node: Any
) -> set[str]:
    """The nearest layers with weights that a node depends on."""
    found, waiting, seen = set[str](), list(parents(node)), set[int]()
    while waiting:
        above = waiting.pop()
        if id(above) in seen:
            continue
        seen.add(id(above))
        if name := weighty(above):
            found.add(name)
        else:
            waiting += parents(above)
    return found


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "mobilenet_v3_small", "vgg11"])
def test_layers_read_what_a_symbolic_trace_says(name: str) -> None:
    """torch.fx follows the Python code, without tensors; the diagram follows the tensors."""
    model, image = built(name)
    graph = fx.symbolic_trace(model.eval()).graph
    modules = dict(model.named_modules())

    def called(node: fx.Node) -> str:
        weighs = node.op == "call_module" and isinstance(modules[str(node.target)], (nn.Conv2d, nn.Linear))
        return str(node.target) if weighs else ""

    expected = {
        called(node): weighty_ancestors(lambda n: list(n.all_input_nodes), called, node)
        for node in graph.nodes
        if called(node)
    }
    boxes = flow(trace(model, image), lambda path: None)

    def own(box: Any) -> str:
        return box.name if box.calls and what(box.calls[0])[1] in ("conv", "linear") else ""

    assert {
        own(box): weighty_ancestors(lambda b: [boxes[i] for i in b.inputs], own, box)
        for box in boxes
        if own(box)
    } == expected


@pytest.mark.parametrize("name", ["densenet121", "fractalnet21_cifar", "nasnetamobile", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("depth", ["stage", "block", "layer"])
def test_every_parameter_and_multiplication_is_in_one_box(name: str, depth: Depth) -> None:
    model, image = built(name)
    traced = trace(model, image)
    boxes = flow(traced, grouping(groups(model, traced, depth)))
    assert sum(box.params for box in boxes) == sum(sum(call.params.values()) for call in traced.calls)
    assert sum(box.macs for box in boxes) == sum(macs(op) for call in traced.calls for op in call.ops) > 0
    assert all(source < number for number, box in enumerate(boxes) for source in box.inputs)
    used = {source for box in boxes for source in box.inputs}
    assert set(range(len(boxes) - 1)) <= used, "only the last box feeds no other"


def test_depths_are_the_words_of_the_papers() -> None:
    def titles(name: str, depth: Depth) -> list[str]:
        model, image = built(name)
        return [node.title for node in diagram.boxes(model, trace(model, image), depth) if node.title]

    assert titles("resnet18", "stage") == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "head"]
    assert titles("resnet18", "block")[:4] == ["conv1", "pool1", "conv2_x.0", "conv2_x.1"]
    assert "inception4e" in titles("googlenet", "block")
    assert titles("googlenet", "stage") == [
        "conv1",
        "conv2",
        "inception3b",
        "inception4e",
        "inception5b",
        "head",
    ]
    assert sum("layer" in title for title in titles("densenet121", "block")) == 6 + 12 + 24 + 16


def test_a_dense_layer_reads_one_concatenation() -> None:
    model, image = built("densenet121")
    nodes = diagram.boxes(model, trace(model, image), "block")
    assert max(len(node.inputs) for node in nodes) == 2
    second = next(node for node in nodes if node.title == "dense1.layer2")
    (joined,) = second.inputs
    assert {nodes[i].title for i in nodes[joined].inputs} == {"pool1", "dense1.layer1"}
    assert nodes[joined].note == "96 × 56 × 56"


class Two(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.relu(y)


@pytest.mark.parametrize("depth", ["stage", "block", "layer"])
def test_what_does_nothing_is_no_box(depth: Depth) -> None:
    net = nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2), nn.Identity()
    )
    nodes = diagram.boxes(net, trace(net, (3, 8, 8)), depth)
    assert [node.inputs for node in nodes] == [[], [0], [1], [2]]


def test_several_inputs() -> None:
    nodes = diagram.boxes(net := Two(), trace(net, [(3, 4, 4), (3, 4, 4)]), "layer")
    assert reads(nodes) == {
        "input 1 3 × 4 × 4": [],
        "input 2 3 × 4 × 4": [],
        "ReLU": ["input 2 3 × 4 × 4"],
        "+": ["ReLU", "input 1 3 × 4 × 4"],
        "output": ["+"],
    }


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(UsageError, match="stage, block, layer"):
        diagram.svg(nn.Conv2d(3, 3, 3), (3, 8, 8), "floor")  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", ["stage", "block", "layer"])
def test_a_network_of_one_layer(depth: Depth) -> None:
    nodes = diagram.boxes(net := nn.Conv2d(3, 4, 3), trace(net, (3, 8, 8)), depth)
    assert [node.inputs for node in nodes] == [[], [0], [1]]
    assert nodes[1].note == "4 × 6 × 6 · 112 params"


# --- places ---------------------------------------------------------------------------------------------------


def apart(nodes: list[Node]) -> bool:
    """Whether no two boxes or bends share a place."""
    return not any(
        abs(a.x - b.x) < (a.width + b.width) / 2 - 0.2 and abs(a.y - b.y) < (a.height + b.height) / 2 - 0.2
        for a, b in combinations(nodes, 2)
    )


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_graphs_have_no_overlap_and_point_down(data: st.DataObject) -> None:
    boxes = [Node(["input"], "other", [])]
    for number in range(1, data.draw(st.integers(2, 24))):
        sources = data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=4, unique=True))
        kind = data.draw(st.sampled_from(["conv", "join", "pool"]))
        boxes.append(Node(["+"] if kind == "join" else ["w" * data.draw(st.integers(1, 30))], kind, sources))
    used = {source for box in boxes for source in box.inputs}
    boxes.append(Node(["output"], "other", [i for i in range(len(boxes)) if i not in used]))
    layout = layered(boxes)
    assert apart(layout.nodes)
    for a, b in layout.edges:
        assert layout.nodes[b].level == layout.nodes[a].level + 1
        assert layout.nodes[b].y - layout.nodes[b].height / 2 > layout.nodes[a].y + layout.nodes[a].height / 2
    ways = {(a, b) for b, box in enumerate(boxes) for a in box.inputs}
    after = {a: [b for c, b in layout.edges if c == a] for a in range(len(layout.nodes))}
    starts = [(a, b) for a in range(len(boxes)) for b in after[a]]
    ends = set()
    for start, node in starts:  # along the bends
        while layout.nodes[node].dummy:
            (node,) = after[node]
        ends.add((start, node))
    assert ends == ways
    for level in range(1 + max(node.level for node in layout.nodes)):
        row = sorted((n for n in layout.nodes if n.level == level), key=lambda node: node.x)
        for left, right in pairwise(row):
            assert right.x - left.x >= (left.width + right.width) / 2 + GAP_X - 1.5


@pytest.mark.parametrize(
    ("name", "depth"),
    [("vgg16", "block"), ("resnet18", "layer"), ("googlenet", "stage"), ("googlenet", "layer"),
     ("densenet121", "block"), ("fractalnet21_cifar", "layer"), ("nasnetamobile", "block"),
     ("efficientnet_b0", "layer")],
)  # fmt: skip
def test_a_picture_is_whole(name: str, depth: Depth) -> None:
    """Well-formed; boxes keep apart and on the sheet; words fit their boxes; nothing is loaded from anywhere."""
    model, image = built(name)
    text = diagram.svg(model, image, depth, title=name)
    assert text == diagram.svg(model, image, depth, title=name), "the same network, the same bytes"
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if "x" in rect.attrib
    ]
    assert len(boxes) > 5
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    for (x, y, w, h), (a, b, c, d) in combinations(boxes, 2):
        assert x + w <= a + 0.2 or a + c <= x + 0.2 or y + h <= b + 0.2 or b + d <= y + 0.2
    for words in root.iter(f"{SVG}text"):
        x, y = float(words.attrib["x"]), float(words.attrib["y"])
        homes = [w for a, b, w, h in boxes if a <= x <= a + w and b <= y <= b + h]
        letter = 0.63 if "font-weight" in words.attrib else 0.56
        assert all(len(words.text or "") * float(words.attrib["font-size"]) * letter <= w for w in homes), (
            words.text
        )
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme: dark" in text


def test_names_are_data_in_a_picture() -> None:
    net = nn.Sequential()
    net.add_module("<script>&", nn.Conv2d(3, 4, 3))
    root = ElementTree.fromstring(diagram.svg(net, (3, 8, 8), "layer", title="<b>"))
    assert "<script>&" in [element.text for element in root.iter(f"{SVG}text")]
