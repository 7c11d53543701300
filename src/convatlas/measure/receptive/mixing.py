"""Rules of the operations that mix all positions, or all but one axis: sums, normalisations, matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convatlas.measure.receptive.seen import Axis, Known, Rule, Seen, UnknownError, argument, each_of, joined
from convatlas.measure.trace import Op


def _reduction(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    given = argument(op, 1, "dim", None)
    listed = list(range(len(shape))) if given is None or given == [] else each_of(given, 1)
    dims = sorted({dim % len(shape) for dim in listed})
    seen = seen.pooled(dims, shape)
    if op.output.ndim < len(shape):
        seen = seen.moved(lambda old: old - sum(dim < old for dim in dims))
    return [seen] * len(op.outputs)


def _softmax(known: Known, op: Op) -> Seen:
    return known.first(op).gated([op.args[1] % op.output.ndim], op.output.shape)


def _layer_norm(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    count = len(op.args[1])
    return [seen.gated(range(len(shape) - count, len(shape)), shape), *(None for _ in op.outputs[1:])]


def _group_norm(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    return [seen.gated(range(1, len(shape)), shape), *(None for _ in op.outputs[1:])]


def _batch_norm(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    training = op.name == "native_batch_norm" and op.args[5]
    seen = seen.gated((0, *range(2, len(shape))), shape) if training else seen
    return [seen, *(None for _ in op.outputs[1:])]


def _product(known: Known, op: Op) -> Seen:
    """A matrix product: the inner dimension is mixed."""
    left, right = op.args[-2:] if op.name in ("addmm", "baddbmm", "addmv") else op.args[:2]
    found: list[tuple[Seen, Sequence[int]]] = []
    for tensor, inner in ((left, left.ndim - 1), (right, max(right.ndim - 2, 0))):
        if (seen := known.of(tensor)) is not None:
            found.append((seen.pooled([inner], tensor.shape), op.output.shape))
    if op.name in ("addmm", "baddbmm", "addmv") and (seen := known.of(op.args[0])) is not None:
        found.append((seen, op.args[0].shape))
    try:
        return replace(joined(found, op.output.shape), apart=0.0)
    except UnknownError:
        if len(found) == 1:
            raise
        return _everything(known)  # each position with each other one, as in attention


def _attention(known: Known, op: Op) -> list[Seen | None]:
    query, keys = known.of(op.args[0]), known.of(op.args[1])
    if query is None or keys is None or not keys.at(op.args[1].ndim - 2):
        raise UnknownError
    return [_everything(known), *(None for _ in op.outputs[1:])]


def _everything(known: Known) -> Seen:
    return Seen(tuple(Axis(None, None) for _ in range(known.axes)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "prod", "argmax", "argmin", "logsumexp",
         "linalg_vector_norm"), _reduction,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax"), _softmax),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    "native_layer_norm": _layer_norm, "native_group_norm": _group_norm,
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"), _product),
    **dict.fromkeys(
        ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
         "_scaled_dot_product_fused_attention_overrideable"), _attention,
    ),
}  # fmt: skip
