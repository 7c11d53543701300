"""Receptive fields by experiment: the gradient of one unit with respect to the image, on a linearised copy.

What `receptive` works out is held here against what the network does. In float64 all weights become positive, biases
zero, maxima means; activation functions and normalisations become the identity, products sums, and a gate that is one
number for a whole map is left out. Then no path can cancel another, and a pixel has a gradient if and only if the unit
sees it. One axis is probed at a time, on a strip as long as the field and a few strides, so that a field of a thousand
pixels needs no image of a million.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from convatlas.errors import UsageError
from convatlas.hooks import capture, eval_mode
from convatlas.measure.receptive import fields
from convatlas.measure.span import NOTHING, Span
from convatlas.measure.trace import trace
from convatlas.randomness import preserved


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found for one unit of a layer: the first and last pixel along an axis, worked out and seen."""

    layer: str
    axis: int
    unit: int
    expected: tuple[float, float]
    seen: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether they are equal."""
        return self.expected == self.seen


def probe(
    model: nn.Module, channels: int, layers: Sequence[str], axes: Sequence[int] = (0, 1), *, whole: int = 48
) -> list[Probed]:
    """Compare the fields of layers with the gradients of their units: two neighbours of each, along each axis.

    Two neighbours show size, stride and offset. Layers whose units see all of an axis are passed over.

    Args:
        model: a network on the CPU that takes images (N, channels, H, W); it is given back as it was.
        channels: of the image.
        layers: names of modules whose outputs are maps.
        axes: 0 is height, 1 width.
        whole: up to so many pixels the strip is as wide as the field: in a very narrow one all of a window may lie
            in the padding.

    Raises:
        UsageError: if no image of up to 512 pixels a side passes through the network, or a unit depends on no pixel.

    Examples:
        >>> chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> for found in probe(chain, 3, ["2"]):
        ...     print(found.axis, found.unit, found.expected, found.seen, found.agrees)
        0 0 (0, 3) (0, 3) True
        0 1 (2, 5) (2, 5) True
        1 0 (0, 3) (0, 3) True
        1 1 (2, 5) (2, 5) True
    """
    side = _smallest_side(model, channels)
    lengths = [_length(_spans(model, (channels, side, side), layers, axis), side) for axis in (0, 1)]
    found: list[Probed] = []
    for axis in axes:
        across = lengths[1 - axis] if lengths[1 - axis] <= whole else side
        strip = (lengths[0], across) if axis == 0 else (across, lengths[1])
        found += _along(model, (channels, *strip), layers, axis)
    return found


def _length(spans: Mapping[str, Span], least: int) -> int:
    """Pixels that hold the fields of two neighbours of every layer; whole steps, as some networks want them."""
    if not spans:
        return least
    step = max(span.advance for span in spans.values())
    longest = max(least, *(span.size + 2 * span.advance for span in spans.values()))
    return -(-longest // step) * step


def _smallest_side(model: nn.Module, channels: int) -> int:
    for side in (8, 16, 32, 48, 64, 80, 96, 128, 224, 256, 320, 512):
        try:
            trace(model, (channels, side, side))
        except UsageError as error:
            if side == 512:
                raise UsageError(
                    f"no square image of 8 to 512 pixels passes through the network: {error}"
                ) from error
        else:
            return side
    raise AssertionError


def _spans(model: nn.Module, shape: tuple[int, ...], layers: Sequence[str], axis: int) -> dict[str, Span]:
    """The span of each layer that sees part of an axis, for images of a shape."""
    traced = trace(model, shape)
    known = list(zip(traced.calls, fields(traced), strict=True))
    spans: dict[str, Span] = {}
    for layer in layers:
        inside = [field for call, field in known if f"{call.name}.".startswith(f"{layer}.")]
        field = inside[-1] if inside else None
        if field is None or field.unknown:
            raise UsageError(
                f"the receptive field of {layer!r} is not known{f' ({field.unknown})' if field else ''}."
            )
        if (span := field.spans[axis]) is not None:
            spans[layer] = span
    return spans


def _along(model: nn.Module, strip: tuple[int, ...], layers: Sequence[str], axis: int) -> list[Probed]:
    """Compare along one axis of a strip that is long enough."""
    spans, found = _spans(model, strip, layers, axis), list[Probed]()
    image = torch.ones((1, *strip), dtype=torch.float64, requires_grad=True)
    weights = positive(model)
    with (
        preserved(),
        eval_mode(model),
        torch.enable_grad(),
        _Linear(),
        capture(model, list(spans)) as outputs,
    ):
        functional_call(model, weights, (image,))
        for layer, span in spans.items():
            count = outputs[layer].shape[2 + axis]
            inside = [u for u in range(count) if span.of(u)[0] >= 0 and span.of(u)[1] < strip[1 + axis]]
            for unit in inside[:2]:
                seen = _pixels(outputs[layer].select(2 + axis, unit), image, 2 + axis)
                found.append(Probed(layer, axis, unit, span.of(unit), seen))
    return found


def _pixels(units: Tensor, image: Tensor, dim: int) -> tuple[float, float]:
    """First and last pixel along a dimension that any of the units depends on."""
    (gradient,) = torch.autograd.grad(units.sum(), image, retain_graph=True)
    lines = gradient.abs().sum([other for other in range(image.ndim) if other != dim]).nonzero().flatten()
    return (int(lines[0]), int(lines[-1])) if len(lines) else NOTHING


def positive(model: nn.Module) -> dict[str, Tensor]:
    """Weights between 1/2 and 1, divided by what they sum over, so that a deep network neither grows nor dies away;
    biases of zero; buffers in float64.
    """
    draw = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            found[name] = torch.zeros(parameter.shape, dtype=torch.float64)
        else:
            drawn = torch.rand(parameter.shape, generator=draw, dtype=torch.float64) / 2 + 0.5
            found[name] = drawn / parameter[0].numel()
    for name, buffer in model.named_buffers():
        found[name] = buffer.double() if buffer.is_floating_point() else buffer
    return found


# --- the linearised copy ----------------------------------------------------------------------------------------

_IDENTITY = frozenset(
    ("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish",
     "softplus", "softsign", "tanh", "tanh_", "sigmoid", "sigmoid_", "hardtanh", "hardtanh_", "hardsigmoid",
     "hardswish", "prelu", "rrelu", "threshold", "logsigmoid", "softmax", "log_softmax", "batch_norm", "layer_norm",
     "group_norm", "instance_norm", "local_response_norm", "normalize", "dropout", "dropout2d", "dropout3d",
     "alpha_dropout", "clamp", "clamp_", "abs", "sqrt", "rsqrt", "square", "exp", "log", "neg", "__neg__", "pow",
     "__pow__", "square_", "log1p", "erf", "reciprocal")
)  # fmt: skip
_SUMS = frozenset(
    ("add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "__rsub__", "sub_", "__isub__",
     "mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply", "div", "__truediv__", "__rtruediv__", "__rdiv__",
     "div_", "__itruediv__", "true_divide", "maximum", "minimum")
)  # fmt: skip
_POOLS: dict[str, Callable[..., Tensor]] = {
    "adaptive_max_pool1d": functional.adaptive_avg_pool1d,
    "adaptive_max_pool2d": functional.adaptive_avg_pool2d,
    "adaptive_max_pool3d": functional.adaptive_avg_pool3d,
}
_MEANS = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3}


class _Linear(TorchFunctionMode):
    """Gives every non-linear function a linear one with the same connections.

    On the way back each convolution is told only from which units a gradient comes, as 1: a thousand layers would make
    those at the rim of a field too small for float64.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _IDENTITY and isinstance(args[0], Tensor):
            return args[0]
        if name in _SUMS:
            return _sum([value for value in args if isinstance(value, Tensor)])
        if name in _POOLS:
            return _POOLS[name](args[0], args[1] if len(args) > 1 else kwargs["output_size"])
        if (axes := _MEANS.get(name.removesuffix("_with_indices"))) is not None:
            return _mean(axes, *args, **kwargs)
        output = func(*args, **kwargs)
        if name.startswith("conv") and output.requires_grad:
            output.register_hook(torch.sign)
        return output


def _sum(operands: Sequence[Tensor]) -> Tensor:
    """All that is not a gate: what is one number where another operand has a map is left out."""
    axes = max(tensor.ndim for tensor in operands)
    operands = [tensor[(None,) * (axes - tensor.ndim)] for tensor in operands]
    largest = max(operands, key=lambda tensor: tensor.numel())
    total = largest
    for tensor in operands:
        if tensor is not largest and tensor.shape[2:] == largest.shape[2:] and tensor.is_floating_point():
            total = total + tensor
    return total


def _mean(
    axes: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """The mean over each window of a max-pool, as a convolution with equal weights, so that windows may be dilated."""
    del return_indices
    kernel, pad, step, gaps = (
        [value] * axes if isinstance(value, int) else list(value)
        for value in (kernel_size, padding, stride or kernel_size, dilation)
    )
    spare: list[int] = []  # what ceil_mode adds behind the image
    for size, k, p, s, d in zip(x.shape[2:], kernel, pad, step, gaps, strict=True):
        left = (size + 2 * p - d * (k - 1) - 1) % s
        behind = s - left if ceil_mode and left else 0
        units = (size + 2 * p - d * (k - 1) - 1 + behind) // s
        spare.append(behind if units * s < size + p else 0)
    amounts = [
        amount for p, extra in zip(reversed(pad), reversed(spare), strict=True) for amount in (p, p + extra)
    ]
    x = functional.pad(x, amounts)
    channels = x.shape[1]
    weight = x.new_full((channels, 1, *kernel), 1 / torch.Size(kernel).numel())
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    return convolve(x, weight, None, step, 0, gaps, channels)
