"""Dimensions split, merged and cut: which parts of axes and channels they hold afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from convatlas.measure.receptive.seen import Run, Runs, Seen, UnknownError, sized, tidy


def reshaped(seen: Seen, source: Sequence[int], target: Sequence[int]) -> Seen:
    """Dimensions split and merged: the runs in their order, cut anew."""
    source, target = list(source), list(target)
    if not any(seen.layout):
        return replace(seen, layout=((),) * len(target))
    first = next((i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b), None)
    first = min(len(source), len(target)) if first is None else first
    shorter = min(len(source), len(target)) - first
    tails = list(zip(source[first:][::-1], target[first:][::-1], strict=False))[:shorter]
    same = next((i for i, (a, b) in enumerate(tails) if a != b), len(tails))
    old, new = source[first : len(source) - same], target[first : len(target) - same]
    runs = [
        run
        for dim, size in enumerate(old, first)
        for run in (sized(seen.layout[dim], size) if seen.layout[dim] else [Run(size)])
        if run.size != 1
    ]
    cut = list(_cut(list(runs), new))
    kept = seen.layout[len(source) - same :] if same else ()
    return replace(seen, layout=(*seen.layout[:first], *cut, *kept))


def _cut(runs: list[Run], target: Sequence[int]) -> Iterator[Runs]:
    for size in target:
        taken: list[Run] = []
        while size > 1 and runs:
            run = runs.pop(0)
            while not run.axes and runs and not runs[0].axes:
                run = replace(run, size=run.size * runs.pop(0).size)
            if size % run.size == 0:
                taken.append(run)
                size //= run.size
            elif run.size % size == 0 and (run.step or not run.axes):
                inner = run.size // size
                taken.append(replace(run, size=size, step=run.step * inner))
                runs.insert(0, replace(run, size=inner))
                size = 1
            else:
                raise UnknownError
        yield tidy(taken)


def sliced(seen: Seen, dim: int, start: int, size: int, step: int, shape: Sequence[int]) -> Seen:
    """Every `step`-th of some positions, `size` of them from `start`."""
    if not seen.layout[dim] or (start == 0 and step == 1 and size == shape[dim]):
        return seen
    if len(seen.layout[dim]) == 2:
        seen = seen.interleaved(dim)
    runs = seen.layout[dim]
    inner = prod(run.size for run in runs[1:])
    first = runs[0]
    if len(runs) > 1 and (step > 1 or start % inner or size % inner):
        if not all(seen.is_inner(run) for run in runs if run.axes):
            raise UnknownError
        for axis in seen.at(dim):
            seen = seen.without(dim, axis, shape)
        return seen
    if not first.axes or not first.step:  # channels, or places that nobody knows apart
        return seen.put(dim, [replace(first, size=size // inner if len(runs) > 1 else 0), *runs[1:]])
    seen = seen.put(dim, [replace(first, size=size // inner, step=first.step * step), *runs[1:]])
    return seen.rebased(first.axes[0], [first.step * (start // inner)])


def selected(seen: Seen, dim: int, position: int, shape: Sequence[int]) -> Seen:
    """One position of a dimension, which goes."""
    offsets: dict[int, int] = {}
    for run in reversed(sized(seen.layout[dim], shape[dim])):
        position, index = divmod(position, run.size)
        if run.axes and not run.step:
            raise UnknownError
        for axis in run.axes:
            offsets[axis] = offsets.get(axis, 0) + run.step * index
    seen = seen.put(dim, ())
    for axis, offset in offsets.items():
        seen = seen.rebased(axis, [offset])
    return seen.removed(dim)
