"""What flows through a network: mean, deviation and histogram of every layer, dead ReLUs, saturated sigmoids.

A row is one call of a weight layer or of an activation function, in forward order. Activation functions are seen as
operations, so that `F.relu(x)` in somebody's `forward` counts like `nn.ReLU()`, and is looked at before anything else
is written into its memory.

- **Dead**: a unit of a ReLU that is not above 0 for any of the images. A unit is a channel at a position (the number
  that a gradient passes through), or a whole channel (a filter, whose weights get no gradient any more). Both are
  given; of a linear layer they are the same.
- **Saturated**: outputs of sigmoid or tanh within 0.5 % of the range from an end: |tanh| > 0.99, or sigmoid outside
  0.005 to 0.995. There the derivative is below 2 % of its largest value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from convatlas.errors import UsageError
from convatlas.measure.depth import is_weight_layer
from convatlas.measure.trace import tensors_in
from convatlas.measure.watch import Watch, watched_pass

RECTIFIERS = {"relu": "ReLU", "relu_": "ReLU", "hardtanh": "ReLU6", "hardtanh_": "ReLU6"}
SQUASHERS = {"sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh"}
OTHERS = {
    "leaky_relu": "leaky ReLU", "leaky_relu_": "leaky ReLU", "_prelu_kernel": "PReLU", "elu": "ELU", "elu_": "ELU",
    "gelu": "GELU", "silu": "SiLU", "silu_": "SiLU", "hardswish": "hard swish", "hardswish_": "hard swish",
    "hardsigmoid": "hard sigmoid", "hardsigmoid_": "hard sigmoid", "mish": "Mish", "softplus": "softplus",
}  # fmt: skip
ACTIVATIONS = {**RECTIFIERS, **SQUASHERS, **OTHERS}
EDGE = 0.99  # of tanh, and of 2 sigmoid - 1


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """Outputs of one call over all images.

    Attributes:
        name: of the module that was called, or in which the operation happened; ":2" marks its second call.
        kind: the layer's class, or the activation function.
        shape: of the output for one image, (C, H, W) or (C,).
        mean, std: over images, channels and positions.
        low, high: smallest and largest output.
        histogram: counts between `low` and `high`, in bins of equal width.
        dead_units, dead_channels: shares of dead units and channels; None but for ReLUs.
        saturated: share of outputs; None but for sigmoid and tanh.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    std: float
    low: float
    high: float
    histogram: NDArray[np.int64]
    dead_units: float | None
    dead_channels: float | None
    saturated: float | None

    @property
    def is_weight_layer(self) -> bool:
        """Whether it is the output of a layer, and not of an activation function."""
        return self.kind not in ACTIVATIONS.values()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        numbers = {key: getattr(self, key) for key in ("mean", "std", "low", "high")}
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
            "histogram": self.histogram.tolist(),
            "dead_units": self.dead_units,
            "dead_channels": self.dead_channels,
            "saturated": self.saturated,
        }


def activations(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 64,
    bins: int = 32,
    state: Mapping[str, Tensor] | None = None,
) -> tuple[Activation, ...]:
    """Statistics of every weight layer and activation function over images (N, C, H, W), in evaluation mode.

    The images go through twice, `batch_size` at a time: for the ranges, then for the histograms. With a `state`
    those weights are looked at instead of the network's own. The network is given back as it was.

    Raises:
        UsageError: there are no images, they do not go through, or the network is on the meta device.

    Examples:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight = nn.Parameter(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        >>> _, relu = activations(nn.Sequential(layer, nn.ReLU()), torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> relu.name, relu.kind, relu.mean, relu.dead_units
        ('1', 'ReLU', 2.0, 0.5)
    """
    if not len(images):
        raise UsageError("there are no images; statistics need one or more.")
    if bins < 1 or batch_size < 1:
        raise UsageError(f"bins = {bins} and batch_size = {batch_size} must be at least 1.")
    if any(tensor.is_meta for tensor in model.parameters()):
        raise UsageError("the network is on the meta device; build it with content to look at activations.")
    tallies: dict[str, _Tally] = {}
    for counting in (False, True):
        for batch in images.split(batch_size):
            _pass(model, batch, state or {}, tallies, bins if counting else 0)
    return tuple(tally.finish() for tally in tallies.values())


def _pass(
    model: nn.Module, batch: Tensor, state: Mapping[str, Tensor], tallies: dict[str, _Tally], bins: int
) -> None:
    observer = _Observer(tallies, bins)

    def place() -> str:
        return observer.open[-1] if observer.open else ""

    with watched_pass(model, (batch,), observer, place):
        functional_call(model, dict(state), (batch,))


class _Tally:
    """What is summed over batches for one row."""

    def __init__(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
        self.name, self.kind, self.shape = name, kind, shape
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf
        self.highest: Tensor | None = None  # by unit, of a ReLU
        self.saturated = 0
        self.histogram: NDArray[np.int64] | None = None

    def add(self, output: Tensor) -> None:
        """The first pass: sums, range, the largest value of each unit."""
        values = output.double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if self.kind in RECTIFIERS.values():
            highest = output.amax(0)
            self.highest = highest if self.highest is None else torch.maximum(self.highest, highest)
        if self.kind in SQUASHERS.values():
            centred = 2 * values - 1 if self.kind == "sigmoid" else values
            self.saturated += int((centred.abs() > EDGE).sum())

    def count_in_bins(self, output: Tensor, bins: int) -> None:
        """The second pass, which knows the range."""
        ends = (self.low, self.high) if math.isfinite(self.low + self.high) else (0.0, 1.0)
        found = np.histogram(output.double().cpu().numpy(), bins, range=ends)[0]
        self.histogram = found if self.histogram is None else self.histogram + found

    def finish(self) -> Activation:
        mean = self.total / self.count
        dead = None if self.highest is None else self.highest <= 0
        return Activation(
            name=self.name,
            kind=self.kind,
            shape=self.shape,
            mean=mean,
            std=math.sqrt(max(self.squares / self.count - mean * mean, 0.0)),
            low=self.low,
            high=self.high,
            histogram=np.zeros(0, np.int64) if self.histogram is None else self.histogram,
            dead_units=None if dead is None else float(dead.double().mean()),
            dead_channels=None
            if dead is None
            else float(dead.flatten(1).all(1).double().mean())
            if dead.ndim > 1
            else float(dead.double().mean()),
            saturated=self.saturated / self.count if self.kind in SQUASHERS.values() else None,
        )


def is_layer(module: nn.Module) -> bool:
    """Whether it is a weight layer that works with most of its weights itself.

    A network that holds a class token beside its layers is none; an attention that holds a projection is one.
    """

    def numbers(recurse: bool) -> int:
        return sum(
            tensor.numel() for tensor in (*module.parameters(recurse), *module.buffers(recurse=recurse))
        )

    return is_weight_layer(module) and 2 * numbers(False) > numbers(True)


class _Observer(Watch):
    """Sees the operations of one forward pass, and the module that each happened in."""

    def __init__(self, tallies: dict[str, _Tally], bins: int) -> None:
        super().__init__()
        self.tallies, self.bins = tallies, bins
        self.open: list[str] = []
        self.calls: Counter[str] = Counter()

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, args, kwargs
        self.open.append(name)

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        self.open.pop()
        if is_layer(module):
            for tensor in tensors_in(output)[:1]:
                self.note(name, type(module).__name__, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ACTIVATIONS and isinstance(output, Tensor):
            if name.startswith("hardtanh") and (len(args) < 2 or args[1] != 0):
                return output  # a true hard tanh: nothing is cut at 0
            self.note(self.open[-1] if self.open else "", ACTIVATIONS[name], output)
        return output

    def note(self, module: str, kind: str, output: Tensor) -> None:
        """Add an output to the row of this call: the first, second, ... of its kind in that module."""
        if not output.is_floating_point() or output.ndim < 2 or not output.numel():
            return
        key = f"{module} {kind}"
        self.calls[key] += 1
        turn = self.calls[key]
        key = f"{key} {turn}"
        if key not in self.tallies:
            if self.bins:
                raise UsageError(
                    "the network took another way for the same images; it cannot be measured twice."
                )
            name = f"{module}:{turn}" if turn > 1 else module
            self.tallies[key] = _Tally(name, kind, tuple(output.shape[1:]))
        if self.bins:
            self.tallies[key].count_in_bins(output, self.bins)
        else:
            self.tallies[key].add(output)
