"""What a network costs: parameters, multiply-adds and stored activations, row by row.

Conventions, the same everywhere in convatlas:

- **Parameters** are counted once, in the row that first uses them; buffers (BatchNorm's statistics) are none.
- **MACs** are the multiply-adds of convolutions, transposed convolutions and matrix products for one
  image. Biases, normalisation, activation functions and pooling are not counted. A figure named FLOPs
  elsewhere is often this one, sometimes twice it.
- **Activations** are the numbers that must be kept: the image and the output of every row, except rows
  that can overwrite their input (activation functions, normalisation, dropout, reshaping, the addition of a
  shortcut). It is the ledger of the lectures: input + conv + pool + fc, 15.24 M for VGG-16, and it does
  not depend on whether a ReLU was written `inplace`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from convatlas.measure.trace import Call, Op, macs, trace

UNUSED = "unused in evaluation"


@dataclass(frozen=True, slots=True)
class Row:
    """One call of a leaf module, or one operation between such calls ("layer1.0 (add)").

    `output_shape` has no batch dimension. `activations` counts the numbers stored: 0 where the row can
    overwrite its input. `params` is 0 for weights that an earlier row has counted.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """The rows in call order, the image first, and their sums. `input_shape` is (C, H, W)."""

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def params(self) -> int:
        """Parameters, shared ones once, with those that evaluation does not use."""
        return sum(row.params for row in self.rows)

    @property
    def unused_params(self) -> int:
        """Those that evaluation does not use, such as the ones of auxiliary heads."""
        return sum(row.params for row in self.rows if row.kind == UNUSED)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def activations(self) -> int:
        """Numbers stored in a forward pass of one image, the image among them."""
        return sum(row.activations for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of `activations` in the network's own precision."""
        return sum(row.activation_bytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Totals and rows as plain values."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "params": self.params,
            "unused_params": self.unused_params,
            "macs": self.macs,
            "activations": self.activations,
            "activation_bytes": self.activation_bytes,
            "rows": [{**asdict(row), "output_shape": list(row.output_shape)} for row in self.rows],
        }


def measure(model: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> Measurement:
    """Cost of any network for one image of `input_shape` (C, H, W), in evaluation mode.

    Nothing is computed: the pass runs on the meta device, and the network is given back as it was.
    Raises `UsageError` if the network does not take such an image.

    Examples:
        >>> from torch import nn
        >>> lenet_c1 = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2))
        >>> cost = measure(lenet_c1, (1, 32, 32))
        >>> cost.params, cost.macs, cost.activations
        (156, 117600, 6904)
        >>> [(row.name, row.kind, row.output_shape) for row in cost.rows][1:]
        [('0', 'conv 5x5, 6', (6, 28, 28)), ('1', 'ReLU', (6, 28, 28)), ('2', 'avg pool 2x2/2', (6, 14, 14))]
    """
    traced = trace(model, input_shape)
    rows = [_row("input", "image", traced.image, {}, [], stored=True)]
    for call in traced.calls:
        if call.module is None and not (call.ops[0].name in _SHOWN or call.params or macs(call.ops[0])):
            continue
        if isinstance(call.module, nn.Identity):
            continue
        name = call.name or type(model).__name__
        if call.module is None:
            name = f"{call.name} ({_SHOWN.get(call.class_name, call.class_name)})".lstrip()
        rows.append(_row(name, kind(call), call.output, call.params, call.ops, stored=_stores(call)))
    for name, size in traced.unused.items():
        rows.append(Row(name, UNUSED, (), size, 0, 0, 0))
    return Measurement(type(model).__name__, tuple(input_shape), tuple(rows))


def _row(
    name: str, kind: str, output: Tensor | None, params: dict[str, int], ops: list[Op], stored: bool
) -> Row:
    count = output.numel() if output is not None and stored else 0
    return Row(
        name=name,
        kind=kind,
        output_shape=tuple(output.shape[1:]) if output is not None else (),
        params=sum(params.values()),
        macs=sum(macs(op) for op in ops),
        activations=count,
        activation_bytes=count * output.element_size() if output is not None else 0,
    )


# Operations between module calls that are worth a row, with the name they get there.
_SHOWN = {
    "add": "add", "add_": "add", "sub": "subtract", "mul": "multiply", "mul_": "multiply", "cat": "concat",
    "relu": "ReLU", "relu_": "ReLU", "sigmoid": "sigmoid", "tanh": "tanh", "mean": "mean",
    "max_pool2d_with_indices": "max pool", "avg_pool2d": "avg pool", "_adaptive_avg_pool2d": "adaptive avg pool",
    "constant_pad_nd": "pad", "upsample_nearest2d": "upsample", "upsample_bilinear2d": "upsample",
}  # fmt: skip


def _stores(call: Call) -> bool:
    """Whether the row's output needs memory of its own; see this file's head."""
    if call.output is None:
        return False
    if any(macs(op) or ("pool" in op.name and "adaptive" not in op.name) for op in call.ops):
        return True
    # an adaptive pool to the size that its input has already is the identity
    return not any(call.output.numel() == tensor.numel() for tensor in call.inputs)


# --- naming ---------------------------------------------------------------------------------------------


def kind(call: Call) -> str:
    """What a call is, in the lectures' words: "conv 3x3/2, 64", "max pool 2x2/2", "linear 4096", else its class."""
    main = [op for op in call.ops if macs(op) or "pool2d" in op.name]
    if len(main) != 1:
        return call.class_name if call.module is not None else _SHOWN.get(call.class_name, call.class_name)
    op = main[0]
    if "convolution" in op.name:
        return _convolution(op)
    if "pool2d" in op.name:
        return _pool(op)
    inner = op.output.shape[-1]
    return f"linear {inner}" if op.name in ("mm", "addmm") else f"matrix product {inner}"


def _convolution(op: Op) -> str:
    """Kernel, stride, output channels; then what is unusual about it."""
    weight, stride, dilation, transposed, groups = op.args[1], op.args[3], op.args[5], op.args[6], op.args[8]
    c_in, c_out = op.args[0].shape[1], op.output.shape[1]
    word = "transposed conv" if transposed else "conv"
    if groups == c_in and groups > 1:
        word = f"depthwise {word}"
    text = f"{word} {_sides(weight.shape[2:])}{_stride(stride)}, {c_out}"
    if groups > 1 and groups != c_in:
        text += f", {groups} groups"
    if max(dilation) > 1:
        text += f", dilation {_side(dilation)}"
    return text


def _pool(op: Op) -> str:
    word = "max pool" if "max" in op.name else "avg pool"
    if "adaptive" in op.name:
        return f"adaptive {word} {_sides(op.output.shape[2:])}"
    kernel = op.args[1]
    stride = op.args[2] if len(op.args) > 2 and op.args[2] else kernel
    return f"{word} {_sides(kernel)}{_stride(stride)}"


def _sides(sides: Any) -> str:
    sides = list(sides)
    return "x".join(str(side) for side in (sides * 2 if len(sides) == 1 else sides))


def _side(sides: Any) -> str:
    """One number where all sides agree."""
    sides = list(sides)
    return str(sides[0]) if len(set(sides)) == 1 else _sides(sides)


def _stride(stride: Any) -> str:
    return "" if math.prod(stride) == 1 else f"/{_side(stride)}"
