"""Which parameters an optimiser moves, and how: what is held, groups, and state keyed by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError, did_you_mean
from convatlas.models.classifier import Classifier
from convatlas.train.recipe import Recipe


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Up to four groups: with and without weight decay, each for the body and for the head.

    Where the recipe says `decay_all=False`, vectors and scalars (biases, scales and shifts of
    normalisation) are not decayed. `factor` is that of the learning rate: `body_lr` for the body, 1 for the head;
    where it is 1 everywhere there is no such distinction.
    """
    apart = recipe.body_lr != 1
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.body_lr if apart and in_body(model, name) else 1.0
            found.setdefault((factor, recipe.decay_all or parameter.ndim > 1), []).append(parameter)
    return [
        {"params": found[key], "weight_decay": recipe.weight_decay if key[1] else 0.0, "factor": key[0]}
        for key in sorted(found, key=lambda key: (key[0] == 1, not key[1]))
    ]


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the head; each group takes its factor of it."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]


def in_body(model: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to the body: all but the classifier and auxiliary heads."""
    last = f"head.{_classifier(model).classifier_name}."
    return not name.startswith((last, "auxiliary."))


def hold(model: nn.Module, recipe: Recipe) -> tuple[str, ...]:
    """Freeze what the recipe says; give the names of the modules. See `held`."""
    names = held(model, recipe)
    if names:
        _classifier(model).freeze(names)
    return names


def held(model: nn.Module, recipe: Recipe) -> tuple[str, ...]:
    """Names of the modules that a training holds as they are.

    `body_lr = 0` holds everything but the classifiers, `freeze` the children of `features` up to and with a stage:
    by its name, or the first so many stages. Modules without weights, as dropout, are not held.

    Raises `UsageError` for a stage that the network does not have.
    """
    if recipe.body_lr == 0:
        network = _classifier(model)
        children = [f"features.{name}" for name, _ in network.features.named_children()]
        before = [name for name, _ in network.head.named_children() if name != network.classifier_name]
        names = [*children, *(f"head.{name}" for name in before)]
    elif recipe.freeze:
        names = _up_to(_classifier(model), recipe.freeze)
    else:
        return ()
    return tuple(name for name in names if _has_state(model.get_submodule(name)))


def _up_to(network: Classifier, stage: str) -> list[str]:
    children = [name for name, _ in network.features.named_children()]
    stages = [each.name for each in network.stages]
    if stage not in children and stage.isdecimal():
        if not 1 <= int(stage) <= len(stages):
            raise UsageError(
                f"freeze = {stage}: {type(network).__name__} has {len(stages)} stages: {', '.join(stages)}."
            )
        stage = stages[int(stage) - 1]
    if stage not in children:
        raise UsageError(
            f"freeze = {stage!r}: {type(network).__name__} has no such part.{did_you_mean(stage, children)} "
            f"It has: {', '.join(children)}; or say how many stages (1 to {len(stages)})."
        )
    return [f"features.{name}" for name in children[: children.index(stage) + 1]]


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _classifier(model: nn.Module) -> Classifier:
    if not isinstance(model, Classifier):
        raise UsageError(
            f"{type(model).__name__} has no body and head: body_lr and freeze need a classifier."
        )
    return model


def optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> torch.optim.Optimizer:
    """The recipe's optimiser over `groups`; `fused`, it passes over each tensor once."""
    parameters = groups(model, recipe)
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=recipe.lr, betas=recipe.betas, fused=fused)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=recipe.lr, betas=recipe.betas, fused=fused)


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
