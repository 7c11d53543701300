"""Fused kernels as they run on a CPU, for a pass without content.

On the meta device PyTorch takes attention and LSTMs apart into products and gates, and autograd keeps every part. On a
CPU one kernel does the work and keeps other things: fused attention the sums of its rows instead of all its weights, an
LSTM a workspace. A network asks for them by `scaled_dot_product_attention` and `lstm`, and `fused` answers with the
operations that the CPU's kernels are, without content as well; what they keep is theirs.

The workspace of an LSTM is oneDNN's, sized as version 3 of it does: regions that each fill whole pages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

_AS_IT_IS = functional.scaled_dot_product_attention
_ATTEND: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_LAYER: Any = torch.ops.aten.mkldnn_rnn_layer
_FUSED = 1  # as PyTorch numbers its ways to compute attention
_LSTM = 2  # as oneDNN's wrapper numbers the kinds of recurrent layers
_PAGE, _LINE = 4096, 64


@contextmanager
def fused() -> Generator[None]:
    """Attention and LSTMs on meta tensors by the kernels that a CPU would take.

    A mode finds them by whatever name they are called. What is recomputed on the way back runs outside of every mode,
    and finds attention by its name in `torch.nn.functional`.
    """
    with _Fused(), patch.object(functional, "scaled_dot_product_attention", _attended):
        yield


class _Fused(TorchFunctionMode):
    """Asked for every function of PyTorch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _AS_IT_IS:
            found = _attention(*args, **kwargs)
        elif func is functional.multi_head_attention_forward:
            found = None if torch.is_grad_enabled() else _heads(*args, **kwargs)
        elif func is torch.lstm and len(args) == 9 and isinstance(args[2], (list, tuple)):
            found = _lstm(*args)
        else:
            found = None
        return func(*args, **kwargs) if found is None else found


def unsure(model: nn.Module, dtype: torch.dtype | None, training: bool) -> str:
    """The layers of a network that a CPU computes in another way than a pass without content, and not as here."""
    found: dict[str, None] = {}
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            of = dtype or module.weight_ih_l0.dtype
            other = module.proj_size > 0 or of != torch.float32
        else:
            other = isinstance(module, (nn.GRU, nn.RNN)) or (
                isinstance(module, nn.TransformerEncoderLayer) and not training
            )
        if other:
            found[type(module).__name__] = None
    return ", ".join(found)


def workspace(args: Sequence[Any]) -> Tensor:
    """What `mkldnn_rnn_layer` keeps for the backward pass, given its arguments: bytes on the first one's device.

    Examples:
        >>> x, wide, tall = torch.empty(50, 4, 32), torch.empty(256, 32), torch.empty(256, 64)
        >>> len(workspace((x, wide, tall)))
        806912
    """
    x, tall = args[0], args[2]
    steps, batch, channels = x.shape
    width: int = tall.shape[1]
    row = 4 * batch
    regions = (
        steps * row * _padded(4 * width),
        *(2 * (steps + 1) * row * _padded(max(channels, width)) for _ in range(3)),
        *(2 * (steps + 1) * row * width for _ in range(2)),
        steps * row * width,
    )
    size = sum(-(-region // _PAGE) * _PAGE for region in regions)
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def _padded(numbers: int) -> int:
    """Floats of a row in whole cache lines; one line more where rows would fall on the same places of a cache."""
    line = _LINE // 4
    rows = -(-numbers // line) * line
    return rows + line if rows % 256 == 0 else rows


def _attended(*args: Any, **kwargs: Any) -> Tensor:
    found = _attention(*args, **kwargs)
    return _AS_IT_IS(*args, **kwargs) if found is None else found


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """By the fused kernel, if PyTorch would choose it for such tensors on a CPU: small ones are shown to it."""
    tensors = (query, key, value)
    if not all(tensor.is_meta for tensor in tensors) or (attn_mask is not None and attn_mask.requires_grad):
        return None
    choose = cast(Any, torch)._fused_sdp_choice
    with torch.no_grad(), _disable_current_modes():  # the small ones are none of the pass
        small = [_small(tensor) for tensor in tensors]
        mask = (
            None
            if attn_mask is None
            else torch.zeros([min(size, 2) for size in attn_mask.shape]).to(query.dtype)
        )
        options = {"scale": scale, "enable_gqa": enable_gqa}
        try:
            choice = choose(*small, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, **options)
        except RuntimeError:
            return None
    if choice != _FUSED or enable_gqa:
        return None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
    return _ATTEND(*tensors, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _small(tensor: Tensor) -> Tensor:
    """With content on the CPU, of the same type and order in memory, at most 2 along each axis but the last."""
    shape = [min(size, 2) for size in tensor.shape[:-1]] + [min(tensor.shape[-1], 8)]
    small = torch.zeros(shape, dtype=tensor.dtype)
    return small if tensor.stride(-1) == 1 else small.transpose(-1, -2).contiguous().transpose(-1, -2)


def _heads(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A layer of attention to itself in inference: one kernel, of which the output is all that is seen."""
    fused = query is key is value and query.is_meta and query.ndim == 3 and not query.is_contiguous()
    wants = kwargs.get("need_weights", True) or any(
        kwargs.get(name) is not None for name in ("attn_mask", "key_padding_mask")
    )
    heads = args[1] if len(args) > 1 else kwargs["num_heads"]
    if not fused or wants or heads % 2 or kwargs.get("training", True):
        return None
    return torch.empty_like(query.transpose(0, 1)).transpose(0, 1), None


def _lstm(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    both_ways: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Layer by layer and way by way, as PyTorch drives oneDNN; projections and other types it computes itself."""
    ways, each, width = 1 + both_ways, 4 if biased else 2, weights[1].shape[1]
    if not (x.is_meta and x.dtype == torch.float32 and len(weights) == layers * ways * each):
        return None
    first = x = (x.transpose(0, 1) if batch_first else x).contiguous()  # held until the last layer is done
    hidden, cells = list[Tensor](), list[Tensor]()
    for layer in range(layers):
        outputs: list[Tensor] = []
        for way in range(ways):
            index = layer * ways + way
            wide, tall, *biases = weights[index * each : (index + 1) * each]
            biases = biases or [torch.zeros_like(wide), torch.zeros_like(tall)]
            found = _LAYER(
                x, wide, tall, *biases, states[0][index], states[1][index], way > 0, [], _LSTM, width, layers, biased,
                both_ways, batch_first, training,
            )  # fmt: skip
            outputs.append(found[0])
            hidden.append(found[1])
            cells.append(found[2])
        x = outputs[0] if ways == 1 else torch.cat(outputs, -1)
        if dropout and training and layer < layers - 1:
            x = functional.dropout(x, dropout, training=True)
    del first
    return x.transpose(0, 1) if batch_first else x, torch.stack(hidden), torch.stack(cells)
