"""What the units of one tensor see: spans of places along the axes of the image, and where in the tensor they lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

from convatlas.measure.receptive.field import Field
from convatlas.measure.span import Span


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a dimension, which may hold several, from the slowest to the quickest.

    The places along an axis of the image are numbered by all runs of that axis together: each index of this run is
    `step` places further. A run of no axis is of channels. Where `step` is 0 the places of `axes` are all in here, but
    nobody knows which is where (a class token was put before them). The `size` of a dimension's only run is the
    dimension's, and 0 here.
    """

    size: int
    axes: tuple[int, ...] = ()
    step: int = 0


Runs = tuple[Run, ...]  # of a dimension; () if it holds channels alone


class UnknownError(Exception):
    """No rule knows what the units see after this."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the units of one tensor see.

    Attributes:
        spans: by axis of the image, of the places along it; None where a unit sees all. Such an axis has no runs.
        layout: the runs of every dimension of the tensor.
        besides: the whole image, or all along an axis, is seen too, through a gate or a normalisation.
        whole: that is certainly all of the image.
        apart: as of `Field`.
    """

    spans: tuple[Span | None, ...]
    layout: tuple[Runs, ...]
    besides: bool = False
    whole: bool = False
    apart: float = 0.0

    @property
    def everything(self) -> bool:
        """Whether every unit sees all of the image."""
        return self.whole or all(span is None for span in self.spans)

    def field(self, shape: Sequence[int]) -> Field:
        """The same as it is told to others: what lies beside the map's places, in channels, is taken together."""
        seen = self
        for dim, runs in enumerate(self.layout):
            seen = seen.interleaved(dim) if len(runs) == 2 else seen
        for axis in range(len(self.spans)):
            runs = sorted(seen.of(axis), key=lambda found: found[2].step)
            if len(runs) > 1 and runs[-1][0] > 0 and len(seen.layout[runs[-1][0]]) == 1:
                for dim, _, _ in runs[:-1]:
                    seen = seen.without(dim, axis, shape)
        return Field(seen.spans, self.besides, self.apart)

    def of(self, axis: int) -> list[tuple[int, int, Run]]:
        """The runs of an axis, with their dimensions and positions in these."""
        return [
            (dim, at, run)
            for dim, runs in enumerate(self.layout)
            for at, run in enumerate(runs)
            if axis in run.axes
        ]

    def at(self, dim: int) -> list[int]:
        """The axes that have runs in a dimension."""
        return [axis for run in self.layout[dim] for axis in run.axes]

    def is_inner(self, run: Run) -> bool:
        """Whether a run steps within the places of another one."""
        return run.step > 0 and any(other.step > run.step for _, _, other in self.of(run.axes[0]))

    # --- dimensions ---------------------------------------------------------------------------------------------------

    def permuted(self, order: Sequence[int]) -> Seen:
        """Dimension i is the old `order[i]`."""
        return replace(self, layout=tuple(self.layout[dim] for dim in order))

    def inserted(self, dim: int) -> Seen:
        """With a new dimension that is none of the image's."""
        return replace(self, layout=(*self.layout[:dim], (), *self.layout[dim:]))

    def removed(self, dim: int) -> Seen:
        """Without a dimension of size 1."""
        return replace(self, layout=(*self.layout[:dim], *self.layout[dim + 1 :]))

    def put(self, dim: int, runs: Iterable[Run]) -> Seen:
        """With other runs in a dimension."""
        return replace(self, layout=(*self.layout[:dim], tidy(runs), *self.layout[dim + 1 :]))

    # --- places -------------------------------------------------------------------------------------------------------

    def slid(self, dim: int, windows: Sequence[Sequence[int]], step: int = 1) -> Seen:
        """A window was moved along a dimension that holds one axis and nothing else, or none."""
        if not (runs := self.layout[dim]):
            return self
        (axis, *others), alone = runs[0].axes, len(runs) == 1 and runs[0].step == 1
        if others or not alone or len(self.of(axis)) > 1:
            raise UnknownError
        return self._with_span(axis, windows, step)

    def _with_span(self, axis: int, windows: Sequence[Sequence[int]], step: int = 1) -> Seen:
        span = self.spans[axis]
        found = None if span is None else span.slide(windows, step)
        return replace(self, spans=(*self.spans[:axis], found, *self.spans[axis + 1 :]))

    def rebased(self, axis: int, offsets: Sequence[int]) -> Seen:
        """Each place stands for those `offsets` further, and places are numbered anew, without gaps."""
        steps = [run.step for _, _, run in self.of(axis)]
        step = gcd(*steps) if steps else 1
        if step <= 1 and list(offsets) == [0]:
            return self
        seen = self._with_span(axis, [list(offsets)], step or 1)
        if step <= 1:
            return seen
        layout = tuple(
            tuple(replace(run, step=run.step // step) if axis in run.axes else run for run in runs)
            for runs in self.layout
        )
        return replace(seen, layout=layout)

    def without(self, dim: int, axis: int, shape: Sequence[int]) -> Seen:
        """The inner runs of an axis in a dimension taken together."""
        seen = self
        while True:
            runs = sized(seen.layout[dim], shape[dim])
            inner = (at for at, run in enumerate(runs) if axis in run.axes and seen.is_inner(run))
            if (at := next(inner, None)) is None:
                return seen
            size, step = runs[at].size, runs[at].step
            runs[at] = Run(size)
            seen = seen.put(dim, runs).rebased(axis, [step * index for index in range(size)])

    def all_along(self, axis: int) -> Seen:
        """An axis of which every unit sees all."""
        layout = tuple(
            tidy(_stripped(run, axis) for run in runs) if any(axis in run.axes for run in runs) else runs
            for runs in self.layout
        )
        return replace(self, spans=(*self.spans[:axis], None, *self.spans[axis + 1 :]), layout=layout)

    def pooled(self, dims: Iterable[int], shape: Sequence[int]) -> Seen:
        """All positions along some dimensions of `shape` were mixed into one; the dimensions stay, with no runs."""
        seen = self
        for dim in dims:
            while seen.layout[dim]:
                runs = sized(seen.layout[dim], shape[dim])
                run = next((run for run in runs if run.axes), None)
                if run is None:
                    seen = seen.put(dim, ())
                elif run.size == 1 and run.step:
                    seen = seen.put(dim, [each for each in runs if each is not run])
                elif seen.is_inner(run):
                    seen = seen.without(dim, run.axes[0], shape)
                else:
                    for axis in run.axes:
                        seen = seen.all_along(axis)
        return seen

    def gated(self, dims: Iterable[int], shape: Sequence[int]) -> Seen:
        """Every position was changed by all the others along some dimensions."""
        seen, touched = self, set[int]()
        for dim in dims:
            for run in sized(seen.layout[dim], shape[dim]):
                if run.size > 1 and not seen.is_inner(run):
                    touched.update(run.axes)
            for axis in seen.at(dim):
                seen = seen.without(dim, axis, shape)
        if not touched:
            return seen
        whole = all(axis in touched or span is None for axis, span in enumerate(self.spans))
        return replace(seen, besides=True, whole=seen.whole or whole)

    def gathered(self, dims: Iterable[int], shape: Sequence[int]) -> Seen:
        """So that each of some dimensions holds one axis or none, for `slid`: channels behind a run repeat its places,
        runs within its places are taken together.
        """
        seen = self
        for dim in dims:
            if not seen.layout[dim]:
                continue
            seen = seen.interleaved(dim)
            (run, *others), axes = seen.layout[dim], seen.at(dim)
            if others or not run.step:
                raise UnknownError
            if run.step == 1 and len(seen.of(axes[0])) == 1:
                continue
            for other, _, each in seen.of(axes[0]):
                if other != dim and not seen.is_inner(each):
                    raise UnknownError
                seen = seen.without(other, axes[0], shape)
        return seen

    def interleaved(self, dim: int) -> Seen:
        """Channels that lie behind an axis in its dimension repeat its places; any other dimension as it is."""
        seen = self
        while True:
            runs = sized(seen.layout[dim], 0)
            behind = (
                at
                for at, (run, after) in enumerate(pairwise(runs))
                if run.step == 1 and not after.axes and len(seen.of(run.axes[0])) == 1
            )
            if (at := next(behind, None)) is None:
                return seen
            run, channels = runs[at : at + 2]
            seen = seen._with_span(run.axes[0], [[0]] * channels.size)
            runs[at : at + 2] = [replace(run, size=run.size * channels.size)]
            seen = seen.put(dim, runs)


def tidy(runs: Iterable[Run]) -> Runs:
    """Neighbours that go on where the other ends become one; () if there are channels alone."""
    found: list[Run] = []
    for run in runs:
        last = found[-1] if found else None
        if last and last.axes == run.axes and (not run.axes or last.step == run.step * run.size > 0):
            found[-1] = replace(run, size=last.size * run.size)
        else:
            found.append(run)
    if len(found) == 1:
        return (replace(found[0], size=0),) if found[0].axes else ()
    return tuple(found)


def sized(runs: Runs, size: int) -> list[Run]:
    """With the size of an only run."""
    return [replace(runs[0], size=size)] if len(runs) == 1 else list(runs)


def _stripped(run: Run, axis: int) -> Run:
    axes = tuple(each for each in run.axes if each != axis)
    return run if len(axes) == len(run.axes) else replace(run, axes=axes, step=run.step if axes else 0)
