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
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from convatlas.audit.counted import Counted, counted
from convatlas.hooks import eval_mode, watched
from convatlas.layers.drop_path import DropPath
from convatlas.measure.diagram import folded, shape_text
from convatlas.measure.drawing import MUTED, arrow, box, label, sheet
from convatlas.measure.drawing import graph as boxes
from convatlas.measure.flow import flow, grouping, what
from convatlas.measure.layout import Node, layered
from convatlas.measure.trace import META, tensors_in, trace
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
    "speedrun": "speedrun_cifar",
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
    nn.GELU,
)
SILENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, DropPath)


# --- the graph of a forward pass ------------------------------------------------------------------------------


def is_leaf(module: nn.Module) -> bool:
    """Drawn as one box: a module without others inside."""
    return not any(True for _ in module.children())


def graph(block: nn.Module, given: tuple[Any, ...]) -> list[Node]:
    """The boxes of one forward pass for these arguments, activations and norms written into their neighbours.

    In a large block, chains of layers such as separable convolutions are one box.
    """
    tensors = tensors_in(given)
    traced = trace(block, [tuple(tensor.shape[1:]) for tensor in tensors])
    found = flow(traced, grouping(chains(block)))
    nodes: list[Node] = []
    for number, made in enumerate(found, start=1):
        if number <= len(tensors):
            which = f"input {number}" if len(tensors) > 1 else "input"
            words, kind = f"{which} {shape_text(made.shape)}", "other"
        elif made.sign:
            words, kind = made.sign, "join"
        elif len(made.calls) > 1:
            words, kind = chain_words(block.get_submodule(made.name))
        else:
            words, kind = what(made.calls[0])
            words = spaced(words) if kind == "other" else words
        nodes.append(Node([words], kind, made.inputs))
    used = {source for node in nodes for source in node.inputs}
    ends = [number for number in range(len(nodes)) if number not in used]
    return folded([*nodes, Node([f"output {shape_text(found[-1].shape)}"], "other", ends)])


def chains(block: nn.Module) -> dict[str, str]:
    """In a large block, the outermost lists of several convolutions: one box each."""
    if sum(is_leaf(module) for module in block.modules()) <= 30:
        return {}
    found: dict[str, str] = {}
    for name, module in block.named_modules():
        convs = sum(isinstance(inner, nn.Conv2d) for inner in module.modules())
        if name and isinstance(module, nn.Sequential) and convs > 1:
            found[name] = name
    return {name: name for name in found if not any(name.startswith(f"{other}.") for other in found)}


def chain_words(module: nn.Module) -> tuple[str, str]:
    """A chain of layers in one box."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    side, stride = convs[0].kernel_size, max(m.stride[0] for m in convs)
    deep = [m for m in convs if m.groups > 1]
    if deep:
        side = deep[0].kernel_size
    text = "separable" if deep else "conv"
    return f"{text} {side[0]}x{side[1]}" + (f"/{stride}" if stride > 1 else ""), "conv"


def narrow(node: Node) -> Node:
    """The same box with its words below each other."""
    if node.kind in ("conv", "pool"):
        node.lines = [part for line in node.lines for part in re.split(r" (?=\d+x\d+)", line)]
    return node


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
    names = [f"features.{name}" for name, _ in of.network.get_submodule("features").named_children()]
    found = flow(trace(of.network, of.image), grouping({name: name for name in names}))

    def makers(number: int) -> list[str]:
        made = found[number]
        if made.sign:
            return [name for source in made.inputs for name in makers(source)]
        return [made.name.removeprefix("features.") or "image"]

    return {
        box.name.removeprefix("features."): list(
            dict.fromkeys(name for i in box.inputs for name in makers(i))
        )
        for box in found
        if box.name in names and not box.sign
    }


# --- drawing --------------------------------------------------------------------------------------------------


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


def drawn_block(
    block: nn.Module, given: tuple[Any, ...], x: float, y: float, room: float
) -> tuple[list[str], float, float]:
    """One block with its branches: drawing, width and height."""
    layout = layered(graph(block, given))
    if layout.width > WIDTH - 36:  # narrower boxes with more lines
        layout = layered([narrow(node) for node in graph(block, given)])
    return boxes(layout, x + max(0.0, (room - layout.width) / 2), y), layout.width, layout.height


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
        return sheet(title, [heading, *body], max(WIDTH, width + 2 * margin), top + height + margin), title
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
    return sheet(
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
