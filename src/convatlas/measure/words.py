"""What a call is, in the words of the lectures, and the name that its row gets."""

from __future__ import annotations

import math
from re import sub
from typing import Any

from convatlas.measure.operations import is_pool, macs
from convatlas.measure.trace import Call, Op


def row_name(call: Call) -> str:
    """A module's path, or an operation in brackets behind the path of its weights, or of the module that it is in."""
    return call.name if call.module is not None else f"{call.weight or call.name} ({_word(call)})".lstrip()


def _word(call: Call) -> str:
    """An operation as people call it: "add_" is "add", "native_group_norm" is "group norm"."""
    name = call.class_name
    if word := _WORDS.get(name.removesuffix("_")):
        return word
    if is_pool(call.ops[0]):
        return f"{'adaptive ' if 'adaptive' in name else ''}{'max' if 'max' in name else 'avg'} pool"
    if name.startswith(("upsample_", "_upsample_")):
        return "upsample"
    if "_pad" in name:
        return "pad"
    return sub("_norm$", " norm", name.removeprefix("native_").strip("_"))


# Operations by the names that they have in formulas and as modules.
_WORDS = {
    "sub": "subtract", "rsub": "subtract", "mul": "multiply", "div": "divide", "cat": "concat", "neg": "negate",
    "relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "elu": "ELU", "leaky_relu": "LeakyReLU",
    "_prelu_kernel": "PReLU", "hardswish": "Hardswish", "mish": "Mish", "_softmax": "softmax",
    "_safe_softmax": "softmax", "_log_softmax": "log-softmax",
}  # fmt: skip


def kind(call: Call) -> str:
    """What a call is, in the lectures' words: "conv 3x3/2, 64", "max pool 2x2/2", "linear 4096", else its class."""
    axes = call.output.ndim - 2 if call.output is not None else 0

    def pools(op: Op) -> bool:
        """Local response normalisation pools over channels, with an axis more: that is no pool."""
        return is_pool(op) and ("Pool" in call.class_name or op.output.ndim - 2 == axes)

    main = [op for op in call.ops if macs(op) or pools(op)]
    if len(main) != 1:
        return call.class_name if call.module is not None else _word(call)
    op = main[0]
    if "convolution" in op.name:
        return _convolution(op)
    if is_pool(op):
        return _pool(op, axes)
    inner = "".join(f" {side}" for side in op.output.shape[-1:])  # the product of two vectors has no axis
    return f"linear{inner}" if op.name in ("mm", "addmm") else f"matrix product{inner}"


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


def _pool(op: Op, axes: int) -> str:
    """Kernel and stride; PyTorch pools a signal as an image of one line, which is not shown."""
    word = "max pool" if "max" in op.name else "avg pool"
    if "adaptive" in op.name:
        return f"adaptive {word} {_sides(op.output.shape[2:][-axes:])}"
    kernel = list(op.args[1])
    stride = list(op.args[2]) if len(op.args) > 2 and op.args[2] else kernel
    shown = [(sides * axes)[-axes:] for sides in (kernel, stride)]
    return f"{word} {_sides(shown[0])}{_stride(shown[1])}"


def _sides(sides: Any) -> str:
    return "x".join(map(str, sides))


def _side(sides: Any) -> str:
    """One number where all sides agree."""
    sides = list(sides)
    return str(sides[0]) if len(set(sides)) == 1 else _sides(sides)


def _stride(stride: Any) -> str:
    return "" if math.prod(stride) == 1 else f"/{_side(stride)}"
