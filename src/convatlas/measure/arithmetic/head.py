"""Where a classifier forgets the size of its image, and what it does from there on.

Two forward passes without content, for the network's own image and for a larger one, record every call of a torch
function. From the output back, as long as shapes are the same in both passes, the image's size does not matter: that is
the head. The last tensor whose shape differs is the map that the head receives, however the code was written: as
modules or as functions, flattened or pooled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode
from convatlas.measure.refusals import refusals
from convatlas.measure.trace import ghost, tensors_in, to_meta
from convatlas.randomness import preserved

# By how much the second image is larger: every stride up to 128, and every one with factors of 3, divides it.
LARGER = 1152


@dataclass(frozen=True, slots=True)
class Called:
    """A tensor that a call of a torch function gave: the how-many-th call of its name, and its shapes in a native pass.

    `params` are the names of the network's tensors among the arguments, by position or keyword.
    """

    name: str
    number: int
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    params: dict[int | str, str]

    @property
    def inputs(self) -> list[Tensor]:
        """Tensors among its arguments that are not the network's own."""
        own = {id(value) for key, value in self._named() if key in self.params}
        return [tensor for tensor in tensors_in((self.args, self.kwargs)) if id(tensor) not in own]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may have been given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def own(self, position: int, name: str) -> str | None:
        """The name, in the network, of a parameter or buffer among the arguments."""
        return self.params.get(position) or self.params.get(name)

    def _named(self) -> list[tuple[int | str, Any]]:
        return [*enumerate(self.args), *self.kwargs.items()]


@dataclass(frozen=True, slots=True)
class Head:
    """What a network does after its last map: calls in order, each with one input, the one before.

    Attributes:
        calls: in the order in which they are made; the first receives the map.
        map_shape: (C, h, w) of the map for an image of the native size.
        stride: pixels of the image from one place of the map to the next, (vertical, horizontal).
        native: sides (H, W) of the image.
    """

    calls: tuple[Called, ...]
    map_shape: tuple[int, int, int]
    stride: tuple[int, int]
    native: tuple[int, int]


class _Recorder(TorchFunctionMode):
    """Keeps the calls that give tensors, on meta."""

    def __init__(self, own: dict[int, str]) -> None:
        super().__init__()
        self.own, self.calls, self.count = own, list[Called](), Counter[str]()
        self.became = dict[int, Tensor]()  # what a tensor is after a call that changed it, or gave it on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A constant of a module is no parameter, and arrives with content.
        args, kwargs = tree_map(self._now, (args, dict(kwargs or {})))
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and any(output is each for each in tensors_in((args, kwargs))):
            self.became[id(output)] = output = output.detach()  # in place: a new name for what it is now
        if (found := tensors_in(output)) and (name := getattr(func, "__name__", "")) != "__get__":
            places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            params = {place: self.own[id(value)] for place, value in places if id(value) in self.own}
            for each in found:
                self.calls.append(Called(name, self.count[name], func, tuple(args), kwargs, each, params))
            self.count[name] += 1
        return output

    def _now(self, value: Any) -> Any:
        value = to_meta(value)
        while id(value) in self.became:
            value = self.became[id(value)]
        return value


def find_head(model: nn.Module, image: tuple[int, int, int]) -> Head:
    """The head of a classifier whose native image is (C, H, W).

    Raises `UsageError` if the network does not take such an image, gives no vector of logits, or has no head that is
    one chain from a single map.
    """
    native, output = _recorded(model, image)
    if output is None or output.dim() != 2:
        gives = "no tensor" if output is None else f"a tensor {tuple(output.shape)}"
        raise UsageError(
            f"{type(model).__name__} gives {gives} for one image; logits (N, num_classes) can be made dense. "
            "A network that gives maps is fully convolutional already."
        )
    larger, _ = _recorded(model, (image[0], image[1] + LARGER, image[2] + LARGER), partly=True)
    if any(a.name != b.name for a, b in zip(native, larger, strict=False)):
        raise UsageError(
            f"{type(model).__name__} takes another way for an image {LARGER} pixels larger; it has no one dense form."
        )
    # A larger pass may end early, where a flattened map fits no linear layer; what it did not reach is in the head.
    grown = {id(a.output): b.output for a, b in zip(native, larger, strict=False)}
    made: dict[int, Called] = {}  # what depends on the image, by what made it
    for call in native:
        if call.name == "image" or any(id(each) in made for each in call.inputs):
            made[id(call.output)] = call
    calls: list[Called] = []
    tensor = output
    while id(tensor) not in grown or grown[id(tensor)].shape == tensor.shape:
        call = made.get(id(tensor))
        if call is None:
            raise UsageError(
                f"the output of {type(model).__name__} does not depend on a map whose size follows the image's; "
                "there is nothing to slide."
            )
        inputs = [each for each in call.inputs if id(each) in made]
        if len(inputs) != 1:
            raise UsageError(
                f"the head of {type(model).__name__} joins {len(inputs)} tensors by `{call.name}`; one chain of layers "
                "from one map can be made dense. Convert its branches by themselves."
            )
        calls.insert(0, call)
        tensor = inputs[0]
    while tensor.dim() != 4:  # flattened before the sizes were compared
        call = made[id(tensor)]
        inputs = [each for each in call.inputs if id(each) in made]
        if len(inputs) != 1:
            raise UsageError(f"{type(model).__name__} joins tensors by `{call.name}` after its last map.")
        calls.insert(0, call)
        tensor = inputs[0]
    big = grown[id(tensor)]
    steps = [
        LARGER // (b - a) if b > a and LARGER % (b - a) == 0 else 0
        for a, b in zip(tensor.shape[2:], big.shape[2:], strict=True)
    ]
    if not calls or 0 in steps:
        raise UsageError(
            f"the last map of {type(model).__name__} has {tuple(tensor.shape[2:])} places for an image of {image[1:]}, "
            f"and {tuple(big.shape[2:])} for one {LARGER} pixels larger; no whole step, so windows cannot slide."
        )
    channels, height, width = tensor.shape[1:]
    return Head(tuple(calls), (channels, height, width), (steps[0], steps[1]), image[1:])


def _recorded(
    model: nn.Module, image: tuple[int, ...], *, partly: bool = False
) -> tuple[list[Called], Tensor | None]:
    """The calls of a pass on meta, and its output; `partly`: as far as it comes, where the image does not fit."""
    copies, (x,) = ghost(model, image)
    recorder = _Recorder({id(tensor): name for name, tensor in copies.items()})
    # The image's own call, so that every tensor of the network has one that made it.
    recorder.calls.append(Called("image", 0, torch.empty, (), {}, x, {}))
    with preserved(), eval_mode(model), torch.no_grad(), torch.device("meta"):
        if partly:
            try:
                with recorder:
                    functional_call(model, copies, (x,))
            except Exception:  # noqa: S110 - a flattened map that has become too large fits no linear layer
                pass
            return recorder.calls, None
        with refusals(model, (x,)), recorder:
            output = functional_call(model, copies, (x,))
    return recorder.calls, output if isinstance(output, Tensor) else None
