"""What was written into a view, seen in the tensor that it is a view of."""

from __future__ import annotations

from convatlas.measure.receptive.cutting import reshaped
from convatlas.measure.receptive.rearranging import transposition
from convatlas.measure.receptive.seen import Seen, UnknownError
from convatlas.measure.receptive.windows import slice_of
from convatlas.measure.trace import Op


def placed_back(seen: Seen, op: Op) -> Seen:
    """What the units of a view see, which `op` made, in the places that they have in `op.args[0]`."""
    source, target = op.args[0].shape, op.output.shape
    if op.name == "slice":
        dim, start, step = slice_of(op)
        if not seen.layout[dim] or target[dim] == source[dim]:
            return seen
        if (
            step > 1 or 2 * target[dim] < source[dim]
        ):  # less than half: what is far from the border is elsewhere
            raise UnknownError
        return seen.gathered([dim], target).slid(dim, [[-start]])
    if op.name == "select":
        return seen.inserted(op.args[1] % len(source))
    if op.name in ("transpose", "t"):
        return seen.permuted(transposition(op))
    if op.name == "permute":
        order = [dim % len(target) for dim in op.args[1]]
        return seen.permuted([order.index(dim) for dim in range(len(order))])
    if op.name in ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "alias", "detach"):
        return reshaped(seen, target, source)
    raise UnknownError
