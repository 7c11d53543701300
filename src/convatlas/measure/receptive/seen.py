"""What is known of one tensor while a trace is walked, and what follows where tensors meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from convatlas.measure.receptive.field import Field
from convatlas.measure.span import PIXELS, Span
from convatlas.measure.trace import Op


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the image in a tensor: the dimension that runs along it, None where one position is left.

    `mixed`: it runs along that dimension together with other things, after a reshaping.
    """

    span: Span | None
    dim: int | None
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What the units of one tensor see."""

    axes: tuple[Axis, ...]
    besides: bool = False
    apart: float = 0.0

    def field(self) -> Field:
        """The same as it is told to others."""
        return Field(tuple(axis.span for axis in self.axes), self.besides, self.apart)

    def at(self, dim: int) -> list[int]:
        """Positions of the axes that run along a dimension."""
        return [i for i, axis in enumerate(self.axes) if axis.dim == dim]

    def changed(self, index: int, axis: Axis) -> Seen:
        """The same with another axis at a position."""
        return replace(self, axes=(*self.axes[:index], axis, *self.axes[index + 1 :]))

    def moved(self, where: Callable[[int], int | None]) -> Seen:
        """The same with the dimensions renumbered."""
        axes = (a if a.dim is None else replace(a, dim=where(a.dim)) for a in self.axes)
        return replace(self, axes=tuple(axes))

    def slid(self, dim: int, windows: Sequence[Sequence[int]], step: int = 1) -> Seen:
        """A window was moved along a dimension."""
        seen = self
        for index in self.at(dim):
            axis = self.axes[index]
            if axis.mixed:
                raise UnknownError
            span = axis.span and axis.span.slide(windows, step)
            seen = seen.changed(index, replace(axis, span=span))
        return seen

    def pooled(self, dims: Iterable[int], shape: Sequence[int]) -> Seen:
        """All positions along some dimensions of `shape` were mixed into one."""
        seen = self
        for dim in dims:
            for index in self.at(dim):
                axis = self.axes[index]
                span = axis.span if shape[dim] == 1 and not axis.mixed else None
                seen = seen.changed(index, Axis(span, None))
        return seen

    def gated(self, dims: Iterable[int], shape: Sequence[int]) -> Seen:
        """Every position was changed by all the others along some dimensions."""
        touched = any(self.at(dim) and shape[dim] > 1 for dim in dims)
        return replace(self, besides=self.besides or touched)


class UnknownError(Exception):
    """No rule knows what the units see after this."""


def joined(operands: Sequence[tuple[Seen, Sequence[int]]], shape: Sequence[int]) -> Seen:
    """What the units of an elementwise operation see; operands with their shapes, aligned from the right."""
    seen: Seen | None = None
    besides = any(each.besides for each, _ in operands)
    for each, size in operands:
        if missing := len(shape) - len(size):
            each = each.moved(lambda dim, missing=missing: dim + missing)
        axes = [
            a.span is not None and a.dim is not None and size[a.dim - missing] == 1 < shape[a.dim]
            for a in each.axes
        ]
        if any(axes):  # one position for all: seen from everywhere
            each = replace(
                each, axes=tuple(Axis(None, None) if b else a for a, b in zip(each.axes, axes, strict=True))
            )
        seen = each if seen is None else _both(seen, each)
    if seen is None:
        raise UnknownError
    return replace(seen, besides=True) if besides and not seen.besides else seen


def aligned(seen: Seen) -> Seen:
    """The same without the misalignment of earlier branches, which is told where they meet."""
    return replace(seen, apart=0.0) if seen.apart else seen


def _both(ours: Seen, theirs: Seen) -> Seen:
    if ours.axes == theirs.axes:
        return ours
    axes: list[Axis] = []
    besides, apart = ours.besides or theirs.besides, 0.0
    for one, other in zip(ours.axes, theirs.axes, strict=True):
        if one == other:
            axes.append(one)
            continue
        placed = [axis for axis in (one, other) if axis.dim is not None]
        if len({(axis.dim, axis.mixed) for axis in placed}) > 1:
            raise UnknownError
        if len(placed) == 1 and not (one.span is None and other.span is None):
            axes.append(placed[0])  # a single position beside a map
            besides = True
            continue
        if one.span is None or other.span is None:
            besides = besides or one.span is not other.span
            axes.append(one if one.span else other)
            continue
        span = one.span.union(other.span)
        if span is None:
            raise UnknownError
        apart = max(apart, one.span.apart(other.span))
        axes.append(replace(one, span=span))
    return Seen(tuple(axes), besides, max(apart, 0.0))


class Known:
    """What is known of every tensor so far, by its identity: what its units see, or the operation that nobody knows."""

    def __init__(self, image: Tensor) -> None:
        axes = (Axis(PIXELS, dim) for dim in range(2, image.ndim))
        self.known: dict[int, Seen | str] = {id(image): Seen(tuple(axes))}
        self.axes = image.ndim - 2

    def of(self, value: Any) -> Seen | None:
        """What a tensor's units see; None if it does not come from the image."""
        found = self.known.get(id(value)) if isinstance(value, Tensor) else None
        if isinstance(found, str):
            raise UnknownError(found)
        return found

    def first(self, op: Op) -> Seen:
        """What the first argument sees, if it is the only one that sees anything."""
        seen = self.of(op.args[0])
        others = [self.of(tensor) for tensor in op.inputs if tensor is not op.args[0]]
        if seen is None or any(other is not None for other in others):
            raise UnknownError
        return aligned(seen)

    def join(self, tensors: Iterable[Tensor], shape: Sequence[int]) -> Seen:
        """Of what is computed elementwise from tensors."""
        found = [(aligned(seen), tensor.shape) for tensor in tensors if (seen := self.of(tensor)) is not None]
        return joined(found, shape)


Rule = Callable[[Known, Op], "Seen | list[Seen | None]"]  # what an operation's outputs see


def argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An argument by its place or its name."""
    args: tuple[Any, ...] = op.args
    return args[position] if len(args) > position else op.kwargs.get(name, default)


def each_of(value: Any, count: int) -> list[int]:
    """A number for every axis, from one or several."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values
