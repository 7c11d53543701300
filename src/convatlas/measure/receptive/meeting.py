"""What units see where tensors meet: number by number, or in a product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from convatlas.measure.receptive.known import Known, aligned
from convatlas.measure.receptive.seen import Seen, UnknownError
from convatlas.measure.span import Span

Operand = tuple[Seen, Sequence[int]]  # with its shape


def join(known: Known, tensors: Iterable[Tensor], shape: Sequence[int]) -> Seen:
    """Of what is computed elementwise from tensors."""
    found = [(aligned(seen), tensor.shape) for tensor in tensors if (seen := known.of(tensor)) is not None]
    return joined(found, shape)


def joined(operands: Sequence[Operand], shape: Sequence[int]) -> Seen:
    """What the units of an elementwise operation see; operands with their shapes, aligned from the right."""
    seen: Seen | None = None
    besides = whole = False
    for each, size in operands:
        besides, whole = besides or each.besides, whole or each.everything
        if missing := len(shape) - len(size):
            each = replace(each, layout=((),) * missing + each.layout)
        for dim, there in enumerate(size, missing):  # one position for all is seen from everywhere
            if there == 1 < shape[dim]:
                for axis in each.at(dim):
                    each = each.all_along(axis)
        seen = each if seen is None else _both(seen, each, shape)
    if seen is None:
        raise UnknownError
    if besides > seen.besides or whole > seen.whole:
        seen = replace(seen, besides=besides or seen.besides, whole=whole or seen.whole)
    return seen


def multiplied(left: Operand | None, right: Operand | None, shape: Sequence[int]) -> Seen:
    """Of a matrix product with (..., H, K) at the left and (..., K, W) at the right; None is not of the image.

    Where each place meets each other one, as in attention, all of them are taken together.
    """
    operands: list[Seen] = []
    for operand, back in ((left, 1), (right, 2)):
        if operand is None:
            continue
        seen, size = operand
        inner = max(len(size) - back, 0)
        seen = seen.pooled([inner], size)
        if len(size) != len(shape):  # a vector at the right, or a sum of everything
            kept = [runs for dim, runs in enumerate(seen.layout) if dim != inner]
            seen = replace(seen, layout=((),) * (len(shape) - len(kept)) + tuple(kept))
        operands.append(seen)
    if len(operands) < 2:
        return operands[0]
    one, other = operands
    last = len(shape) - 1
    for axis in range(len(one.spans)):
        ours, theirs = ({dim for dim, _, _ in seen.of(axis)} for seen in (one, other))
        if ours and theirs and ours != theirs:
            one, other = _together(one, axis, last - 1, shape), _together(other, axis, last, shape)
    return replace(joined([(one, shape), (other, shape)], shape), apart=0.0)


def _together(seen: Seen, axis: int, dim: int, shape: Sequence[int]) -> Seen:
    """The places of an axis that lie in a dimension, as each is seen from each."""
    seen = seen.without(dim, axis, shape)
    return seen.all_along(axis) if axis in seen.at(dim) else seen


def _both(ours: Seen, theirs: Seen, shape: Sequence[int]) -> Seen:
    if ours.layout != theirs.layout:
        ours, theirs = _alike(ours, theirs, shape)
    elif ours.spans == theirs.spans:
        return ours
    spans: list[Span | None] = []
    besides, apart = ours.besides or theirs.besides, 0.0
    layout = list(ours.layout)
    for axis, (one, other) in enumerate(zip(ours.spans, theirs.spans, strict=True)):
        here, there = ours.of(axis), theirs.of(axis)
        for dim, _, _ in there:
            layout[dim] = theirs.layout[dim]
        alone = all(
            shape[dim] == 1 for dim, _, _ in (*here, *there)
        )  # a map of one position is no more than one
        if bool(here) != bool(there) and not (alone and one and other):  # a single position beside a map
            besides = True
            spans.append(one if here else other)
        elif one is None or other is None:
            besides = besides or one is not other
            spans.append(one if one else other)
        else:
            span = one.union(other)
            if span is None:
                raise UnknownError
            apart = max(apart, one.apart(other))
            spans.append(span)
    return Seen(tuple(spans), tuple(layout), besides, ours.whole or theirs.whole, apart)


def _alike(ours: Seen, theirs: Seen, shape: Sequence[int]) -> tuple[Seen, Seen]:
    """The two with the same runs in every dimension where both have some; what only one splits is taken together."""
    for dim in range(len(shape)):
        if ours.layout[dim] != theirs.layout[dim]:
            ours, theirs = ours.interleaved(dim), theirs.interleaved(dim)
    for dim in range(len(shape)):
        if ours.layout[dim] != theirs.layout[dim]:
            ours, theirs = _plainer(ours, theirs, dim, shape), _plainer(theirs, ours, dim, shape)
    for axis in range(len(ours.spans)):
        here, there = ours.of(axis), theirs.of(axis)
        if here and there and here != there:
            raise UnknownError
    for dim in range(len(shape)):
        one, other = ours.layout[dim], theirs.layout[dim]
        if one and other and one != other:
            raise UnknownError
    return ours, theirs


def _plainer(seen: Seen, other: Seen, dim: int, shape: Sequence[int]) -> Seen:
    """Without the inner runs of a dimension that another tensor does not have there."""
    for run in seen.layout[dim]:
        if run not in other.layout[dim] and any(other.of(axis) for axis in run.axes):
            seen = seen.without(dim, run.axes[0], shape)
    return seen
