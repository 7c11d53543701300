"""What is known of every tensor while a trace is walked, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from convatlas.measure.receptive.seen import Run, Seen, UnknownError
from convatlas.measure.span import PIXELS
from convatlas.measure.trace import Op


class Known:
    """What is known of every tensor so far, by its identity: what its units see, or the operation that nobody knows."""

    def __init__(self, image: Tensor) -> None:
        self.axes = image.ndim - 2
        runs = ((Run(0, (axis,), 1),) for axis in range(self.axes))
        seen = Seen((PIXELS,) * self.axes, ((), (), *runs))
        self.known: dict[int, Seen | str] = {id(image): seen}

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


Rule = Callable[[Known, Op], "Seen | list[Seen | None] | None"]  # what an operation's outputs see


def argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An argument by its place or its name."""
    args: tuple[Any, ...] = op.args
    return args[position] if len(args) > position else op.kwargs.get(name, default)


def each_of(value: Any, count: int) -> list[int]:
    """A number for every axis, from one or several."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def aligned(seen: Seen) -> Seen:
    """The same without the misalignment of earlier branches, which is told where they meet."""
    return replace(seen, apart=0.0) if seen.apart else seen
