"""Rules of the operations that move windows over a map: convolutions, pools, resampling, paddings, slices."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from convatlas.measure.receptive.seen import Known, Rule, Seen, UnknownError, argument, each_of
from convatlas.measure.span import adaptive, resampled, transposed, window
from convatlas.measure.trace import Op


def _convolution(known: Known, op: Op) -> Seen:
    seen, shape = known.first(op), op.args[0].shape
    kernel = list(op.args[1].shape[2:])
    axes = len(kernel)
    stride, padding, dilation = (each_of(op.args[i], axes) for i in (3, 4, 5))
    seen = seen.pooled([1], shape)  # all channels
    for axis, dim in enumerate(range(2, 2 + axes)):
        geometry = kernel[axis], padding[axis], dilation[axis]
        if op.args[6]:
            k, p, d = geometry
            seen = seen.slid(dim, transposed(k, stride[axis], p, d), 1)
        else:
            seen = seen.slid(dim, window(*geometry), stride[axis])
    return seen


def _pool(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    axes = int(op.name[op.name.index("pool") + 4])
    kernel = each_of(op.args[1], axes)
    stride = each_of(op.args[2], axes) if len(op.args) > 2 and op.args[2] else kernel
    padding = each_of(op.args[3] if len(op.args) > 3 else 0, axes)
    dilation = each_of(op.args[4] if len(op.args) > 4 and "max" in op.name else 1, axes)
    for axis in range(axes):
        dim = len(shape) - axes + axis
        seen = seen.slid(dim, window(kernel[axis], padding[axis], dilation[axis]), stride[axis])
    return [seen, *(None for _ in op.outputs[1:])]


def _adaptive_pool(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    wanted = op.output.shape
    for dim in range(2, len(shape)):
        if wanted[dim] == 1:
            seen = seen.pooled([dim], shape)
        elif wanted[dim] != shape[dim]:
            seen = seen.slid(dim, *adaptive(shape[dim], wanted[dim]))
    return [seen, *(None for _ in op.outputs[1:])]


def _resample(known: Known, op: Op) -> Seen:
    seen, shape, wanted = known.first(op), op.args[0].shape, op.output.shape
    corners = "nearest" not in op.name and bool(op.args[2])
    around = (0,) if "nearest" in op.name else (-1, 0, 1, 2) if "cubic" in op.name else (0, 1)
    for dim in range(2, len(shape)):
        if op.name.endswith("_aa"):
            seen = seen.slid(dim, *_antialiased(shape[dim], wanted[dim], 2 if "cubic" in op.name else 1))
        elif corners:
            raise UnknownError
        else:
            seen = seen.slid(
                dim,
                *resampled(shape[dim], wanted[dim], around, centres="exact" in op.name or len(around) > 1),
            )
    return seen


def _antialiased(size: int, wanted: int, reach: int) -> tuple[list[list[int]], int]:
    """Windows and step of an interpolation whose filter grows with the scale."""
    common = math.gcd(size, wanted)
    scale = Fraction(size, wanted)
    support = reach * max(scale, Fraction(1))
    windows: list[list[int]] = []
    for unit in range(wanted // common):
        centre = scale * (2 * unit + 1) / 2
        low, high = (
            math.floor(centre - support + Fraction(1, 2)),
            math.floor(centre + support + Fraction(1, 2)),
        )
        inside = [at for at in range(low, high) if abs(at + Fraction(1, 2) - centre) < support]
        windows.append(inside)
    return windows, size // common


def _pad(known: Known, op: Op) -> Seen:
    seen, padding, ndim = known.first(op), list(op.args[1]), op.output.ndim
    for position, left in enumerate(padding[::2]):
        if left or padding[2 * position + 1]:
            seen = seen.slid(ndim - 1 - position, [[-left]])
    return seen


def _slice(known: Known, op: Op) -> Seen:
    seen, shape = known.first(op), op.args[0].shape
    dim, start, step = (
        argument(op, 1, "dim", 0) % len(shape),
        argument(op, 2, "start", None),
        argument(op, 4, "step", 1),
    )
    start = 0 if start is None else max(0, start + shape[dim]) if start < 0 else min(start, shape[dim])
    return seen.slid(dim, [[start]], step) if start or step != 1 else seen


def _select(known: Known, op: Op) -> Seen:
    seen, dim = known.first(op), op.args[1] % op.args[0].ndim
    position = op.args[2] % op.args[0].shape[dim]
    for index in seen.at(dim):
        axis = seen.slid(dim, [[position]]).axes[index]
        seen = seen.changed(index, replace(axis, dim=None))
    return seen.moved(lambda old: old - (old > dim))


def _split(known: Known, op: Op) -> list[Seen | None]:
    seen = known.first(op)
    dim = argument(op, 2, "dim", 0) % op.args[0].ndim
    starts = [0]
    for output in op.outputs:
        starts.append(starts[-1] + output.shape[dim])
    return [seen.slid(dim, [[start]]) if start else seen for start in starts[:-1]]


def _unbind(known: Known, op: Op) -> list[Seen | None]:
    seen, dim = known.first(op), argument(op, 1, "dim", 0) % op.args[0].ndim
    if seen.at(dim):
        raise UnknownError
    return [seen.moved(lambda old: old - (old > dim)) for _ in op.outputs]


def _concat(known: Known, op: Op) -> Seen:
    tensors = [tensor for tensor in op.args[0] if tensor.numel()]
    dim = argument(op, 1, "dim", 0) % op.output.ndim
    joined = known.join(tensors, op.output.shape)
    if any(not axis.mixed for index in joined.at(dim) for axis in [joined.axes[index]]) and len(tensors) > 1:
        raise UnknownError
    return joined


def _stack(known: Known, op: Op) -> Seen:
    dim, tensors = argument(op, 1, "dim", 0) % op.output.ndim, op.args[0]
    return known.join(tensors, tensors[0].shape).moved(lambda old: old + (old >= dim))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
         "max_pool3d_with_indices"), _pool,
    ),
    **dict.fromkeys(
        ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
         "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_pool,
    ),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d",
         "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
         "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), _resample,
    ),
    **dict.fromkeys(
        ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
         "replication_pad2d", "replication_pad3d"), _pad,
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "slice": _slice, "select": _select, "unbind": _unbind, "cat": _concat, "stack": _stack,
}  # fmt: skip
