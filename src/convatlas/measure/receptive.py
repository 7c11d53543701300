"""The theoretical receptive field of every unit, for any graph.

The operations of a trace are walked in order, and every tensor gets what its units see of the first input: along each
axis of the image a `Span`, exact in size, stride and offset. Branches that meet take the union. What mixes all
positions (a global pool, a linear layer over a map) is *global*; what multiplies a map by such a thing, or
normalises it over positions (squeeze-excitation, GroupNorm), leaves the map's own field and is *global besides*:
"35 + global".

The channels of a map are taken together: of two branches that are concatenated the wider one counts, also for a layer
that later picks channels of the narrower. An operation that no rule knows gives an unknown field, "?", with its name:
nothing is guessed.

Source: the arithmetic of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016); for graphs
with several paths Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from convatlas.measure.operations import elementwise
from convatlas.measure.span import PIXELS, Span, adaptive, resampled, transposed, window
from convatlas.measure.trace import Op, Trace


@dataclass(frozen=True, slots=True)
class Field:
    """What the units of a map see of the image, an axis after the other (height, width).

    Attributes:
        spans: by axis; None where a unit sees all of the axis.
        besides: the whole image is seen too, through a gate or a normalisation.
        apart: pixels between the centres of the branches that were joined here; 0 where they are aligned.
        unknown: the operation that no rule knows, "" if all were known.
    """

    spans: tuple[Span | None, ...]
    besides: bool = False
    apart: float = 0.0
    unknown: str = ""

    @property
    def is_global(self) -> bool:
        """Whether nothing local is left."""
        return not self.unknown and all(span is None for span in self.spans)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Pixels by axis; None for all."""
        return tuple(span.size if span else None for span in self.spans)

    @property
    def stride(self) -> tuple[Fraction | None, ...]:
        """Pixels from unit to unit, by axis: the product of the strides so far."""
        return tuple(span.stride if span else None for span in self.spans)

    @property
    def centre(self) -> tuple[float | None, ...]:
        """The middle of what unit 0 sees, by axis, in pixels; 0 is the middle of the first pixel."""
        return tuple(span.centre if span else None for span in self.spans)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "size": list(self.size),
            "stride": [None if step is None else float(step) for step in self.stride],
            "centre": list(self.centre),
            "global_besides": self.besides,
            "misaligned_pixels": self.apart,
            "unknown": self.unknown or None,
        }

    def __str__(self) -> str:
        """As a table shows it: "212", "7 x 1", "global", "35 + global", or "?"."""
        if self.unknown:
            return "?"
        if self.is_global:
            return "global"
        sizes = ["all" if size is None else str(size) for size in self.size]
        text = sizes[0] if len(set(sizes)) == 1 else " x ".join(sizes)
        return f"{text} + global" if self.besides else text


# --- what is known of one tensor ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the image in a tensor: the dimension that runs along it, None where one position is left.

    `mixed`: it runs along that dimension together with other things, after a reshaping.
    """

    span: Span | None
    dim: int | None
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the units of one tensor see."""

    axes: tuple[_Axis, ...]
    besides: bool = False
    apart: float = 0.0

    def field(self) -> Field:
        return Field(tuple(axis.span for axis in self.axes), self.besides, self.apart)

    def at(self, dim: int) -> list[int]:
        """Positions of the axes that run along a dimension."""
        return [i for i, axis in enumerate(self.axes) if axis.dim == dim]

    def changed(self, index: int, axis: _Axis) -> _Seen:
        return replace(self, axes=(*self.axes[:index], axis, *self.axes[index + 1 :]))

    def moved(self, where: Callable[[int], int | None]) -> _Seen:
        """The same with the dimensions renumbered."""
        axes = (a if a.dim is None else replace(a, dim=where(a.dim)) for a in self.axes)
        return replace(self, axes=tuple(axes))

    def slid(self, dim: int, windows: Sequence[Sequence[int]], step: int = 1) -> _Seen:
        """A window was moved along a dimension."""
        seen = self
        for index in self.at(dim):
            axis = self.axes[index]
            if axis.mixed:
                raise _UnknownError
            span = axis.span and axis.span.slide(windows, step)
            seen = seen.changed(index, replace(axis, span=span))
        return seen

    def pooled(self, dims: Iterable[int], shape: Sequence[int]) -> _Seen:
        """All positions along some dimensions of `shape` were mixed into one."""
        seen = self
        for dim in dims:
            for index in self.at(dim):
                axis = self.axes[index]
                span = axis.span if shape[dim] == 1 and not axis.mixed else None
                seen = seen.changed(index, _Axis(span, None))
        return seen

    def gated(self, dims: Iterable[int], shape: Sequence[int]) -> _Seen:
        """Every position was changed by all the others along some dimensions."""
        touched = any(self.at(dim) and shape[dim] > 1 for dim in dims)
        return replace(self, besides=self.besides or touched)


class _UnknownError(Exception):
    """No rule knows what the units see after this."""


def _joined(operands: Sequence[tuple[_Seen, Sequence[int]]], shape: Sequence[int]) -> _Seen:
    """What the units of an elementwise operation see; operands with their shapes, aligned from the right."""
    seen: _Seen | None = None
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
                each, axes=tuple(_Axis(None, None) if b else a for a, b in zip(each.axes, axes, strict=True))
            )
        seen = each if seen is None else _two(seen, each)
    if seen is None:
        raise _UnknownError
    return replace(seen, besides=True) if besides and not seen.besides else seen


def _aligned(seen: _Seen) -> _Seen:
    """The same without the misalignment of earlier branches, which is told where they meet."""
    return replace(seen, apart=0.0) if seen.apart else seen


def _two(ours: _Seen, theirs: _Seen) -> _Seen:
    if ours.axes == theirs.axes:
        return ours
    axes: list[_Axis] = []
    besides, apart = ours.besides or theirs.besides, 0.0
    for one, other in zip(ours.axes, theirs.axes, strict=True):
        if one == other:
            axes.append(one)
            continue
        placed = [axis for axis in (one, other) if axis.dim is not None]
        if len({(axis.dim, axis.mixed) for axis in placed}) > 1:
            raise _UnknownError
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
            raise _UnknownError
        apart = max(apart, one.span.apart(other.span))
        axes.append(replace(one, span=span))
    return _Seen(tuple(axes), besides, max(apart, 0.0))


# --- the walk ----------------------------------------------------------------------------------------------------

Rule = Callable[["_Walk", Op], "_Seen | list[_Seen | None] | None"]


class _Walk:
    """What is known of every tensor so far, by its identity."""

    def __init__(self, image: Tensor) -> None:
        axes = (_Axis(PIXELS, dim) for dim in range(2, image.ndim))
        self.known: dict[int, _Seen | str] = {id(image): _Seen(tuple(axes))}
        self.axes = image.ndim - 2
        self.views: dict[int, list[Tensor]] = {}  # by the memory that they share

    def of(self, value: Any) -> _Seen | None:
        """What a tensor's units see; None if it does not come from the image."""
        found = self.known.get(id(value)) if isinstance(value, Tensor) else None
        if isinstance(found, str):
            raise _UnknownError(found)
        return found

    def first(self, op: Op) -> _Seen:
        """What the first argument sees, if it is the only one that sees anything."""
        seen = self.of(op.args[0])
        others = [self.of(tensor) for tensor in op.inputs if tensor is not op.args[0]]
        if seen is None or any(other is not None for other in others):
            raise _UnknownError
        return _aligned(seen)

    def join(self, tensors: Iterable[Tensor], shape: Sequence[int]) -> _Seen:
        """Of what is computed elementwise from tensors."""
        found = [
            (replace(seen, apart=0.0), tensor.shape)
            for tensor in tensors
            if (seen := self.of(tensor)) is not None
        ]
        return _joined(found, shape)

    def step(self, op: Op) -> None:
        """Take one operation."""
        inputs = op.inputs
        if not any(id(tensor) in self.known for tensor in inputs):
            return
        result: Any
        try:
            result = _rule(op)(self, op)
        except _UnknownError as reason:
            result = str(reason) or op.name
        outputs = [result] * len(op.outputs) if not isinstance(result, list) else result
        for tensor, seen in zip(op.outputs, outputs, strict=False):
            if seen is not None:
                self.known[id(tensor)] = seen
        if op.func.is_view:
            self.views.setdefault(_memory(op.output), []).extend((op.args[0], op.output))
        elif op.name.endswith("_"):
            self._written(op.args[0], op.name)

    def _written(self, target: Tensor, name: str) -> None:
        """What was written in place is seen through every view of the same memory, in parts."""
        for other in self.views.get(_memory(target), ()):
            if self.known.get(id(other)) != self.known.get(id(target)):
                self.known[id(other)] = name

    def field(self, tensor: Tensor | None) -> Field | None:
        """The field of a tensor's units; None if they do not depend on the image."""
        found = self.known.get(id(tensor))
        if found is None:
            return None
        if isinstance(found, str):
            return Field((None,) * self.axes, unknown=found)
        return found.field()


def fields(traced: Trace) -> list[Field | None]:
    """The field behind each call of a trace, of the first input; None for what does not depend on it.

    An input without axes (a vector) has none: all are None.
    """
    walk = _Walk(traced.image)
    if not walk.axes:
        return [None for _ in traced.calls]
    found: list[Field | None] = []
    for call in traced.calls:
        for op in call.ops:
            walk.step(op)
        found.append(walk.field(call.output))
    return found


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


# --- rules: the operations that move windows -------------------------------------------------------------------


def _each(value: Any, count: int) -> list[int]:
    """A number for every axis, from one or several."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An argument by its place or its name."""
    args: tuple[Any, ...] = op.args
    return args[position] if len(args) > position else op.kwargs.get(name, default)


def _convolution(walk: _Walk, op: Op) -> _Seen:
    seen, shape = walk.first(op), op.args[0].shape
    kernel = list(op.args[1].shape[2:])
    axes = len(kernel)
    stride, padding, dilation = (_each(op.args[i], axes) for i in (3, 4, 5))
    seen = seen.pooled([1], shape)  # all channels
    for axis, dim in enumerate(range(2, 2 + axes)):
        geometry = kernel[axis], padding[axis], dilation[axis]
        if op.args[6]:
            k, p, d = geometry
            seen = seen.slid(dim, transposed(k, stride[axis], p, d), 1)
        else:
            seen = seen.slid(dim, window(*geometry), stride[axis])
    return seen


def _pool(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    axes = int(op.name[op.name.index("pool") + 4])
    kernel = _each(op.args[1], axes)
    stride = _each(op.args[2], axes) if len(op.args) > 2 and op.args[2] else kernel
    padding = _each(op.args[3] if len(op.args) > 3 else 0, axes)
    dilation = _each(op.args[4] if len(op.args) > 4 and "max" in op.name else 1, axes)
    for axis in range(axes):
        dim = len(shape) - axes + axis
        seen = seen.slid(dim, window(kernel[axis], padding[axis], dilation[axis]), stride[axis])
    return [seen, *(None for _ in op.outputs[1:])]


def _adaptive_pool(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    wanted = op.output.shape
    for dim in range(2, len(shape)):
        if wanted[dim] == 1:
            seen = seen.pooled([dim], shape)
        elif wanted[dim] != shape[dim]:
            seen = seen.slid(dim, *adaptive(shape[dim], wanted[dim]))
    return [seen, *(None for _ in op.outputs[1:])]


def _resample(walk: _Walk, op: Op) -> _Seen:
    seen, shape, wanted = walk.first(op), op.args[0].shape, op.output.shape
    corners = "nearest" not in op.name and bool(op.args[2])
    around = (0,) if "nearest" in op.name else (-1, 0, 1, 2) if "cubic" in op.name else (0, 1)
    for dim in range(2, len(shape)):
        if op.name.endswith("_aa"):
            seen = seen.slid(dim, *_antialiased(shape[dim], wanted[dim], 2 if "cubic" in op.name else 1))
        elif corners:
            raise _UnknownError
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


def _pad(walk: _Walk, op: Op) -> _Seen:
    seen, padding, ndim = walk.first(op), list(op.args[1]), op.output.ndim
    for position, left in enumerate(padding[::2]):
        if left or padding[2 * position + 1]:
            seen = seen.slid(ndim - 1 - position, [[-left]])
    return seen


def _slice(walk: _Walk, op: Op) -> _Seen:
    seen, shape = walk.first(op), op.args[0].shape
    dim, start, step = (
        _argument(op, 1, "dim", 0) % len(shape),
        _argument(op, 2, "start", None),
        _argument(op, 4, "step", 1),
    )
    start = 0 if start is None else max(0, start + shape[dim]) if start < 0 else min(start, shape[dim])
    return seen.slid(dim, [[start]], step) if start or step != 1 else seen


def _select(walk: _Walk, op: Op) -> _Seen:
    seen, dim = walk.first(op), op.args[1] % op.args[0].ndim
    position = op.args[2] % op.args[0].shape[dim]
    for index in seen.at(dim):
        axis = seen.slid(dim, [[position]]).axes[index]
        seen = seen.changed(index, replace(axis, dim=None))
    return seen.moved(lambda old: old - (old > dim))


def _split(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen = walk.first(op)
    dim = _argument(op, 2, "dim", 0) % op.args[0].ndim
    starts = [0]
    for output in op.outputs:
        starts.append(starts[-1] + output.shape[dim])
    return [seen.slid(dim, [[start]]) if start else seen for start in starts[:-1]]


def _unbind(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, dim = walk.first(op), _argument(op, 1, "dim", 0) % op.args[0].ndim
    if seen.at(dim):
        raise _UnknownError
    return [seen.moved(lambda old: old - (old > dim)) for _ in op.outputs]


def _concat(walk: _Walk, op: Op) -> _Seen:
    tensors = [tensor for tensor in op.args[0] if tensor.numel()]
    dim = _argument(op, 1, "dim", 0) % op.output.ndim
    joined = walk.join(tensors, op.output.shape)
    if any(not axis.mixed for index in joined.at(dim) for axis in [joined.axes[index]]) and len(tensors) > 1:
        raise _UnknownError
    return joined


def _stack(walk: _Walk, op: Op) -> _Seen:
    dim, tensors = _argument(op, 1, "dim", 0) % op.output.ndim, op.args[0]
    return walk.join(tensors, tensors[0].shape).moved(lambda old: old + (old >= dim))


# --- rules: the operations that mix all positions -------------------------------------------------------------


def _reduction(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    given = _argument(op, 1, "dim", None)
    listed = list(range(len(shape))) if given is None or given == [] else _each(given, 1)
    dims = sorted({dim % len(shape) for dim in listed})
    seen = seen.pooled(dims, shape)
    if op.output.ndim < len(shape):
        seen = seen.moved(lambda old: old - sum(dim < old for dim in dims))
    return [seen] * len(op.outputs)


def _softmax(walk: _Walk, op: Op) -> _Seen:
    return walk.first(op).gated([op.args[1] % op.output.ndim], op.output.shape)


def _layer_norm(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    count = len(op.args[1])
    return [seen.gated(range(len(shape) - count, len(shape)), shape), *(None for _ in op.outputs[1:])]


def _group_norm(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    return [seen.gated(range(1, len(shape)), shape), *(None for _ in op.outputs[1:])]


def _batch_norm(walk: _Walk, op: Op) -> list[_Seen | None]:
    seen, shape = walk.first(op), op.args[0].shape
    training = op.name == "native_batch_norm" and op.args[5]
    seen = seen.gated((0, *range(2, len(shape))), shape) if training else seen
    return [seen, *(None for _ in op.outputs[1:])]


def _product(walk: _Walk, op: Op) -> _Seen:
    """A matrix product: the inner dimension is mixed."""
    left, right = op.args[-2:] if op.name in ("addmm", "baddbmm", "addmv") else op.args[:2]
    found: list[tuple[_Seen, Sequence[int]]] = []
    for tensor, inner in ((left, left.ndim - 1), (right, max(right.ndim - 2, 0))):
        if (seen := walk.of(tensor)) is not None:
            found.append((seen.pooled([inner], tensor.shape), op.output.shape))
    if op.name in ("addmm", "baddbmm", "addmv") and (seen := walk.of(op.args[0])) is not None:
        found.append((seen, op.args[0].shape))
    try:
        return replace(_joined(found, op.output.shape), apart=0.0)
    except _UnknownError:
        if len(found) == 1:
            raise
        return _everything(walk)  # each position with each other one, as in attention


def _attention(walk: _Walk, op: Op) -> list[_Seen | None]:
    query, keys = walk.of(op.args[0]), walk.of(op.args[1])
    if query is None or keys is None or not keys.at(op.args[1].ndim - 2):
        raise _UnknownError
    return [_everything(walk), *(None for _ in op.outputs[1:])]


def _everything(walk: _Walk) -> _Seen:
    return _Seen(tuple(_Axis(None, None) for _ in range(walk.axes)))


# --- rules: the operations that only rearrange ------------------------------------------------------------------


def _same(walk: _Walk, op: Op) -> _Seen:
    return walk.first(op)


def _permuted(order: Sequence[int]) -> Callable[[int], int]:
    return lambda old: list(order).index(old)


def _permute(walk: _Walk, op: Op) -> _Seen:
    ndim = op.output.ndim
    return walk.first(op).moved(_permuted([dim % ndim for dim in op.args[1]]))


def _transpose(walk: _Walk, op: Op) -> _Seen:
    ndim = op.output.ndim
    one, other = (op.args[1] % ndim, op.args[2] % ndim) if op.name != "t" else (0, ndim - 1)
    return walk.first(op).moved(lambda old: {one: other, other: one}.get(old, old))


def _unsqueeze(walk: _Walk, op: Op) -> _Seen:
    dim = op.args[1] % op.output.ndim
    return walk.first(op).moved(lambda old: old + (old >= dim))


def _expand(walk: _Walk, op: Op) -> _Seen:
    source, shape = op.args[0].shape, op.output.shape
    missing = len(shape) - len(source)
    seen = walk.first(op)
    for index, axis in enumerate(seen.axes):
        if axis.dim is not None and source[axis.dim] == 1 < shape[axis.dim + missing]:
            seen = seen.changed(index, _Axis(None, None))
    return seen.moved(lambda old: old + missing)


def _repeat(walk: _Walk, op: Op) -> _Seen:
    """Copies beside each other, along dimensions that are not the image's."""
    seen, times = walk.first(op), list(op.args[1])
    missing = len(times) - op.args[0].ndim
    if any(times[axis.dim + missing] > 1 for axis in seen.axes if axis.dim is not None):
        raise _UnknownError
    return seen.moved(lambda old: old + missing)


def _reshape(walk: _Walk, op: Op) -> _Seen:
    """Dimensions that are split, merged or kept: runs of both shapes whose products agree belong together."""
    seen = walk.first(op)
    source, target = list(op.args[0].shape), list(op.output.shape)
    taken = [axis.dim for axis in seen.axes if axis.dim is not None]
    axes: list[_Axis] = []
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
    axis: _Axis, source: list[int], target: list[int], old: list[int], new: list[int], alone: bool
) -> _Axis:
    """One axis through a run of a reshaping: from the dimensions `old` of one shape to `new` of the other."""
    old, new = [dim for dim in old if source[dim] > 1], [dim for dim in new if target[dim] > 1]
    if len(old) == len(new) == 1:
        return replace(axis, dim=new[0])
    if axis.mixed or axis.span is None:
        raise _UnknownError
    if len(old) == 1:  # split: the outer dimension steps over the inner ones
        inner = math.prod(target[dim] for dim in new[1:])
        return _Axis(axis.span.slide([range(inner)], inner), new[0])
    if len(new) > 1:
        raise _UnknownError
    if alone and axis.dim == old[0]:  # merged with inner dimensions: each unit comes several times
        inner = math.prod(source[dim] for dim in old[1:])
        return _Axis(axis.span.slide([[0]] * inner), new[0])
    return _Axis(axis.span, new[0], mixed=True)


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


def _shuffled(walk: _Walk, op: Op) -> _Seen:
    """Pixels from channels, or channels from pixels."""
    seen, factor = walk.first(op), op.args[1]
    for dim in (op.output.ndim - 2, op.output.ndim - 1):
        enlarged = op.name == "pixel_shuffle"
        seen = seen.slid(dim, [[0]] * factor) if enlarged else seen.slid(dim, [range(factor)], factor)
    return seen


def _indexed(walk: _Walk, op: Op) -> _Seen:
    """Chosen channels; chosen positions are not known."""
    seen = walk.first(op)
    indices = op.args[1]
    if op.name == "index_select":
        touched = [op.args[1] % op.args[0].ndim]
    else:
        touched = [dim for dim, index in enumerate(indices) if index is not None]
        if len(touched) != 1 or indices[touched[0]].ndim != 1:
            raise _UnknownError
    if any(seen.at(dim) for dim in touched):
        raise _UnknownError
    return seen


def _pointwise(walk: _Walk, op: Op) -> _Seen:
    return walk.join(op.inputs, op.output.shape)


def _copied(walk: _Walk, op: Op) -> _Seen:
    """What is overwritten, and may be left in part."""
    return walk.join(op.args[:2], op.output.shape)


def _not_known(walk: _Walk, op: Op) -> _Seen:
    del walk
    raise _UnknownError(op.name)


_RULES: dict[str, Rule] = {
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
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "prod", "argmax", "argmin", "logsumexp",
         "linalg_vector_norm"), _reduction,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax"), _softmax),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"), _product),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze"), _reshape),
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    **dict.fromkeys(
        ("clone", "_to_copy", "contiguous", "detach", "alias", "dropout", "native_dropout", "channel_shuffle",
         "native_channel_shuffle", "lift_fresh"), _same,
    ),
    **dict.fromkeys(("index", "index_select"), _indexed),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffled),
    "native_layer_norm": _layer_norm, "native_group_norm": _group_norm,
    "cat": _concat, "stack": _stack, "slice": _slice, "select": _select, "unbind": _unbind,
    "permute": _permute, "repeat": _repeat, "unsqueeze": _unsqueeze, "expand": _expand, "copy_": _copied,
}  # fmt: skip


def _rule(op: Op) -> Rule:
    rule = _RULES.get(op.name) or (_attention if op.name.startswith("_scaled_dot_product") else None)
    if rule is not None:
        return rule
    return _pointwise if elementwise(op) else _not_known
