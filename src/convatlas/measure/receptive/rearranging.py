"""Rules of the operations that only rearrange a tensor, and of those that join tensors number by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from convatlas.measure.receptive.seen import Axis, Known, Rule, Seen, UnknownError
from convatlas.measure.trace import Op


def _same(known: Known, op: Op) -> Seen:
    return known.first(op)


def _permuted(order: Sequence[int]) -> Callable[[int], int]:
    return lambda old: list(order).index(old)


def _permute(known: Known, op: Op) -> Seen:
    ndim = op.output.ndim
    return known.first(op).moved(_permuted([dim % ndim for dim in op.args[1]]))


def _transpose(known: Known, op: Op) -> Seen:
    ndim = op.output.ndim
    one, other = (op.args[1] % ndim, op.args[2] % ndim) if op.name != "t" else (0, ndim - 1)
    return known.first(op).moved(lambda old: {one: other, other: one}.get(old, old))


def _unsqueeze(known: Known, op: Op) -> Seen:
    dim = op.args[1] % op.output.ndim
    return known.first(op).moved(lambda old: old + (old >= dim))


def _expand(known: Known, op: Op) -> Seen:
    source, shape = op.args[0].shape, op.output.shape
    missing = len(shape) - len(source)
    seen = known.first(op)
    for index, axis in enumerate(seen.axes):
        if axis.dim is not None and source[axis.dim] == 1 < shape[axis.dim + missing]:
            seen = seen.changed(index, Axis(None, None))
    return seen.moved(lambda old: old + missing)


def _repeat(known: Known, op: Op) -> Seen:
    """Copies beside each other, along dimensions that are not the image's."""
    seen, times = known.first(op), list(op.args[1])
    missing = len(times) - op.args[0].ndim
    if any(times[axis.dim + missing] > 1 for axis in seen.axes if axis.dim is not None):
        raise UnknownError
    return seen.moved(lambda old: old + missing)


def _reshape(known: Known, op: Op) -> Seen:
    """Dimensions that are split, merged or kept: runs of both shapes whose products agree belong together."""
    seen = known.first(op)
    source, target = list(op.args[0].shape), list(op.output.shape)
    taken = [axis.dim for axis in seen.axes if axis.dim is not None]
    axes: list[Axis] = []
    for axis in seen.axes:
        if axis.dim is None:
            axes.append(axis)
        elif source[axis.dim] == 1:  # one position needs no dimension
            kept = target[: axis.dim + 1] == source[: axis.dim + 1]
            axes.append(replace(axis, dim=axis.dim if kept else None))
        else:
            old, new = next(pair for pair in _groups(source, target) if axis.dim in pair[0])
            alone = sum(dim in old and source[dim] > 1 for dim in taken) == 1
            axes.append(_through(axis, source, target, old, new, alone))
    return replace(seen, axes=tuple(axes))


def _through(
    axis: Axis, source: list[int], target: list[int], old: list[int], new: list[int], alone: bool
) -> Axis:
    """One axis through a run of a reshaping: from the dimensions `old` of one shape to `new` of the other."""
    old, new = [dim for dim in old if source[dim] > 1], [dim for dim in new if target[dim] > 1]
    if len(old) == len(new) == 1:
        return replace(axis, dim=new[0])
    if axis.mixed or axis.span is None:
        raise UnknownError
    if len(old) == 1:  # split: the outer dimension steps over the inner ones
        inner = math.prod(target[dim] for dim in new[1:])
        return Axis(axis.span.slide([range(inner)], inner), new[0])
    if len(new) > 1:
        raise UnknownError
    if alone and axis.dim == old[0]:  # merged with inner dimensions: each unit comes several times
        inner = math.prod(source[dim] for dim in old[1:])
        return Axis(axis.span.slide([[0]] * inner), new[0])
    return Axis(axis.span, new[0], mixed=True)


def _groups(source: list[int], target: list[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products, in order; dimensions of 1 go with what follows."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        old, new, left, right = [i], [j], source[i], target[j]
        i, j = i + 1, j + 1
        while left != right or (left == 1 and i < len(source) and j < len(target)):
            if left <= right and i < len(source):
                left, old, i = left * source[i], [*old, i], i + 1
            elif j < len(target):
                right, new, j = right * target[j], [*new, j], j + 1
            else:
                break
        found.append((old, new))
    return found


def _shuffled(known: Known, op: Op) -> Seen:
    """Pixels from channels, or channels from pixels."""
    seen, factor = known.first(op), op.args[1]
    for dim in (op.output.ndim - 2, op.output.ndim - 1):
        enlarged = op.name == "pixel_shuffle"
        seen = seen.slid(dim, [[0]] * factor) if enlarged else seen.slid(dim, [range(factor)], factor)
    return seen


def _indexed(known: Known, op: Op) -> Seen:
    """Chosen channels; chosen positions are not known."""
    seen = known.first(op)
    indices = op.args[1]
    if op.name == "index_select":
        touched = [op.args[1] % op.args[0].ndim]
    else:
        touched = [dim for dim, index in enumerate(indices) if index is not None]
        if len(touched) != 1 or indices[touched[0]].ndim != 1:
            raise UnknownError
    if any(seen.at(dim) for dim in touched):
        raise UnknownError
    return seen


def pointwise(known: Known, op: Op) -> Seen:
    """Of an operation that computes each number from those at its own place."""
    return known.join(op.inputs, op.output.shape)


def _copied(known: Known, op: Op) -> Seen:
    """What is overwritten, and may be left in part."""
    return known.join(op.args[:2], op.output.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("clone", "_to_copy", "contiguous", "detach", "alias", "dropout", "native_dropout", "channel_shuffle",
         "native_channel_shuffle", "lift_fresh"), _same,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze"), _reshape),
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffled),
    **dict.fromkeys(("index", "index_select"), _indexed),
    "permute": _permute, "repeat": _repeat, "unsqueeze": _unsqueeze, "expand": _expand, "copy_": _copied,
}  # fmt: skip
