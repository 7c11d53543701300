"""Which parameters an optimiser moves, and how: groups, and state keyed by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint
from convatlas.train.recipe import Recipe


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Two groups: with weight decay, and without it.

    Where the recipe says `decay_all=False`, vectors and scalars (biases, scales and shifts of
    normalisation) are not decayed.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if recipe.decay_all or parameter.ndim > 1 else free).append(parameter)
    return [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, recipe.weight_decay), (free, 0.0))
        if params
    ]


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over `groups`, in its fused form (one pass over each tensor)."""
    parameters = groups(model, recipe)
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=recipe.lr, betas=recipe.betas, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=recipe.lr, betas=recipe.betas, fused=True)


def state_by_name(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `parameter/key` ("conv1.weight/momentum_buffer")."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if value is not None
    }


@torch.no_grad()
def restore_state(optimiser: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_by_name` gave. Raises `BadCheckpoint` if a name or a shape does not fit."""
    parameters = dict(model.named_parameters())
    optimiser.state.clear()
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None:
            raise BadCheckpoint(f"the optimiser's state names {name!r}, which the network does not have.")
        if value.ndim and value.shape != parameter.shape:
            raise BadCheckpoint(
                f"{full} has shape {tuple(value.shape)}; the parameter has {tuple(parameter.shape)}."
            )
        if value.ndim:
            restored = torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format)
            restored.copy_(value)
        else:
            restored = value.to(parameter.device).clone()
        optimiser.state[parameter][key] = restored
