"""Wide ResNets: depth and widths of table 1, dropout inside units, bottlenecks widened in the middle only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model, find, list_models
from convatlas.models.preact import Unit

CIFAR = [name for name in list_models(family="wide_resnet") if name.endswith("_cifar")]


@pytest.mark.parametrize("name", CIFAR)
def test_depth_and_widths_of_table_1(name: str) -> None:
    """6n + 4 counts the first convolution, 6n in units and 3 projections: every convolution there is."""
    layers, widening = (find(name).build.keywords[key] for key in ("layers", "widening"))
    assert name == f"wide_resnet{layers}_{widening}_cifar"
    with torch.device("meta"):
        network = create_model(name)
        _, maps = network.forward_intermediates(torch.empty(1, 3, 32, 32))
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == layers
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16 * widening, 32, 32),
        (32 * widening, 16, 16),
        (64 * widening, 8, 8),
    ]


def test_weights_grow_with_the_square_of_k() -> None:
    """In the units; the 3x3 convolutions make up nearly all."""
    with torch.device("meta"):
        one, two = (
            sum(
                m.weight.numel()
                for m in create_model("wide_resnet16_4_cifar", widening=k).modules()
                if isinstance(m, nn.Conv2d) and m.in_channels > 16
            )
            for k in (4, 8)
        )
    assert two == 4 * one


def test_dropout_stands_between_the_convolutions_of_a_unit() -> None:
    with torch.device("meta"):
        network = create_model("wide_resnet16_4_cifar", unit_dropout=0.3)
    for unit in (module for module in network.modules() if isinstance(module, Unit)):
        names = [name for name, _ in unit.residual.named_children()]
        assert names[-5:] == ["conv1", "bn2", "relu2", "dropout2", "conv2"]
        assert unit.residual.dropout2.p == 0.3
        assert not any(isinstance(m, nn.Dropout) for m in (*unit.shortcut.modules(), *unit.before.modules()))
    assert not any(isinstance(m, nn.Dropout) for m in create_model("wide_resnet16_4_cifar").modules())


def test_dropout_leaves_the_path_of_shortcuts_alone() -> None:
    """With every unit's last convolution at zero nothing random is left."""
    torch.manual_seed(0)
    network = create_model("wide_resnet16_4_cifar", widening=1, unit_dropout=0.5).train()
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(x), network(x))
    for unit in (module for module in network.modules() if isinstance(module, Unit)):
        nn.init.zeros_(unit.residual.conv2.weight)
    assert torch.equal(network(x), network(x))


def test_bottlenecks_are_wide_inside_only() -> None:
    with torch.device("meta"):
        wide, thin = create_model("wide_resnet50_2"), create_model("resnet50")
    for ours, theirs in zip(wide.features[2:], thin.features[2:], strict=True):
        assert ours[-1].residual.conv2.out_channels == 2 * theirs[-1].residual.conv2.out_channels
        assert ours[-1].residual.conv3.out_channels == theirs[-1].residual.conv3.out_channels
    assert wide.num_features == 2048


@pytest.mark.parametrize("wrong", [{"layers": 17}, {"layers": 4}, {"widening": 0}])
def test_sizes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="6n \\+ 4"):
        create_model("wide_resnet16_4_cifar", **wrong)
