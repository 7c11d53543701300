"""The arithmetic of a training against PyTorch's own counter of what a real step does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.kernels import compiled
from convatlas.layers.winograd import tile
from convatlas.models import create_model
from convatlas.train import Recipe, params
from convatlas.train.arithmetic import step_macs, training_macs


def counted(network: nn.Module, side: int, *, bf16: bool = False) -> int:
    """Multiply-adds of forward and backward pass of one image, by the operations that really run."""
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        network.train()(torch.randn(2, 3, side, side)).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() // 2 // 2


@pytest.mark.parametrize("name", ["speedrun_cifar", "resnet20_cifar"])
@pytest.mark.parametrize("side", [24, 32])
def test_a_step_is_what_pytorch_counts(name: str, side: int) -> None:
    network = create_model(name, num_classes=10)
    assert step_macs(network, (3, side, side)) == counted(network, side)


@pytest.mark.parametrize("side", [24, 25, 28, 32])
def test_winograd_is_counted_as_it_is_computed(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 and by PyTorch, whose counter sees no compiled loops; in float32 changes of coordinates take less."""
    monkeypatch.setattr(compiled, "installed", lambda: False)
    network = create_model("speedrun_cifar", winograd=True)
    filters = 0  # brought to other coordinates and back once a step, not once an image
    maps = {"block2.conv2": (side - 1) // 4, "block3.conv1": (side - 1) // 4, "block3.conv2": (side - 1) // 8}
    for of_map in maps.values():
        filters += 2 * (tile(of_map, of_map) + 2) ** 2 * 9 * 256**2
    assert step_macs(network, (3, side, side)) == counted(network, side, bf16=True) - filters // 2
    if side == 32:
        assert step_macs(network, (3, 32, 32)) < 0.75 * step_macs(create_model("speedrun_cifar"), (3, 32, 32))


@pytest.mark.parametrize(
    "pattern",
    ["features.whiten.*", "features.whiten.conv.bias", "features.block1.*", "features.block2.conv1.*"],
)
def test_a_step_with_held_parts_is_what_pytorch_counts(pattern: str) -> None:
    network = create_model("speedrun_cifar")
    recipe = Recipe(hold_from=((pattern, 0.5),))
    held = params.held_at(network, recipe, 0.5)
    assert held
    assert params.held_at(network, recipe, 0.25) == frozenset()
    expected = step_macs(network, (3, 32, 32), held)
    params.hold_over(params.optimizer(network, recipe), 0.5)
    assert expected == counted(network, 32)
    assert expected <= step_macs(create_model("speedrun_cifar"), (3, 32, 32))


def test_a_training_is_the_sum_of_its_steps() -> None:
    network = create_model("speedrun_cifar")
    plain = Recipe(epochs=4, batch_size=10)
    whole = step_macs(network, (3, 32, 32))
    assert training_macs(network, plain, (3, 32, 32), 105) == 4 * 10 * 10 * whole
    sized = Recipe(epochs=4, batch_size=10, sizes=((0, 24), (0.5, 28), (0.75, 64)))
    parts = [step_macs(network, (3, side, side)) for side in (24, 24, 28, 32)]
    assert training_macs(network, sized, (3, 32, 32), 100) == 100 * sum(parts)
    stopped = Recipe(epochs=4, batch_size=10, hold_from=(("features.block1.*", 0.625),))
    less = step_macs(network, (3, 32, 32), params.held_at(network, stopped, 1))
    assert training_macs(network, stopped, (3, 32, 32), 100) == 10 * (25 * whole + 15 * less)
