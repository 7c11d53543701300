"""Who reads what in a forward pass: the calls of a trace as boxes with arrows, at a chosen depth.

Every tensor of a trace is made by one call and read by others, so the arrows are the tensors themselves: branches,
concatenations and residual sums need no rule of their own. A box is a call, or all the calls of one module.

Depths: a **layer** is a module without others inside; a **block** what a network repeats, such as a residual
block or an Inception module; a **stage** what stands between two cut points of a classifier, and elsewhere
a part of the network's outermost list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from convatlas.measure.operations import is_pool, is_view, macs
from convatlas.measure.trace import Call, Trace, holds_others
from convatlas.measure.words import kind

Depth = Literal["stage", "block", "layer"]
SIGNS = {"add": "+", "add_": "+", "mul": "×", "mul_": "×", "sub": "−", "sub_": "−", "cat": "concat"}
ACTS = {"relu": "ReLU", "relu_": "ReLU", "sigmoid": "sigmoid", "tanh": "tanh", "hardtanh": "ReLU6",
        "hardtanh_": "ReLU6", "silu": "SiLU", "silu_": "SiLU", "hardswish": "Hardswish", "hardswish_": "Hardswish",
        "gelu": "GELU", "elu": "ELU", "leaky_relu": "LeakyReLU", "_softmax": "softmax"}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze",
          "expand", "clone", "alias", "detach", "contiguous", "flatten", "split", "split_with_sizes", "chunk",
          "_to_copy", "native_dropout", "dropout", "unbind", "copy_"}  # fmt: skip


@dataclass
class Box:
    """One box: the calls in it, and the boxes that it reads, by number. `name` is a module's path, "" for the image.

    `sign` is set where the box is an operation that joins tensors, between modules.
    """

    name: str
    calls: list[Call]
    inputs: list[int]
    shape: tuple[int, ...]
    sign: str = ""

    @property
    def params(self) -> int:
        """Parameters first used here."""
        return sum(size for call in self.calls for size in call.params.values())

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(macs(op) for call in self.calls for op in call.ops)


def flow(traced: Trace, group: Callable[[str], str | None]) -> list[Box]:
    """The boxes of a trace in call order, its inputs first; each after those that it reads.

    `group` gives the box that a module's path belongs to, or None: then each of its calls is a box, and what
    changes no number, such as dropout in evaluation, is left out. Calls of one module that follow each other
    directly are one box.
    """
    boxes = [Box("", [], [], tuple(tensor.shape[1:])) for tensor in traced.inputs]
    maker = {id(tensor): number for number, tensor in enumerate(traced.inputs)}

    def sources(tensors: Iterable[Tensor]) -> list[int]:
        found = [_made(tensor, maker) for tensor in tensors]
        return list(dict.fromkeys(box for box in found if box is not None))

    opened: str | None = None
    for call in traced.calls:
        home, reads = group(call.name), sources(call.inputs)
        if call.output is None or (call.module is None and not reads and is_view(call.ops[0])):
            continue  # such as weights that are turned before use
        if reads and (home is None or home != opened) and _silent(call, reads):
            maker |= dict.fromkeys(map(id, call.outputs), reads[0])  # opens no box
            continue
        if home is None:
            opened = None
            shape, sign = tuple(call.output.shape[1:]), _sign(call, reads)
            if call.class_name == "mean" and boxes[-1].sign == "stack" and reads == [len(boxes) - 1]:
                boxes[-1].sign, boxes[-1].shape = "mean", shape  # of several tensors: one join
            else:
                boxes.append(Box(call.name, [call], reads, shape, sign))
        elif home == opened:
            box, own = boxes[-1], len(boxes) - 1
            box.calls.append(call)
            box.inputs = list(dict.fromkeys([*box.inputs, *(source for source in reads if source != own)]))
            box.shape = tuple(call.output.shape[1:])
        elif call.module is None and _sign(call, reads) == "concat":
            # at the entrance of a box: drawn in front of it, so that what is read can be seen
            boxes.append(Box(home, [call], reads, tuple(call.output.shape[1:]), "concat"))
        else:
            boxes.append(Box(home, [call], reads, tuple(call.output.shape[1:])))
            opened = home
        if call.ops or not any(call.output is tensor for tensor in call.inputs):  # an identity makes nothing
            maker |= dict.fromkeys(map(id, call.outputs), len(boxes) - 1)
    return _shared_prefixes(boxes)


def _made(tensor: Tensor, maker: dict[int, int]) -> int | None:
    """The box that made a tensor, or what it is a part of."""
    if id(tensor) in maker:
        return maker[id(tensor)]
    whole = tensor._base  # pyright: ignore[reportPrivateUsage]
    return maker.get(id(whole)) if whole is not None else None


def _silent(call: Call, reads: Sequence[int]) -> bool:
    """Whether a call can be left out of a drawing: it changes no number, or joins a tensor with a constant."""
    if call.params or any(macs(op) for op in call.ops):
        return False
    if call.module is not None:
        return all(op.name in _VIEWS for op in call.ops)
    name = call.ops[0].name
    return name in _VIEWS or (
        len(reads) < 2 and name not in ACTS and not is_pool(call.ops[0]) and name != "mean"
    )


def _sign(call: Call, reads: Sequence[int]) -> str:
    """How an operation that joins tensors is drawn; "" for any other call."""
    if call.module is not None or len(reads) < 2:
        return ""
    name = call.ops[0].name
    return SIGNS.get(name, name)


def _shared_prefixes(boxes: list[Box]) -> list[Box]:
    """Concatenations of what another has concatenated already read that one: cat(a, b, c) = cat(cat(a, b), c)."""
    known: dict[tuple[int, ...], int] = {}
    for index, box in enumerate(boxes):
        if box.sign != "concat":
            continue
        whole = tuple(box.inputs)
        longest = max((key for key in known if whole[: len(key)] == key), key=len, default=())
        if longest == whole:
            continue
        if longest:
            box.inputs = [known[longest], *whole[len(longest) :]]
        known[whole] = index
    return boxes


# --- depths ---------------------------------------------------------------------------------------------------


def groups(model: nn.Module, traced: Trace, depth: Depth) -> dict[str, str]:
    """The modules that are one box each at this depth, by path, and the name of the box (their own, or a stage's)."""
    if depth == "layer":
        return {}
    called = {call.name for call in traced.calls if call.module is not None}
    weighing = {call.name for call in traced.calls if call.weight}
    called |= {name for name in weighing if not holds_others(model.get_submodule(name))}
    if called <= {""}:  # weights alone, and functions: there is nothing to sum
        return {}
    parts = _parts(model, _counts(model, called))
    if depth == "stage":
        return _by_stage(model, parts)
    return {path: path for part in parts for path in _blocks(model, part, _counts(model, called))}


def _counts(model: nn.Module, called: set[str]) -> dict[str, int]:
    """Layers with weights below each module that the pass calls, by path; modules without any count 0."""
    found: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name not in called:
            continue
        weighs = any(p.dim() > 1 for p in module.parameters())
        above = name
        while True:
            found[above] = found.get(above, 0) + weighs
            if not above:
                break
            above = above.rpartition(".")[0]
    return found


def _children(model: nn.Module, path: str, counts: dict[str, int]) -> list[str]:
    start = f"{path}." if path else ""
    return [start + name for name, _ in model.get_submodule(path).named_children() if start + name in counts]


def _parts(model: nn.Module, counts: dict[str, int]) -> list[str]:
    """The network's outermost list: a part that holds more than half of the layers is opened, while there are few."""
    parts = _children(model, "", counts) or [""]
    while sum(counts[part] > 0 for part in parts) < 4:
        largest = max(parts, key=lambda part: counts[part])
        inner = _children(model, largest, counts)
        if counts[largest] * 2 <= counts[""] or not inner:
            break
        place = parts.index(largest)
        parts[place : place + 1] = inner
    return parts


def _by_stage(model: nn.Module, parts: list[str]) -> dict[str, str]:
    """Parts up to each cut point together, if the network has any; else each alone."""
    cuts = {str(stage.name) for stage in getattr(model, "stages", ()) if hasattr(stage, "name")}
    found, waiting = dict[str, str](), list[str]()
    for part in parts:
        waiting.append(part)
        if part.rpartition(".")[2] in cuts:
            found |= dict.fromkeys(waiting, part)
            waiting = []
    return found | {part: part for part in waiting}


def _blocks(model: nn.Module, path: str, counts: dict[str, int]) -> list[str]:
    """The boxes of a part: lists are opened down to what has an inner structure of its own."""
    inner = _children(model, path, counts)
    rich = [child for child in inner if counts[child] > 1]
    kinds = [type(model.get_submodule(child)) for child in rich]
    plain = isinstance(model.get_submodule(path), (nn.Sequential, nn.ModuleList))
    repeats = len(kinds) > 1 and len(set(kinds)) == 1 and kinds[0] is not nn.Sequential
    long = plain and not rich and counts[path] * 2 > counts[""]
    if (plain and rich) or repeats or long:
        return [box for child in inner for box in _blocks(model, child, counts)]
    return [path]


def grouping(boxes: dict[str, str]) -> Callable[[str], str | None]:
    """For `flow`: the box of a path is that of the nearest module above it which is one."""

    def group(path: str) -> str | None:
        while path:
            if path in boxes:
                return boxes[path]
            path = path.rpartition(".")[0]
        return boxes.get("")

    return group


def what(call: Call) -> tuple[str, str]:
    """A layer in a few words, and what kind of box it is: "conv", "pool", "linear", "act" or "other"."""
    if call.module is None and (name := ACTS.get(call.ops[0].name)):
        return name, "act"
    words = kind(call)
    if "conv" in words:
        return words.replace("depthwise conv", "depthwise"), "conv"
    if "pool" in words.lower():
        side = set(call.output.shape[2:]) if call.output is not None else set[int]()
        return (
            "global avg pool" if words.lower().startswith("adaptiveavg") and side == {1} else words
        ), "pool"
    if words.startswith(("linear", "matrix")):
        return words, "linear"
    short = {"LocalResponseNorm": "LRN", "LayerNorm": "LayerNorm", "GroupNorm": "GroupNorm"}
    if "Norm" in words or "norm" in words:
        return short.get(words, "BN"), "act"
    functions = nn.modules.activation.__all__
    return words, "act" if words in functions or words in ACTS.values() else "other"
