"""The walk through a trace: each operation by its rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.measure.operations import elementwise
from convatlas.measure.receptive import mixing, rearranging, windows
from convatlas.measure.receptive.field import Field
from convatlas.measure.receptive.seen import Known, Rule, Seen, UnknownError
from convatlas.measure.trace import Op, Trace

RULES: dict[str, Rule] = {**windows.RULES, **mixing.RULES, **rearranging.RULES}


class _Walk(Known):
    """Takes the operations of a trace one after the other."""

    def __init__(self, image: Tensor) -> None:
        super().__init__(image)
        self.views: dict[int, list[Tensor]] = {}  # by the memory that they share

    def step(self, op: Op) -> None:
        """Take one operation."""
        inputs = op.inputs
        if not any(id(tensor) in self.known for tensor in inputs):
            return
        result: Any
        try:
            result = _rule(op)(self, op)
        except UnknownError as reason:
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


def _not_known(known: Known, op: Op) -> Seen:
    del known
    raise UnknownError(op.name)


def _rule(op: Op) -> Rule:
    rule = RULES.get(op.name)
    if rule is not None:
        return rule
    return rearranging.pointwise if elementwise(op) else _not_known
