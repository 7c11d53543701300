"""Rules of the operations that mix all positions, or all but one axis: sums, normalisations, matrix products."""

from __future__ import annotations

from convatlas.measure.receptive.known import Known, Rule, argument, each_of
from convatlas.measure.receptive.meeting import join, joined, multiplied
from convatlas.measure.receptive.seen import Seen, UnknownError
from convatlas.measure.trace import Op

_SECOND = frozenset(("linalg_vector_norm", "norm"))  # whose dimensions come after their order


def _reduction(known: Known, op: Op) -> list[Seen | None]:
    seen, shape = known.first(op), op.args[0].shape
    given = argument(op, 2 if op.name in _SECOND else 1, "dim", None)
    listed = list(range(len(shape))) if given is None or given == [] else each_of(given, 1)
    dims = sorted({dim % len(shape) for dim in listed})
    seen = seen.pooled(dims, shape)
    if op.output.ndim < len(shape):
        for dim in reversed(dims):
            seen = seen.removed(dim)
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
    """A matrix product, perhaps with something added."""
    left, right = op.args[-2:] if op.name in ("addmm", "baddbmm", "addmv") else op.args[:2]
    shape = op.output.shape
    seen = [known.of(tensor) for tensor in (left, right)]
    found = None
    if any(each is not None for each in seen):
        one, other = (None if s is None else (s, t.shape) for s, t in zip(seen, (left, right), strict=True))
        found = multiplied(one, other, shape)
    if op.name not in ("addmm", "baddbmm", "addmv") or known.of(op.args[0]) is None:
        if found is None:
            raise UnknownError
        return found
    added = join(known, op.args[:1], shape)
    return added if found is None else joined([(added, shape), (found, shape)], shape)


def _attention(known: Known, op: Op) -> list[Seen | None]:
    """Queries with keys, and the weights with the values."""
    query, keys, values = op.args[:3]
    tokens = (*query.shape[:-1], keys.shape[-2])
    one, other, third = (known.of(tensor) for tensor in (query, keys, values))
    if other is None or third is None:
        raise UnknownError
    turned = other.permuted([*range(keys.ndim - 2), keys.ndim - 1, keys.ndim - 2])
    across = (turned, (*keys.shape[:-2], keys.shape[-1], keys.shape[-2]))
    weights = multiplied(one and (one, query.shape), across, tokens)
    weights = weights.gated([len(tokens) - 1], tokens)
    return [
        multiplied((weights, tokens), (third, values.shape), op.output.shape),
        *(None for _ in op.outputs[1:]),
    ]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "prod", "argmax", "argmin", "logsumexp",
         "linalg_vector_norm", "norm"), _reduction,
    ),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax", "softmax"), _softmax),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    "native_layer_norm": _layer_norm, "native_group_norm": _group_norm,
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"), _product),
    **dict.fromkeys(
        ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
         "_scaled_dot_product_fused_attention_overrideable"), _attention,
    ),
}  # fmt: skip
