"""From the calls of a classifier's head to layers that slide, one call after the other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.head import Called, Head
from convatlas.measure.arithmetic.sliding import (
    FoldedLinear,
    Pair,
    Pointwise,
    SlidingLinear,
    SlidingPool,
    pooling_matrix,
    spread,
)

_RESHAPES = {
    "flatten",
    "view",
    "reshape",
    "squeeze",
    "squeeze_",
    "contiguous",
    "__getitem__",
    "identity",
    "clone",
}
_DROPOUTS = {"dropout", "dropout2d", "feature_dropout", "alpha_dropout", "dropout1d", "dropout_"}
_POINTWISE = {  # without the underscores of operators and of what works in place
    "relu", "relu6", "hardtanh", "tanh", "sigmoid", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu",
    "selu", "softplus", "mish", "clamp", "clamp_min", "abs", "exp", "square", "neg", "pow", "mul", "rmul", "imul",
    "add", "radd", "iadd", "sub", "rsub", "isub", "div", "truediv", "rtruediv", "itruediv",
}  # fmt: skip


class _Converter:
    """Goes along the head and keeps what its windows are by now."""

    def __init__(self, model: nn.Module, found: Head) -> None:
        self.model = model
        self.layers = list[tuple[str, nn.Module]]()
        self.shape: tuple[int, ...] = found.map_shape  # (C, h, w) that a vector stands for
        self.dilation: Pair = (1, 1)
        self.fold: tuple[Tensor, Tensor] | None = None

    def take(self, call: Called) -> None:
        """Append what one call becomes."""
        name = call.name
        if name in _DROPOUTS:
            return
        if name in _RESHAPES:
            self._reshape(call)
        elif name == "linear":
            self._linear(call)
        elif name in ("adaptive_avg_pool2d", "mean"):
            self._mean(call)
        elif name in ("adaptive_max_pool2d", "amax"):
            self._maximum(call)
        elif name == "conv2d":
            self._convolution(call)
        elif name == "batch_norm":
            self._batch_norm(call)
        elif name in ("softmax", "log_softmax") and call.argument(1, "dim") in (1, -1):
            function = torch.softmax if name == "softmax" else torch.log_softmax
            self._add(name, Pointwise(name, lambda x: function(x, 1), {}))
        elif (
            name.strip("_") in _POINTWISE
            and call.output.shape == call.inputs[0].shape
            and len(call.inputs) == 1
        ):
            self._pointwise(call)
        else:
            raise self._refused(call, "has no form here that slides over a larger map")

    def _add(self, name: str, layer: nn.Module) -> None:
        self.layers.append((name, layer))

    def _reshape(self, call: Called) -> None:
        before, after = call.inputs[0], call.output
        if after.numel() != before.numel() or after.shape[0] != before.shape[0]:
            raise self._refused(call, "takes a part of the map, or mixes images")

    def _linear(self, call: Called) -> None:
        weight, bias = self._weights(call)
        c, h, w = self.shape
        if weight.shape[1] != c * h * w:
            raise self._refused(call, f"receives {weight.shape[1]} numbers, and the map has {c}x{h}x{w}")
        if self.fold is not None:
            self._add("linear", FoldedLinear(weight, bias, *self.fold))
        else:
            self._add("linear", SlidingLinear(weight, bias, (h, w), self.dilation))
        self.shape, self.dilation, self.fold = (weight.shape[0], 1, 1), (1, 1), None

    def _mean(self, call: Called) -> None:
        sides = self._sides_after(call)
        c, h, w = self.shape
        if sides == (h, w):
            return
        if self.fold is not None:
            raise self._refused(call, "pools a map that has been stretched")
        if h % sides[0] == 0 and w % sides[1] == 0:
            window = (h // sides[0], w // sides[1])
            if self.dilation != (1, 1):
                raise self._refused(call, "pools a second time")
            self._add("pool", SlidingPool(window))
            self.dilation = window if sides != (1, 1) else (1, 1)
        else:
            self.fold = (pooling_matrix(h, sides[0]), pooling_matrix(w, sides[1]))
        self.shape = (c, *sides)

    def _maximum(self, call: Called) -> None:
        sides = self._sides_after(call)
        c, h, w = self.shape
        if sides == (h, w):
            return
        if self.fold is not None or self.dilation != (1, 1) or h % sides[0] or w % sides[1]:
            raise self._refused(
                call, f"takes maxima of unequal windows, {h}x{w} places to {sides[0]}x{sides[1]}"
            )
        window = (h // sides[0], w // sides[1])
        self._add("pool", SlidingPool(window, largest=True))
        self.dilation = window if sides != (1, 1) else (1, 1)
        self.shape = (c, *sides)

    def _sides_after(self, call: Called) -> Pair:
        """Sides of a pooled map; a mean or maximum over dimensions has to go over both sides."""
        if call.name.startswith("adaptive"):
            height, width = call.output.shape[-2:]
            return height, width
        dims = call.argument(1, "dim")
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        if call.inputs[0].dim() != 4 or sorted(dim % 4 for dim in dims) != [2, 3]:
            raise self._refused(call, "goes over other dimensions than height and width")
        return 1, 1

    def _convolution(self, call: Called) -> None:
        weight, bias = self._weights(call)
        stride, padding, dilation, groups = (
            call.argument(i, name, default)
            for i, (name, default) in enumerate(
                (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)), start=3
            )
        )
        if self.fold is not None or set(_pair(padding)) != {0} or set(_pair(stride)) != {1}:
            raise self._refused(call, "is padded, strided, or stands after a pooling that stretches its map")
        (a, b), (c, d) = _pair(dilation), self.dilation
        holes = (a * c, b * d)
        own = {"weight": weight} | ({"bias": bias} if bias is not None else {})
        layer = Pointwise(
            f"conv {tuple(weight.shape)}{spread(holes)}",
            lambda x: functional.conv2d(x, weight, bias, 1, 0, holes, groups),
            dict(own),
        )
        self._add("conv", layer)
        self.shape = tuple(call.output.shape[1:])

    def _batch_norm(self, call: Called) -> None:
        if self.shape[1:] != (1, 1) and call.output.dim() == 2:
            raise self._refused(call, "normalises a flattened map, every place by its own statistics")
        own = {
            name: self._tensor(key)
            for position, name in enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
            if (key := call.own(position, name)) is not None
        }
        eps = call.argument(7, "eps", 1e-5)
        if "running_mean" not in own:
            raise self._refused(call, "normalises by the batch's statistics, and there are no running ones")
        mean, var = own["running_mean"], own["running_var"]
        scale, shift = own.get("weight"), own.get("bias")
        self._add(
            "norm",
            Pointwise(
                "batch_norm",
                lambda x: functional.batch_norm(x, mean, var, scale, shift, False, 0.0, eps),
                own,
            ),
        )

    def _pointwise(self, call: Called) -> None:
        if call.params:
            raise self._refused(call, "has weights of its own")
        given, name = call.inputs[0], call.name
        in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))

        def repeated(x: Tensor) -> Tensor:
            x = x.clone() if in_place else x
            args = [x if value is given else value for value in call.args]
            kwargs = {key: x if value is given else value for key, value in call.kwargs.items()}
            if "inplace" in kwargs:
                kwargs["inplace"] = False
            return call.func(*args, **kwargs)

        self._add(name.strip("_"), Pointwise(name.strip("_"), repeated, {}))

    def _weights(self, call: Called) -> tuple[nn.Parameter, nn.Parameter | None]:
        weight, bias = call.own(1, "weight"), call.own(2, "bias")
        if weight is None or (bias is None and call.argument(2, "bias") is not None):
            raise self._refused(call, "has weights that are computed in each pass")
        return self.model.get_parameter(weight), self.model.get_parameter(bias) if bias else None

    def _tensor(self, name: str) -> Tensor:
        owner, _, last = name.rpartition(".")
        return getattr(self.model.get_submodule(owner), last)

    def _refused(self, call: Called, why: str) -> UsageError:
        shape = tuple(call.inputs[0].shape[1:]) if call.inputs else ()
        return UsageError(
            f"{type(self.model).__name__} cannot be made dense: in its head, `{call.name}` on {shape} {why}."
        )


def converted(model: nn.Module, found: Head) -> nn.Sequential:
    """The head of a network as layers over maps: (N, C, H, W) -> (N, num_classes, rows, columns).

    Raises `UsageError` for a call that has no such form.
    """
    converter = _Converter(model, found)
    for call in found.calls:
        converter.take(call)
    if converter.fold is not None or tuple(converter.shape[1:]) != (1, 1):
        raise UsageError(
            f"{type(model).__name__} cannot be made dense: its head ends with a map of {converter.shape[1:]} places "
            "that no linear layer takes up."
        )
    often = Counter(name for name, _ in converter.layers)
    seen, head = Counter[str](), nn.Sequential()
    for name, layer in converter.layers:
        seen[name] += 1
        head.add_module(f"{name}{seen[name]}" if often[name] > 1 else name, layer)
    return head


def _pair(sides: Any) -> Pair:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[-1])
