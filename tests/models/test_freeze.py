"""Frozen parts: not one byte of them changes, whatever is called around them."""

from __future__ import annotations

import copy

import pytest
import torch

from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.train import Recipe, params
from convatlas.train.ema import Ema


def network() -> Classifier:
    torch.manual_seed(0)
    built = create_model("resnet20_cifar", num_classes=3)
    assert isinstance(built, Classifier)
    with torch.no_grad():
        for name, tensor in built.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
                tensor.view(-1)[0] = -0.0  # arithmetic that "changes nothing" makes 0.0 of it
            if name.endswith("running_var"):
                tensor.abs_()
    return built


def bytes_of(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("settings", [{"freeze": "2"}, {"freeze": "conv2_x"}, {"body_lr": 0.0}, {}])
def test_not_a_byte_changes(settings: dict[str, object], optimizer: str, checkpointing: bool) -> None:
    recipe = Recipe(lr=0.1, weight_decay=0.1, ema=0.9, optimizer=optimizer).with_settings(settings)
    model = network()
    held = params.hold(model, recipe)
    model.set_grad_checkpointing(checkpointing)
    before = bytes_of(model)
    optimiser = params.optimizer(model, recipe)
    ema = Ema(model, recipe.ema, held)
    for step in range(3):
        model.eval()
        model.train()
        torch.manual_seed(step)
        model(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        ema.update(step)
    after, mean = bytes_of(model), {name: t.numpy().tobytes() for name, t in ema.shadow.items()}
    inside = {name for name in before if name.startswith(tuple(f"{each}." for each in held))}
    expected = {
        "2": "conv1 conv2_x conv3_x", "conv2_x": "conv1 conv2_x",
    }.get(str(settings.get("freeze")), "conv1 conv2_x conv3_x conv4_x" if settings else "")  # fmt: skip
    assert held == tuple(f"features.{name}" for name in expected.split())
    assert {name for name in before if after[name] == before[name]} == inside
    assert {name for name in before if mean[name] == before[name]} >= inside
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {
        name for name, _ in model.named_parameters() if name in inside
    }


def test_the_control_a_frozen_network_without_its_mode_moves() -> None:
    """What the test above looks for happens where only gradients are switched off."""
    model = network()
    before = bytes_of(model)
    model.features.requires_grad_(False)
    model.train()(torch.randn(4, 3, 16, 16))
    moved = {name for name in before if bytes_of(model)[name] != before[name]}
    assert any("running_mean" in name for name in moved)


def test_modes() -> None:
    model = network()
    model.eval().freeze(["features.conv1"])
    assert not model.training
    assert model.train().training
    assert not any(module.training for module in model.features.conv1.modules())
    assert all(module.training for module in model.features.conv2_x.modules())
    twin = copy.deepcopy(model).eval().train()
    assert not any(module.training for module in twin.features.conv1.modules())


def test_dropout_before_the_classifier_still_acts_where_the_body_is_held() -> None:
    with torch.device("meta"):
        model = create_model("vgg11")
    names = params.held(model, Recipe(body_lr=0.0))
    assert "head.dropout" not in " ".join(names)
    kept = {
        name for name, _ in model.named_parameters() if not name.startswith(tuple(f"{n}." for n in names))
    }
    assert kept == {f"head.{model.classifier_name}.{part}" for part in ("weight", "bias")}
    model.freeze(names)
    model.train()
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts
    assert all(module.training for module in dropouts)
