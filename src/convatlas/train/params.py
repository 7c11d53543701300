"""Which parameters an optimiser moves, and how: what is held, groups, and state keyed by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError, did_you_mean
from convatlas.models.classifier import Classifier
from convatlas.train.muon import Muon
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Speed


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters that share a rate and a decay.

    Where the recipe says `decay_all=False`, vectors and scalars (biases, scales and shifts of normalisation) are not
    decayed. `factor` is that of the learning rate: of `rates` by name, and `body_lr` for all but the classifier.
    `until` is the progress at which the group is held (`hold_from`). With Muon, `matrix` tells what it
    orthogonalises: what has two dimensions or more, the classifier left out; the pull of the decay on the rest does not
    grow with `factor`.

    Raises `UsageError` for a pattern that no parameter fits.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _check_patterns("rates", recipe.rates, named)
    _check_patterns("hold_from", recipe.hold_from, named)
    apart, muon = recipe.body_lr != 1, recipe.optimizer == "muon"
    found: dict[tuple[bool, float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        factor = _chosen(recipe.rates, name, 1.0) * (
            recipe.body_lr if apart and in_body(model, name) else 1.0
        )
        matrix = muon and parameter.ndim > 1 and (not isinstance(model, Classifier) or in_body(model, name))
        decayed = recipe.decay_all or parameter.ndim > 1
        found.setdefault((matrix, _chosen(recipe.hold_from, name, 1.0), factor, decayed), []).append(
            parameter
        )
    result: list[dict[str, Any]] = []
    for key in sorted(found, key=lambda key: (key[2] == 1, *key[:3], not key[3])):
        matrix, until, factor, decayed = key
        decay = recipe.weight_decay if decayed else 0.0
        group: dict[str, Any] = {
            "params": found[key],
            "weight_decay": decay,
            "factor": factor,
            "until": until,
        }
        if muon:
            group |= {"matrix": matrix, "momentum": recipe.muon_momentum if matrix else recipe.momentum}
            group["weight_decay"] = decay / factor if factor and not matrix else decay
        result.append(group)
    return result


def _check_patterns(
    field: str, pairs: Sequence[tuple[str, float]], named: Mapping[str, nn.Parameter]
) -> None:
    for pattern, _ in pairs:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise UsageError(
                f"{field}: no parameter that learns is called {pattern!r}. There are {', '.join(list(named)[:8])} ... "
                f"Name one of them, or leave it out (--set {field}=[])."
            )


def _chosen(pairs: Sequence[tuple[str, float]], name: str, default: float) -> float:
    """The number of the first pattern that fits."""
    return next((value for pattern, value in pairs if fnmatchcase(name, pattern)), default)


def set_rates(optimiser: torch.optim.Optimizer, recipe: Recipe, progress: float, scale: float = 1.0) -> float:
    """Give every group its rate at `progress`, and return that of the recipe; both times `scale`.

    A group that is held early has its whole schedule in its own time (Brock et al., "FreezeOut", 2017), then rate 0.
    """
    for group in optimiser.param_groups:
        over = progress >= group["until"] < 1
        group["lr"] = 0.0 if over else scale * recipe.rate(progress / group["until"]) * group["factor"]
    return scale * recipe.rate(progress)


def hold_over(optimiser: torch.optim.Optimizer, progress: float) -> None:
    """Take the parameters whose time is over out of the backward pass, which is cheaper without them."""
    for group in optimiser.param_groups:
        if group["until"] < 1:
            for parameter in group["params"]:
                parameter.requires_grad_(progress < group["until"])


def held_at(model: nn.Module, recipe: Recipe, progress: float) -> frozenset[str]:
    """Names of the parameters whose time is over by `hold_from`."""
    if not recipe.hold_from:
        return frozenset()
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return frozenset(name for name in names if progress >= _chosen(recipe.hold_from, name, 2.0))


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


def optimizer(model: nn.Module, recipe: Recipe, speed: Speed | None = None) -> torch.optim.Optimizer:
    """The recipe's optimiser over `groups`; where `speed` says `fused`, PyTorch's own pass over each tensor once."""
    speed = speed or Speed()
    fused = speed.fused
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
        case "muon":
            return Muon(
                [{**group, "lr": recipe.lr} for group in parameters],
                nesterov=recipe.nesterov,
                steps=recipe.muon_steps,
                keeps_norm=recipe.muon_keeps_norm,
                dtype=torch.bfloat16 if speed.precision == "bf16" else torch.float32,
            )


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
