"""Rules of the operations that move windows over a map: convolutions, pools, resampling, paddings, slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from convatlas.measure.receptive.cutting import reshaped, selected, sliced
from convatlas.measure.receptive.known import Known, Rule, argument, each_of
from convatlas.measure.receptive.meeting import join, joined
from convatlas.measure.receptive.seen import Run, Seen, UnknownError
from convatlas.measure.shapes import windows
from convatlas.measure.span import adaptive, interpolated, transposed, window
from convatlas.measure.trace import Op


def _convolution(known: Known, op: Op) -> Seen:
    seen, shape = known.first(op), op.args[0].shape
    kernel = list(op.args[1].shape[2:])
    axes = len(kernel)
    stride, padding, dilation = (each_of(op.args[i], axes) for i in (3, 4, 5))
    seen = seen.pooled([1], shape)  # all channels
    for axis, dim in enumerate(range(2, 2 + axes)):
        geometry = kernel[axis], padding[axis], dilation[axis]
        if (kernel[axis], stride[axis], padding[axis]) == (1, 1, 0):
            continue
        seen = seen.gathered([dim], shape)
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
        seen = seen.gathered([dim], shape).slid(
            dim, window(kernel[axis], padding[axis], dilation[axis]), stride[axis]
        )
    return [seen, *(None for _ in op.outputs[1:])]


def _adaptive_pool(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    wanted = op.output.shape
    for dim in range(2, len(shape)):
        if wanted[dim] == 1:
            seen = seen.pooled([dim], shape)
        elif wanted[dim] != shape[dim]:
            seen = seen.gathered([dim], shape).slid(dim, *adaptive(shape[dim], wanted[dim]))
    return [seen, *(None for _ in op.outputs[1:])]


def _resample(known: Known, op: Op) -> Seen:
    seen, shape, wanted = known.first(op), op.args[0].shape, op.output.shape
    nearest, corners = "nearest" in op.name, "nearest" not in op.name and bool(op.args[2])
    given = op.args[2 if nearest else 3 :]
    around = (0,) if nearest else (-1, 0, 1, 2) if "cubic" in op.name else (0, 1)
    for axis, dim in enumerate(range(2, len(shape))):
        scale = given[axis] if axis < len(given) else None
        ratio = (
            Fraction(shape[dim], wanted[dim]) if not scale else 1 / Fraction(scale).limit_denominator(1000)
        )
        if ratio == 1 and shape[dim] == wanted[dim]:
            continue
        if corners:
            ratio = Fraction(shape[dim] - 1, max(wanted[dim] - 1, 1))
        seen = seen.gathered([dim], shape)
        if op.name.endswith("_aa"):
            seen = seen.slid(dim, *_antialiased(ratio, 2 if "cubic" in op.name else 1))
        else:
            first = Fraction(0) if corners or (nearest and "exact" not in op.name) else ratio / 2
            if not nearest and not corners:
                first -= Fraction(1, 2)
            seen = seen.slid(dim, *interpolated(ratio, first, around))
    return seen


def _antialiased(ratio: Fraction, reach: int) -> tuple[list[list[int]], int]:
    """Windows and step of an interpolation whose filter grows with the scale."""
    support = reach * max(ratio, Fraction(1))
    found: list[list[int]] = []
    for unit in range(ratio.denominator):
        centre = ratio * (2 * unit + 1) / 2
        low, high = (
            math.floor(centre - support + Fraction(1, 2)),
            math.floor(centre + support + Fraction(1, 2)),
        )
        inside = [at for at in range(low, high) if abs(at + Fraction(1, 2) - centre) < support]
        found.append(inside)
    return found, ratio.numerator


def _pad(known: Known, op: Op) -> Seen:
    seen, padding, shape = known.first(op), list(op.args[1]), op.args[0].shape
    for position, left in enumerate(padding[::2]):
        dim = len(shape) - 1 - position
        if left or padding[2 * position + 1]:
            seen = seen.gathered([dim], shape).slid(dim, [[-left]])
    return seen


def _roll(known: Known, op: Op) -> Seen:
    """What comes in at the other end is at the border; far from it all is moved."""
    seen, shape = known.first(op), op.args[0].shape
    shifts, dims = op.args[1], argument(op, 2, "dims", [])
    if not dims:
        raise UnknownError
    for shift, dim in zip(each_of(shifts, 1), each_of(dims, 1), strict=True):
        seen = seen.gathered([dim % len(shape)], shape).slid(dim % len(shape), [[-shift]])
    return seen


def _slice(known: Known, op: Op) -> Seen:
    seen, shape = known.first(op), op.args[0].shape
    dim, start, step = slice_of(op)
    return sliced(seen, dim, start, op.output.shape[dim], step, shape)


def slice_of(op: Op) -> tuple[int, int, int]:
    """Dimension, first position and step of a slice."""
    shape = op.args[0].shape
    dim, start, step = (
        argument(op, 1, "dim", 0) % len(shape),
        argument(op, 2, "start", None),
        argument(op, 4, "step", 1),
    )
    start = 0 if start is None else max(0, start + shape[dim]) if start < 0 else min(start, shape[dim])
    return dim, start, step


def _select(known: Known, op: Op) -> Seen:
    shape = op.args[0].shape
    dim = op.args[1] % len(shape)
    return selected(known.first(op), dim, op.args[2] % shape[dim], shape)


def _split(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    dim = argument(op, 2, "dim", 0) % len(shape)
    starts = [0]
    for output in op.outputs:
        starts.append(starts[-1] + output.shape[dim])
    return [
        sliced(seen, dim, start, output.shape[dim], 1, shape)
        for start, output in zip(starts, op.outputs, strict=False)
    ]


def _unbind(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    dim = argument(op, 1, "dim", 0) % len(shape)
    if any(run.axes and not seen.is_inner(run) for run in seen.layout[dim]):
        raise UnknownError  # positions of the map, which may come together again in any order
    return [selected(seen, dim, position, shape) for position in range(shape[dim])]


def _unfold(known: Known, op: Op) -> Seen:
    """Windows of a dimension, with their places as channels in a dimension of their own behind all others."""
    seen, (dim, size, step), shape = known.first(op), op.args[1:4], op.args[0].shape
    dim %= len(shape)
    return seen.gathered([dim], shape).slid(dim, [range(size)], step).inserted(len(shape))


def _columns(known: Known, op: Op) -> Seen:
    """(N, C, H, W) -> (N, C times the window, H W): the numbers of every window as channels."""
    seen, shape = known.first(op), op.args[0].shape
    for axis, dim in enumerate((2, 3)):
        kernel, dilation, padding, stride = (argument(op, i + 1, "", None)[axis] for i in range(4))
        seen = seen.gathered([dim], shape).slid(dim, window(kernel, padding, dilation), stride)
        shape = [*shape[:dim], windows(shape[dim], kernel, stride, padding, dilation), *shape[dim + 1 :]]
    return reshaped(seen, [shape[0], op.output.shape[1], *shape[2:]], op.output.shape)


def _concat(known: Known, op: Op) -> Seen:
    tensors = [tensor for tensor in op.args[0] if tensor.numel()]
    dim, lost = argument(op, 1, "dim", 0) % op.output.ndim, set[int]()
    if len(tensors) == 1:
        return join(known, tensors, op.output.shape)
    plain: list[tuple[Seen, list[int]]] = []
    for tensor in tensors:
        if (seen := known.of(tensor)) is None:
            continue
        shape = list(tensor.shape)
        for axis in seen.at(dim):
            seen = seen.without(dim, axis, shape)
        if axes := seen.at(dim):  # tokens of a whole map beside others: nobody knows any more which is where
            if len(set(axes)) < len(seen.spans) or (lost and lost != set(axes)):
                raise UnknownError
            lost = set(axes)
            seen = seen.put(dim, ())
        shape[dim] = op.output.shape[dim]
        plain.append((seen, shape))
    found = joined(plain, op.output.shape)
    _as_one(found, [seen for seen, _ in plain])
    if dim == 0 and any(seen.spans != found.spans for seen, _ in plain):
        raise UnknownError  # other places of the image as other images
    return found.put(dim, [Run(0, tuple(sorted(lost)), 0)]) if lost else found


def _stack(known: Known, op: Op) -> Seen:
    dim, tensors = argument(op, 1, "dim", 0) % op.output.ndim, op.args[0]
    found = join(known, tensors, tensors[0].shape)
    _as_one(found, [seen for tensor in tensors if (seen := known.of(tensor)) is not None])
    return found.inserted(dim)


def _as_one(found: Seen, parts: Sequence[Seen]) -> None:
    """Single positions of a map that come together are a map again, which nobody follows."""
    for axis, span in enumerate(found.spans):
        if span is not None and not found.of(axis) and any(part.spans[axis] != span for part in parts):
            raise UnknownError


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
         "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact1d",
         "_upsample_nearest_exact3d"), _resample,
    ),
    **dict.fromkeys(
        ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
         "replication_pad2d", "replication_pad3d"), _pad,
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "roll": _roll, "unfold": _unfold, "im2col": _columns,
    "slice": _slice, "select": _select, "unbind": _unbind, "cat": _concat, "stack": _stack,
}  # fmt: skip
