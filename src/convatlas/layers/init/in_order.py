"""A forward pass that changes each layer just before it is called: what initialisations from data share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import NumericError, UsageError
from convatlas.hooks import eval_mode, watched
from convatlas.layers.init.variance import WeightLayer

Change = Callable[[str, WeightLayer, Tensor], None]
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
TOO_LARGE = 1e4  # as deviation of a network's output: no training starts from there


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


@torch.no_grad()
def normalised(network: nn.Module, batch: Tensor) -> set[str]:
    """Names of the weight layers whose output is what a BatchNorm receives: their scale does not matter in training."""
    names: set[str] = set()
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensors stay alive, so that an id means one of them

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, BatchNorm) and id(args[0]) in outputs:
            names.add(outputs[id(args[0])][0])

    def leave(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(module, WeightLayer):
            outputs[id(output)] = (name, output)

    with watched(network, enter, leave):
        in_order(network, batch, lambda name, layer, x: None)
    return names


@contextmanager
def all_or_nothing(network: nn.Module, batch: Tensor) -> Generator[None, None, None]:
    """What happens inside changes the network to one that answers the batch with numbers of a size, or not at all.

    Raises `NumericError` where an output is not finite, or their deviation is above `TOO_LARGE`. After this error, as
    after any other, parameters and buffers are what they were.
    """
    tensors = [*network.parameters(), *network.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
        with torch.no_grad():
            output = in_order(network, batch, lambda name, layer, x: None)
        deviation = float(output.std(correction=0)) if isinstance(output, Tensor) else 0.0  # pyright: ignore[reportUnnecessaryIsInstance]
        if not deviation <= TOO_LARGE:  # no number is not
            raise NumericError(
                f"initialised on these {len(batch)} images, {type(network).__name__} gives outputs of deviation "
                f"{deviation:.3g}; the network stays as it was. Give more images, or another initialisation."
            )
    except BaseException:
        with torch.no_grad():
            for tensor, kept in zip(tensors, before, strict=True):
                tensor.copy_(kept)
        raise


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
