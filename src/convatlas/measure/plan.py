"""A network's plan: its weight layers in order, how wide and how fine the maps are, and where the resolution falls.

Read from the recorded operations, so any network has one: branches, shortcuts, functional calls and reused modules
are seen as what they do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from convatlas.layers.saf_pooling import StrongestOff
from convatlas.measure.operations import is_pool, macs
from convatlas.measure.trace import Call, Op, Trace, memory_of, trace

Steps = tuple[int, ...]  # pixels of the image that a step on a map is, by axis


@dataclass(slots=True)
class Layer:
    """A convolution, or a matrix product with weights.

    `stride` is how many pixels of the image one step on the output's map is. `kernel` is empty for a matrix product;
    one that is made at every pixel alike is a 1x1 convolution. `shortcut`: a convolution that is all there is of a
    branch which is added to a longer one. `completes`: 1x1 after a depthwise one, the second half of a separable
    convolution.
    """

    name: str
    kernel: tuple[int, ...]
    width: int
    stride: int
    params: int
    macs: int
    depthwise: bool = False
    completes: bool = False
    shortcut: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether a convolution looks at one pixel."""
        return bool(self.kernel) and math.prod(self.kernel) == 1


@dataclass(slots=True)
class Fall:
    """Where the resolution falls to one pixel in `stride`: `halvings` of it, after `after` convolutions, by what.

    `pools`, `strided`, `others`: the names of the pools, of the convolutions, and of what else does it.
    """

    stride: int
    halvings: int
    after: int
    pools: list[str] = field(default_factory=list)
    strided: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Dropout:
    """A module that switches units off while training, and the layer that it follows (None: the image)."""

    name: str
    rate: float
    after: Layer | None


@dataclass(frozen=True, slots=True)
class Width:
    """The channels of a map that a convolution or a concatenation makes."""

    name: str
    stride: int
    channels: int


@dataclass(slots=True)
class Plan:
    """What `read_plan` finds: convolutions of maps (`body`), matrix products after them (`head`), the rest apart."""

    body: list[Layer] = field(default_factory=list)
    head: list[Layer] = field(default_factory=list)
    shortcuts: list[Layer] = field(default_factory=list)
    classifier: Layer | None = None
    falls: list[Fall] = field(default_factory=list)
    widths: list[Width] = field(default_factory=list)
    dropouts: list[Dropout] = field(default_factory=list)

    @property
    def layers(self) -> list[Layer]:
        """Body and head, without shortcuts and classifier, in order."""
        return [*self.body, *self.head]

    @property
    def groups(self) -> list[list[Layer]]:
        """The convolutions by resolution, fine to coarse."""
        strides = sorted({layer.stride for layer in self.body})
        return [[layer for layer in self.body if layer.stride == stride] for stride in strides]


def read_plan(model: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> Plan:
    """The plan of any network for one image of `input_shape` (C, H, W), without computing anything.

    Convolutions of maps of one pixel, and matrix products, before the last convolution are gates such as those of
    squeeze-excitation, and no layers of the plan. The last layer with weights is the classifier, where the output is
    a vector and the layer a matrix product or a 1x1 convolution: the task decides its size.

    Raises `UsageError` if the network does not take such an image.

    Examples:
        >>> plan = read_plan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)), (3, 16, 16))
        >>> [(layer.width, layer.stride) for layer in plan.body], plan.falls[0].pools
        ([(8, 1), (16, 2)], ['1'])
    """
    return _Reader(trace(model, input_shape)).plan()


@dataclass(slots=True)
class _Map:
    """What is known of an activation.

    `before`: the convolutions that it has come through, as bits. `last`: the latest of them on its branch. `grid`:
    whether its axes are (N, C, pixels).
    """

    steps: Steps
    before: int = 0
    last: Layer | None = None
    grid: bool = True


_JOINS = ("add", "add_", "cat")
_RESHAPES = ("view", "_unsafe_view", "reshape", "permute", "transpose", "t")


class _Reader:
    """Follows the activations from operation to operation. Tensors are told apart by `id`: the trace keeps them."""

    def __init__(self, traced: Trace) -> None:
        self.traced = traced
        self.maps = {id(tensor): _Map((1,) * max(1, tensor.dim() - 2)) for tensor in traced.inputs}
        self.layers: list[Layer] = []
        self.convolutions: list[Layer] = []
        self.found = Plan()
        self.counted: set[int] = set()  # weights that a layer has, by storage
        for call in traced.calls:
            self._call(call)

    def _call(self, call: Call) -> None:
        if rate := dropout_rate(call.module):
            self.found.dropouts.append(Dropout(call.name, rate, self.layers[-1] if self.layers else None))
        for op in call.ops:
            inputs = [tensor for tensor in op.inputs if id(tensor) in self.maps]
            if inputs:
                self._operation(call.name or op.name, op, inputs)

    def _operation(self, name: str, op: Op, inputs: list[Tensor]) -> None:
        image, output = max(inputs, key=Tensor.numel), op.output
        known = [self.maps[id(tensor)] for tensor in inputs]
        main = self.maps[id(image)]
        alike = [each for each in known if len(each.steps) == len(main.steps)]
        steps = tuple(max(each.steps[axis] for each in alike) for axis in range(len(main.steps)))
        if op.name in ("squeeze", "unsqueeze"):  # a pool of a sequence is one of a map one pixel high
            steps = _of_axes(output.dim() - 2, steps)
        made = _Map(steps, last=None if op.name in _JOINS else main.last)
        made.grid = "convolution" in op.name or (main.grid and op.name not in _RESHAPES)
        for each in known:
            made.before |= each.before
        if made.grid and pixels(image) > 1 and pixels(output) > 1:
            made.steps = _coarser(op, image, steps)
            if max(made.steps) > max(steps):
                self._fall(name, op, max(made.steps), max(steps))
            if op.name == "cat" and output.shape[1] > image.shape[1]:
                self.found.widths.append(Width(name, max(made.steps), output.shape[1]))
        if op.name in ("add", "add_"):
            self._shortcuts(known)
        if macs(op):
            self._weighted(name, op, image, made)
        for each in op.outputs:
            self.maps[id(each)] = made

    def _weighted(self, name: str, op: Op, image: Tensor, made: _Map) -> None:
        """A convolution or a matrix product: a layer if it has weights."""
        weights = [tensor for tensor in op.inputs if id(tensor) not in self.maps]
        if not weights:
            return
        size = sum(tensor.numel() for tensor in weights if memory_of(tensor) not in self.counted)
        self.counted.update(map(memory_of, weights))
        convolution = "convolution" in op.name
        everywhere = not convolution and image.numel() > image.shape[-1]
        kernel = tuple(op.args[1].shape[2:]) if convolution else (1, 1) if everywhere else ()
        width = op.output.shape[1 if convolution else -1]
        layer = Layer(name, kernel, width, max(made.steps), size, macs(op))
        if everywhere or (convolution and pixels(image) > 1):
            layer.depthwise = convolution and op.args[8] == image.shape[1] > 1
            layer.completes = layer.pointwise and made.last is not None and made.last.depthwise
            made.before |= 1 << len(self.convolutions)
            self.convolutions.append(layer)
            self.found.widths.append(Width(name, layer.stride, width))
        made.last = layer
        self.layers.append(layer)

    def _fall(self, name: str, op: Op, stride: int, before: int) -> None:
        falls = self.found.falls
        if not falls or stride > falls[-1].stride:
            falls.append(Fall(stride, max(1, round(math.log2(stride / before))), len(self.convolutions)))
        for fall in falls:
            if fall.stride == stride:
                doing = "strided" if "convolution" in op.name else "pools" if is_pool(op) else "others"
                getattr(fall, doing).append(name)

    def _shortcuts(self, known: list[_Map]) -> None:
        """An addition: a branch of one convolution beside one of several is a shortcut."""
        for one in known:
            for other in known:
                own, others = one.before & ~other.before, other.before & ~one.before
                if own.bit_count() == 1 and others.bit_count() > 1:
                    self.convolutions[own.bit_length() - 1].shortcut = True

    def plan(self) -> Plan:
        """The layers, sorted."""
        found, output = self.found, self.traced.output
        layers = [layer for layer in self.layers if not layer.shortcut]
        vector = output is not None and pixels(output) == 1
        if vector and layers and (not layers[-1].kernel or layers[-1].pointwise):
            found.classifier = layers.pop()
        mapped = {id(layer) for layer in self.convolutions}
        found.body = [layer for layer in layers if id(layer) in mapped]
        end = max((place for place, layer in enumerate(layers) if id(layer) in mapped), default=-1)
        found.head = layers[end + 1 :]
        found.shortcuts = [layer for layer in self.convolutions if layer.shortcut]
        apart = [layer.name for layer in (*found.shortcuts, found.classifier) if layer is not None]
        found.widths = [width for width in found.widths if width.name not in apart]
        for fall in found.falls:
            beside = sum(layer.shortcut for layer in self.convolutions[: fall.after])
            fall.after = min(fall.after - beside, len(found.body))
        return found


def dropout_rate(module: nn.Module | None) -> float:
    """The share of units that a module switches off while training; 0 for what is no dropout.

    Dropping whole paths (stochastic depth) is none: it removes layers, not units.
    """
    known = isinstance(module, (nn.modules.dropout._DropoutNd, StrongestOff))  # pyright: ignore[reportPrivateUsage]
    return float(getattr(module, "p", 0.0)) if known or type(module).__name__.startswith("DropBlock") else 0.0


def pixels(tensor: Tensor) -> int:
    """The pixels of a map (N, C, ...): 1 for a vector."""
    return math.prod(tensor.shape[2:])


def _of_axes(axes: int, steps: Steps) -> Steps:
    """The steps of a map that was given another number of axes: new ones come first, as do those that go."""
    axes = max(1, axes)
    return (1,) * (axes - len(steps)) + steps[max(0, len(steps) - axes) :]


def _coarser(op: Op, image: Tensor, steps: Steps) -> Steps:
    """The steps after an operation: a stride multiplies them, other changes of size by their whole ratio."""
    arguments: list[Any] = list(op.args)
    windowed = is_pool(op) and not any(word in op.name for word in ("adaptive", "fractional"))
    if windowed or "convolution" in op.name:
        steps = _of_axes(image.dim() - 2, steps)
    if "convolution" in op.name:
        factors = [1 / stride if arguments[6] else float(stride) for stride in arguments[3]]
    elif windowed:
        window, stride = arguments[1], (arguments[2:3] or [None])[0] or arguments[1]
        factors = [float(each) for each in ([stride] if isinstance(window, int) else stride)]
    elif image.dim() == op.output.dim() == len(steps) + 2:
        ratios = [before / after for before, after in zip(image.shape[2:], op.output.shape[2:], strict=True)]
        factors = [float(round(r)) if r >= 1.5 else 1 / round(1 / r) if r <= 1 / 1.5 else 1.0 for r in ratios]
    else:
        return steps
    factors = factors * len(steps) if len(factors) == 1 else factors  # ATen keeps one number for all axes
    return tuple(max(1, round(step * factor)) for step, factor in zip(steps, factors, strict=True))
