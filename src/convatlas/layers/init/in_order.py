"""A forward pass that changes each layer just before it is called: what initialisations from data share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode, watched
from convatlas.layers.init.variance import WeightLayer

Change = Callable[[str, WeightLayer, Tensor], None]


def in_order(network: nn.Module, batch: Tensor, change: Change) -> Tensor:
    """Run the network in evaluation mode, calling `change(name, layer, input)` before each weight layer's first call.

    What comes later therefore sees what `change` has done. Gives the network's output. Raises `UsageError` where the
    batch does not go through, or the network has no content (meta device).
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        raise UsageError("the network is on the meta device; images do not go through it.")
    seen: set[int] = set()

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, WeightLayer) and id(module) not in seen:
            seen.add(id(module))
            change(name, module, args[0])

    with eval_mode(network), watched(network, enter, lambda name, module, output: None):
        try:
            return network(batch)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"a batch of shape {tuple(batch.shape)} does not go through {type(network).__name__}: {error}"
            ) from error


def channels(output: Tensor) -> Tensor:
    """The numbers of each output channel in a row: (N, K, ...) -> (K, rest)."""
    return output.transpose(0, 1).flatten(1)


@torch.no_grad()
def checked(name: str, spread: Tensor) -> Tensor:
    """`spread`, deviations of a layer's output. Raises `UsageError` where one is 0 or no number."""
    if not bool((torch.isfinite(spread) & (spread > 0)).all()):
        raise UsageError(
            f"the output of {name!r} does not vary on this batch; give more images, or such as vary."
        )
    return spread
