"""What one operation costs: multiply-adds, other operations, or not known.

- **MACs**: multiply-adds of convolutions and matrix products. Everything else has none.
- **Other operations**: one for each number that an elementwise function gives, a window's size for each number of a
  pool, one for each number that a sum or a mean takes, 2 of BatchNorm in evaluation (scale and shift), 7 of a
  normalisation that works its statistics out (LayerNorm, GroupNorm), 5 of a softmax, and a bias's additions.
- **Free**: what only rearranges, copies or makes constants.

What is none of these is not known, and is said so; it is never counted as zero.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from convatlas.measure.trace import Op

_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "mv": 0, "addmv": 1, "dot": 0}
_ATTENTION = "_scaled_dot_product"


def macs(op: Op) -> int:
    """Multiply-adds of one operation: convolutions, matrix products and attention; everything else has 0.

    A convolution multiplies each output number's window: output size x kernel x input channels of a
    group; a transposed one does so from the input. A matrix product: output size x inner length. Attention is two
    products: queries with keys, and the weights with the values.
    """
    if op.name in ("convolution", "_convolution"):
        image, weight, transposed = op.args[0], op.args[1], op.args[6]
        return (image if transposed else op.output).numel() * math.prod(weight.shape[1:])
    if op.name in _PRODUCTS:
        return op.output.numel() * op.args[_PRODUCTS[op.name]].shape[-1]
    if op.name.startswith(_ATTENTION):
        query, keys, values = op.args[:3]
        return math.prod(query.shape[:-1]) * keys.shape[-2] * (query.shape[-1] + values.shape[-1])
    return 0


def operations(op: Op) -> int:
    """Operations of one ATen operation that are no multiply-adds; see this file's head for what counts how."""
    size = op.output.numel()
    if macs(op):
        biased = op.name in ("convolution", "_convolution") and op.args[2] is not None
        return size if biased or op.name.startswith("add") or op.name == "baddbmm" else 0
    if not is_known(op):
        return 0
    if op.name in _PER_OUTPUT:
        return _PER_OUTPUT[op.name] * size
    pools = is_pool(op)
    if op.name in _PER_INPUT or (pools and "adaptive" in op.name):
        return op.args[0].numel()
    if pools:
        kernel: Any = op.args[1]
        sides = [kernel] if isinstance(kernel, int) else list(kernel)
        axes = int(op.name[op.name.index("pool") + 4])
        return size * math.prod(sides * axes if len(sides) == 1 else sides)
    if "upsample" in op.name and "nearest" not in op.name:
        # a multiplication and an addition for each neighbour: two on an axis, four for cubic curves
        return size * 2 * (4 if "bicubic" in op.name else 2) ** (op.output.ndim - 2)
    return size if elementwise(op) and op.name not in _FREE else 0


def is_known(op: Op) -> bool:
    """Whether the counts of this operation are what it costs.

    A name says what PyTorch's own operations do; those of other libraries may do anything under it.
    """
    if macs(op) or is_view(op) or not op.inputs or elementwise(op) or op.output.numel() == 0:
        return True
    return _is_pytorchs(op) and (op.name in _COUNTED or is_pool(op) or "upsample" in op.name)


def is_view(op: Op) -> bool:
    """Whether the output is the input's memory, looked at in another way: also `transpose_` and the like."""
    return op.func.is_view or torch.Tag.inplace_view in op.func.tags


def is_pool(op: Op) -> bool:
    """Whether the operation takes maxima or means of windows; `max_unpool2d` and `roi_pool` do not."""
    return "pool" in op.name and _POOL.fullmatch(op.name) is not None and _is_pytorchs(op)


def makes_numbers(op: Op) -> bool:
    """Whether an operation gives what was not there before, or more of it: a view, a slice or a copy does not."""
    if is_view(op) or not op.inputs or op.name in CONSTANTS:
        return False
    if macs(op) or operations(op) or op.name in ("cat", "stack") or "_pad" in op.name or not is_known(op):
        return True
    return op.output.numel() > sum(tensor.numel() for tensor in op.inputs)


def _is_pytorchs(op: Op) -> bool:
    return op.func.namespace == "aten"


def elementwise(op: Op) -> bool:
    """Whether each number of the output comes from the numbers at its own place."""
    return torch.Tag.pointwise in op.func.tags or op.name.removesuffix("_") in ELEMENTWISE


_POOL = re.compile(r"_?(adaptive_|fractional_|mkldnn_)?(max|avg)_pool[123]d(_with_indices)?")

# Elementwise, though PyTorch does not tag them so.
ELEMENTWISE = frozenset(
    ("hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "gelu", "mish", "rrelu_with_noise")
)

_PER_OUTPUT = {
    "native_batch_norm": 2, "_native_batch_norm_legit_no_training": 2, "cudnn_batch_norm": 2,
    "native_layer_norm": 7, "native_group_norm": 7, "_softmax": 5, "_safe_softmax": 5, "_log_softmax": 5,
    "cumsum": 1, "cumprod": 1,
}  # fmt: skip

_PER_INPUT = frozenset(
    ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "prod", "argmax", "argmin", "logsumexp",
     "linalg_vector_norm", "any", "all", "aminmax", "col2im")
)  # fmt: skip

# What tensors are filled with before anything is computed.
CONSTANTS = frozenset(
    ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
     "new_ones", "new_full", "new_empty_strided", "fill", "fill_", "zero_", "bernoulli", "bernoulli_", "uniform_",
     "normal_", "lift_fresh")
)  # fmt: skip

_FREE = CONSTANTS | frozenset(
    ("cat", "stack", "clone", "copy_", "copy", "_to_copy", "contiguous", "constant_pad_nd", "reflection_pad1d",
     "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "index",
     "index_select", "index_put", "index_put_", "gather", "scatter", "embedding", "repeat", "roll", "flip",
     "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "_unsafe_view",
     "_reshape_alias", "view", "reshape", "masked_fill", "masked_fill_", "where", "tril", "triu", "native_dropout",
     "detach", "alias", "resize_", "im2col", "unfold", "as_strided", "as_strided_", "index_copy", "index_copy_",
     "max_unpool2d", "max_unpool3d",
     "item", "_local_scalar_dense", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "repeat_interleave")
)  # fmt: skip

_COUNTED = _PER_OUTPUT.keys() | _PER_INPUT | _FREE | _PRODUCTS.keys()
