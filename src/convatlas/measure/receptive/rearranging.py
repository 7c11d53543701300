"""Rules of the operations that only rearrange a tensor, and of those that join tensors number by number."""

from __future__ import annotations

from dataclasses import replace

from convatlas.measure.receptive.cutting import reshaped
from convatlas.measure.receptive.known import Known, Rule, aligned
from convatlas.measure.receptive.meeting import join, joined
from convatlas.measure.receptive.seen import Run, Seen, UnknownError
from convatlas.measure.trace import Op


def _same(known: Known, op: Op) -> Seen:
    return known.first(op)


def _permute(known: Known, op: Op) -> Seen:
    return known.first(op).permuted([dim % op.output.ndim for dim in op.args[1]])


def _transpose(known: Known, op: Op) -> Seen:
    return known.first(op).permuted(transposition(op))


def transposition(op: Op) -> list[int]:
    """The order of dimensions that a transposition gives."""
    ndim = op.output.ndim
    one, other = (op.args[1] % ndim, op.args[2] % ndim) if op.name != "t" else (0, ndim - 1)
    order = list(range(ndim))
    order[one], order[other] = order[other], order[one]
    return order


def _unsqueeze(known: Known, op: Op) -> Seen:
    return known.first(op).inserted(op.args[1] % op.output.ndim)


def _expand(known: Known, op: Op) -> Seen:
    return joined([(known.first(op), op.args[0].shape)], op.output.shape)


def _repeat(known: Known, op: Op) -> Seen:
    """Copies beside each other, along dimensions that are not the image's."""
    seen, times = known.first(op), list(op.args[1])
    for _ in range(len(times) - op.args[0].ndim):
        seen = seen.inserted(0)
    if any(seen.layout[dim] for dim, count in enumerate(times) if count > 1):
        raise UnknownError
    return seen


def _reshape(known: Known, op: Op) -> Seen:
    return reshaped(known.first(op), op.args[0].shape, op.output.shape)


def _shuffled(known: Known, op: Op) -> Seen:
    """Pixels from channels: channels split, put behind rows and columns, and merged with them."""
    seen, factor, source = known.first(op), op.args[1], list(op.args[0].shape)
    *lead, channels, height, width = source
    n = len(lead)
    split = [*lead, channels // factor**2, factor, factor, height, width]
    order = [*range(n + 1), n + 3, n + 1, n + 4, n + 2]
    seen = reshaped(seen, source, split).permuted(order)
    return reshaped(seen, [split[dim] for dim in order], op.output.shape)


def _unshuffled(known: Known, op: Op) -> Seen:
    """Channels from pixels: rows and columns of `factor` behind every channel."""
    factor, shape = op.args[1], op.args[0].shape
    rows, columns = len(shape) - 2, len(shape) - 1
    seen = known.first(op).gathered([rows, columns], shape)
    runs = list(seen.layout[rows - 1] or [Run(shape[rows - 1])])
    for dim in (rows, columns):
        if here := seen.layout[dim]:
            seen = seen.put(dim, [replace(here[0], step=factor)])
        runs.append(replace(here[0], size=factor) if here else Run(factor))
    return seen.put(rows - 1, runs)


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
    for dim in touched:
        for axis in seen.at(dim):
            seen = seen.without(dim, axis, op.args[0].shape)
    if any(seen.at(dim) for dim in touched):
        raise UnknownError
    return seen


def pointwise(known: Known, op: Op) -> Seen:
    """Of an operation that computes each number from those at its own place."""
    return join(known, op.inputs, op.output.shape)


def _copied(known: Known, op: Op) -> Seen | None:
    """All is overwritten; by what is not of the image, it is as before: it may be a part of something."""
    seen, target = known.of(op.args[1]), op.output.shape
    return known.of(op.args[0]) if seen is None else joined([(aligned(seen), op.args[1].shape)], target)


def _put(known: Known, op: Op) -> Seen:
    """Chosen channels are overwritten."""
    target, indices, values = op.args[:3]
    touched = [dim for dim, index in enumerate(indices) if index is not None]
    seen = known.of(target)
    if len(touched) != 1 or indices[touched[0]].ndim != 1 or (seen and seen.at(touched[0])):
        raise UnknownError
    found = join(known, [target, values], target.shape)
    if found.at(touched[0]):
        raise UnknownError
    return found


def _of_no_image(known: Known, op: Op) -> None:
    """Constants of a tensor's shape or type."""


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("clone", "_to_copy", "contiguous", "detach", "alias", "dropout", "native_dropout", "channel_shuffle",
         "native_channel_shuffle", "lift_fresh"), _same,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze"), _reshape),
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    "pixel_shuffle": _shuffled, "pixel_unshuffle": _unshuffled,
    **dict.fromkeys(("index", "index_select"), _indexed),
    **dict.fromkeys(
        ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
         "new_full", "new_empty", "new_empty_strided"), _of_no_image,
    ),
    **dict.fromkeys(("index_put", "index_put_", "_unsafe_index_put"), _put),
    "permute": _permute, "repeat": _repeat, "unsqueeze": _unsqueeze, "expand": _expand, "copy_": _copied,
}  # fmt: skip
