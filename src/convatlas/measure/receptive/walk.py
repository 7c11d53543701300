"""The walk through a trace: each operation by its rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.measure.operations import elementwise
from convatlas.measure.receptive import mixing, rearranging, windows
from convatlas.measure.receptive.field import Field
from convatlas.measure.receptive.known import Known, Rule
from convatlas.measure.receptive.meeting import joined
from convatlas.measure.receptive.seen import Seen, UnknownError
from convatlas.measure.receptive.views import placed_back
from convatlas.measure.trace import Op, Trace

RULES: dict[str, Rule] = {**windows.RULES, **mixing.RULES, **rearranging.RULES}


class _Walk(Known):
    """Takes the operations of a trace one after the other."""

    def __init__(self, image: Tensor) -> None:
        super().__init__(image)
        self.views: dict[int, Op] = {}  # what made a view, by the view
        self.others: dict[int, list[Tensor]] = {}  # all views of a tensor

    def step(self, op: Op) -> None:
        """Take one operation."""
        if op.func.is_view:
            for view in op.outputs:
                self.views[id(view)] = op
                self.others.setdefault(id(self._root(view)), []).append(view)
        if not any(id(tensor) in self.known for tensor in op.inputs):
            return
        result: Any
        try:
            result = _rule(op)(self, op)
        except UnknownError as reason:
            result = self._certain(op) or str(reason) or op.name
        outputs = [result] * len(op.outputs) if not isinstance(result, list) else result
        for tensor, seen in zip(op.outputs, outputs, strict=False):
            if seen is not None:
                self.known[id(tensor)] = seen
        if op.name.endswith("_") and id(op.args[0]) in self.known:
            self._written(op.args[0], op.name)

    def _certain(self, op: Op) -> Seen | None:
        """What no rule knows, of tensors whose units all see the whole image, sees the whole image."""
        found = [self.known[id(tensor)] for tensor in op.inputs if id(tensor) in self.known]
        if not all(isinstance(seen, Seen) and seen.everything for seen in found):
            return None
        if not all(output.is_floating_point() for output in op.outputs):
            return None
        return Seen((None,) * self.axes, ((),) * op.output.ndim, whole=True)

    def _root(self, tensor: Tensor) -> Tensor:
        while (op := self.views.get(id(tensor))) is not None:
            tensor = op.args[0]
        return tensor

    def _written(self, target: Tensor, name: str) -> None:
        """What was written in place is in what the target is a view of; other views may hold it in part."""
        root, chain = self._root(target), {id(target)}
        while (op := self.views.get(id(target))) is not None:
            base: Tensor = op.args[0]
            self.known[id(base)] = self._with_part(base, target, op, name)
            chain.add(id(base))
            target = base
        for other in self.others.get(id(root), ()):
            if id(other) not in chain and self.known.get(id(other)) != self.known.get(id(root)):
                self.known[id(other)] = name

    def _with_part(self, base: Tensor, view: Tensor, op: Op, name: str) -> Seen | str:
        """What a tensor's units see after a view of it, made by `op`, was written."""
        here, before = self.known[id(view)], self.known.get(id(base))
        if isinstance(here, str):
            return here
        try:
            placed = placed_back(here, op)
            if before is None or base.numel() == view.numel():
                return placed
            if isinstance(before, str):
                return before
            return joined([(before, base.shape), (placed, base.shape)], base.shape)
        except UnknownError as reason:
            return str(reason) or name

    def field(self, tensor: Tensor | None) -> Field | None:
        """The field of a tensor's units; None if they do not depend on the image."""
        found = self.known.get(id(tensor))
        if found is None or tensor is None:
            return None
        if isinstance(found, str):
            return Field((None,) * self.axes, unknown=found)
        return found.field(tensor.shape)


def fields(traced: Trace) -> list[Field | None]:
    """The field behind each call of a trace, of its images; None for what does not depend on them.

    Several inputs of the first image's size are taken together, as one image with the channels of all. What comes from
    an image of another size is unknown. Vectors are no images; without any image all are None.
    """
    images = [tensor for tensor in traced.inputs if tensor.ndim > 2]
    if not images:
        return [None for _ in traced.calls]
    walk = _Walk(images[0])
    for other in images[1:]:
        alike = other.shape[2:] == images[0].shape[2:]
        walk.known[id(other)] = walk.known[id(images[0])] if alike else "an input of another size"
    found: list[Field | None] = []
    for call in traced.calls:
        for op in call.ops:
            walk.step(op)
        found.append(walk.field(call.output))
    return found


def _not_known(known: Known, op: Op) -> Seen:
    del known
    raise UnknownError(op.name)


def _rule(op: Op) -> Rule:
    rule = RULES.get(op.name)
    if rule is not None:
        return rule
    return rearranging.pointwise if elementwise(op) else _not_known
