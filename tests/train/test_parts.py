"""Losses, averaged weights, parameter groups and the optimiser's state by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convatlas.errors import BadCheckpoint
from convatlas.train import Recipe, params
from convatlas.train.ema import Ema
from convatlas.train.loss import cross_entropy, map_loss


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_map_loss_is_equation_9_written_out() -> None:
    penalties = torch.tensor([[1.0, 3.0, 0.5], [2.0, 0.1, 7.0]], dtype=torch.float64)
    labels = torch.tensor([2, 0])
    expected = [
        y[label] + math.log(math.exp(-0.1) + sum(math.exp(-value) for value in y))
        for y, label in zip(penalties.tolist(), labels.tolist(), strict=True)
    ]
    assert map_loss(-penalties, labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_map_loss_survives_large_penalties() -> None:
    loss = map_loss(torch.tensor([[-1e4, -2e4]]), torch.tensor([0]))
    assert torch.isfinite(loss).all()


def test_label_smoothing_is_the_mixture_with_the_uniform_distribution() -> None:
    logits, labels, epsilon = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]), 0.1
    log_p = logits.log_softmax(1)
    target = (1 - epsilon) * torch.nn.functional.one_hot(labels, 4) + epsilon / 4
    assert torch.allclose(cross_entropy(logits, labels, epsilon), -(target * log_p).sum(1))


def test_ema_is_pytorchs_once_its_warm_up_is_over() -> None:
    torch.manual_seed(0)
    model, decay = network(), 0.9
    ours = Ema(model, decay)
    theirs = AveragedModel(
        model, avg_fn=lambda mean, value, _: decay * mean + (1 - decay) * value, use_buffers=True
    )
    theirs.n_averaged += 1  # it would copy the first weights
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        ours.update(step=1000)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(ours.shadow[name], value, atol=1e-6), name


def test_ema_is_applied_and_taken_back_also_after_an_error() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema = Ema(model, 0.9)
    ema.shadow["0.weight"].fill_(7)
    seen = []

    def fail_inside() -> None:
        with ema.applied(model):
            seen.append(model.state_dict()["0.weight"].unique().tolist())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert seen == [[7.0]]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_biases_and_normalisation_are_not_decayed_where_the_recipe_says_so() -> None:
    model = network()
    groups = params.groups(model, Recipe(weight_decay=0.1, decay_all=False))
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay_of[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.1, "3.bias": 0.0,
    }  # fmt: skip
    assert [g["weight_decay"] for g in params.groups(model, Recipe(weight_decay=0.1))] == [0.1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimiser_restored_by_name_makes_the_same_next_step(optimizer: str) -> None:
    def trained(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            optimiser.zero_grad()
            model(torch.randn(2, 1, 8, 8)).square().mean().backward()
            optimiser.step()

    recipe = Recipe(optimizer=optimizer, lr=0.01, weight_decay=1e-3)
    torch.manual_seed(0)
    whole = network()
    first = params.optimizer(whole, recipe)
    trained(whole, first, range(3))
    state = {name: value.clone() for name, value in params.state_by_name(first, whole).items()}
    other = network()
    other.load_state_dict(whole.state_dict())
    second = params.optimizer(other, recipe)
    params.restore_state(second, other, state)
    trained(whole, first, range(3, 6))
    trained(other, second, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_state_of_another_network_is_refused() -> None:
    model = network()
    optimiser = params.optimizer(model, Recipe())
    with pytest.raises(BadCheckpoint, match="does not have"):
        params.restore_state(optimiser, model, {"9.weight/momentum_buffer": torch.zeros(4, 1, 3, 3)})
    with pytest.raises(BadCheckpoint, match="shape"):
        params.restore_state(optimiser, model, {"0.weight/momentum_buffer": torch.zeros(4, 1, 5, 5)})
