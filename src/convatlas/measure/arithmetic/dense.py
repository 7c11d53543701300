"""A classifier over a larger image: its linear layers become convolutions, and one pass gives a map of logits.

The first linear layer sees all of a map, h x w places with C channels; the same weights are a convolution with an h x w
kernel, which a larger map lets slide. Further linear layers see one place: 1x1 convolutions. A mean over the whole map
is a mean over a window that slides. So one pass over a larger image gives what the network would say at every place,
without computing the overlap of its windows again and again.

At the native size the map has one place, and it is the network's answer. On a larger image a place is what the network
would say about the crop there, if its convolutions were not padded; with padding the crop has a border of zeros that
the large image does not have. What looks at the whole image (squeeze and excitation) goes on to do so.

Sources: Sermanet et al., "OverFeat", 2013, section 3.5; Simonyan & Zisserman, "Very Deep Convolutional Networks", 2014,
section 3.2; Long et al., "Fully Convolutional Networks", 2015, section 3.1.
"""

from __future__ import annotations

import copy as copies
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode
from convatlas.measure.arithmetic.head import Called, Head, find_head
from convatlas.measure.trace import tensors_in

Pair = tuple[int, int]


class SlidingLinear(nn.Module):
    """A linear layer over windows of (C, h, w) as a convolution: (N, C, H, W) -> (N, out, H', W').

    It holds the linear layer's own parameters, (out, C h w) and (out,): nothing is copied, and what trains one trains
    both. `dilation` is the distance of the places that the window's rows and columns stand for.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, window: Pair, dilation: Pair) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.window, self.dilation = window, dilation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return functional.conv2d(x, self.kernel, self.bias, dilation=self.dilation)

    @property
    def kernel(self) -> Tensor:
        """The weights as a convolution has them: (out, C, h, w)."""
        return self.weight.view(self.weight.shape[0], -1, *self.window)

    def extra_repr(self) -> str:
        """As a Conv2d prints itself."""
        out, c_in, *_ = self.kernel.shape
        return f"{c_in}, {out}, kernel_size={self.window}" + _spread(self.dilation)


class FoldedLinear(nn.Module):
    """The same after a pooling that stretches h x w places to other sides, as adaptive pooling does for small images.

    Pooling is linear, so it goes into the kernel: h x w places again. The fold is worked out in every pass, so the
    weights are still shared. `rows` (o1, h) and `columns` (o2, w) are the means that the pooling takes.
    """

    rows: Tensor
    columns: Tensor
    bias: nn.Parameter | None

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, rows: Tensor, columns: Tensor
    ) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return functional.conv2d(x, self.kernel, self.bias)

    @property
    def kernel(self) -> Tensor:
        """The weights with the pooling folded in: (out, C, h, w)."""
        weight = self.weight.view(self.weight.shape[0], -1, self.rows.shape[0], self.columns.shape[0])
        return torch.einsum("ocij,ih,jw->ochw", weight, self.rows.to(weight), self.columns.to(weight))

    def extra_repr(self) -> str:
        """As a Conv2d prints itself, and what is folded into it."""
        out, c_in, *window = self.kernel.shape
        return f"{c_in}, {out}, kernel_size={tuple(window)}, pooled to {self.rows.shape[0]}x{self.columns.shape[0]}"


class SlidingPool(nn.Module):
    """Mean or maximum over a window that moves by one place: (N, C, H, W) -> (N, C, H - h + 1, W - w + 1)."""

    def __init__(self, window: Pair, *, largest: bool = False) -> None:
        super().__init__()
        self.window, self.largest = window, largest

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H - h + 1, W - w + 1)."""
        pool = functional.max_pool2d if self.largest else functional.avg_pool2d
        return pool(x, self.window, stride=1)

    def extra_repr(self) -> str:
        """What is taken of which window."""
        return f"{'max' if self.largest else 'mean'}, kernel_size={self.window}, stride=1"


class Pointwise(nn.Module):
    """A function that treats all places alike, with the arguments that the network gives it: any shape, kept."""

    def __init__(self, name: str, call: Callable[[Tensor], Tensor], own: dict[str, Tensor]) -> None:
        super().__init__()
        self.name, self.call = name, call
        for each, tensor in own.items():  # so that they move with the module
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(each, tensor)
            else:
                self.register_buffer(each, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return self.call(x)

    def extra_repr(self) -> str:
        """The function's name."""
        return self.name


class DenseClassifier(nn.Module):
    """Images (N, C, H, W) -> logits (N, num_classes, rows, columns), one for every place of the classifier's window.

    It runs in evaluation mode, whatever the network's mode is, and gives that mode back.

    Attributes:
        network: the classifier, whose layers before the head are run as they are.
        head: the head as convolutions, layer by layer.
        native: sides (H, W) of the window.
        stride: pixels from one place to the next, (vertical, horizontal).
    """

    def __init__(self, network: nn.Module, head: nn.Sequential, found: Head) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.native, self.stride = found.native, found.stride
        self._number = found.calls[0].number
        self._skipped = [(call.name, call.output) for call in found.calls]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, rows, columns).

        Raises `UsageError` for images smaller than the native size.
        """
        if any(side < least for side, least in zip(x.shape[-2:], self.native, strict=True)):
            raise UsageError(
                f"images of {tuple(x.shape[-2:])} came; the network's window is {self.native}, so give at least that."
            )
        with eval_mode(self):
            return self.head(self.last_map(x))

    def last_map(self, x: Tensor) -> Tensor:
        """What the head receives: (N, C, H, W) -> (N, channels, h, w)."""
        with eval_mode(self.network), _UpToHead(self._number, self._skipped) as pass_:
            self.network(x)
        if pass_.last_map is not None:
            return pass_.last_map
        raise UsageError(
            f"{type(self.network).__name__} takes another way for an image of {tuple(x.shape[-2:])} than for its "
            "native one; its head was not reached."
        )

    def window(self, row: int, column: int) -> tuple[int, int, int, int]:
        """The pixels that a place of the map speaks of, as a box xyxy: the crop at this place."""
        y, x = row * self.stride[0], column * self.stride[1]
        return x, y, x + self.native[1], y + self.native[0]

    def heat_map(self, x: Tensor, label: int) -> Tensor:
        """Probability of one class at every place: (N, C, H, W) -> (N, rows, columns)."""
        return self(x).softmax(1)[:, label]


def dense(
    model: nn.Module, image: tuple[int, int, int] = (3, 224, 224), *, copy: bool = False
) -> DenseClassifier:
    """A classifier made fully convolutional, for images of its native size (C, H, W) and larger ones.

    Any network that goes from one map by pooling or flattening to linear layers will do, written as modules or as
    functions; activations, dropout (which evaluation leaves out) and BatchNorm may stand between. The weights are the network's own,
    so nothing of it changes and nothing is held twice.

    Args:
        model: gives logits (N, num_classes).
        image: its native size; the head's first kernel depends on it.
        copy: work on a copy of the network, with weights of its own.

    Raises:
        UsageError: if the head is none of that, with what stands in the way.

    Examples:
        >>> lenet = nn.Sequential(
        ...     nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 4 * 4, 20), nn.ReLU(),
        nn.Linear(20, 10) ... )
        >>> over = dense(lenet, (1, 12, 12))
        >>> over.head
        Sequential(
          (linear1): SlidingLinear(6, 20, kernel_size=(4, 4))
          (relu): Pointwise(relu)
          (linear2): SlidingLinear(20, 10, kernel_size=(1, 1))
        )
        >>> tuple(over(torch.zeros(1, 1, 32, 20)).shape), over.window(1, 2)
        ((1, 10, 11, 5), (4, 2, 16, 14))
    """  # noqa: E501 - a line that is run
    if copy:
        model = copies.deepcopy(model)
    found = find_head(model, image)
    return DenseClassifier(model, _converted(model, found), found)


# --- the head, call by call -----------------------------------------------------------------------------------

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
        spread = (a * c, b * d)
        own = {"weight": weight} | ({"bias": bias} if bias is not None else {})
        layer = Pointwise(
            f"conv {tuple(weight.shape)}{_spread(spread)}",
            lambda x: functional.conv2d(x, weight, bias, 1, 0, spread, groups),
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


def _converted(model: nn.Module, found: Head) -> nn.Sequential:
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


def pooling_matrix(size: int, outputs: int) -> Tensor:
    """The means that adaptive pooling takes of `size` places: (outputs, size), rows that sum to 1.

    Examples:
        >>> pooling_matrix(2, 3).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    return functional.adaptive_avg_pool1d(torch.eye(size, device="cpu")[None], outputs)[0].T.contiguous()


def _pair(sides: Any) -> Pair:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[-1])


def _spread(dilation: Pair) -> str:
    return "" if dilation == (1, 1) else f", dilation={dilation}"


# --- the network up to its head -------------------------------------------------------------------------------


class _UpToHead(TorchFunctionMode):
    """Keeps what the head's first call receives, and makes none of its calls.

    They return what they returned on meta, tensors with a shape and no content. So nothing is computed twice, and
    every module still ends its call, for those who watch.

    Args:
        number: the how-many-th call of its name the head's first is.
        skipped: the head's calls, by name, and what each returned.
    """

    def __init__(self, number: int, skipped: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.left, self.skipped = number, skipped
        self.done = 0
        self.last_map: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.done == len(self.skipped) or getattr(func, "__name__", "") != self.skipped[self.done][0]:
            return func(*args, **kwargs)
        if self.done == 0 and self.left > 0:
            output = func(*args, **kwargs)
            self.left -= bool(tensors_in(output))
            return output
        if self.last_map is None:
            self.last_map = args[0] if args else kwargs["input"]
        self.done += 1
        return self.skipped[self.done - 1][1]
