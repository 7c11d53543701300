"""Highway networks: the equation with both kinds of gates, closed gates at the start, the authors' layer lists."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.models.highway import HighwayLayer


def layer(gates: str = "coupled", bias: float = -2.0) -> HighwayLayer:
    torch.manual_seed(0)
    return HighwayLayer(5, gates=gates, gate_bias=bias).double()  # pyright: ignore[reportArgumentType]


def conv(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A 3x3 convolution with padding, written out."""
    weight, bias = part.get_submodule("conv").weight, part.get_submodule("conv").bias
    patches = nn.functional.unfold(x, 3, padding=1)
    return (weight.flatten(1) @ patches + bias.view(1, -1, 1)).view_as(x)


X = torch.randn(2, 5, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("gates", ["coupled", "uncoupled"])
def test_the_equation(gates: str) -> None:
    made = layer(gates)
    h, t = conv(made.transform, X).relu(), conv(made.gate, X).sigmoid()
    c = 1 - t if made.carry is None else conv(made.carry, X).sigmoid()
    torch.testing.assert_close(made(X), h * t + X * c)


def test_coupled_gates_are_uncoupled_ones_of_opposite_weights() -> None:
    """sigmoid(-z) = 1 - sigmoid(z)."""
    coupled, free = layer(), layer("uncoupled")
    free.load_state_dict(coupled.state_dict(), strict=False)
    assert free.carry is not None
    for theirs, ours in zip(free.carry.parameters(), coupled.gate.parameters(), strict=True):
        theirs.data.copy_(-ours)
    torch.testing.assert_close(free(X), coupled(X))


def test_a_closed_gate_lets_all_through_and_an_open_one_only_the_transformation() -> None:
    torch.testing.assert_close(layer(bias=-60.0)(X), X)
    opened = layer(bias=60.0)
    torch.testing.assert_close(opened(X), opened.transform(X))


@pytest.mark.parametrize(
    ("name", "bias", "count"), [("highway19_cifar", -2.0, 14), ("highway10_mnist", -1.0, 8)]
)
def test_gates_start_almost_closed(name: str, bias: float, count: int) -> None:
    torch.manual_seed(0)
    network = create_model(name, gates="uncoupled")
    layers = [module for module in network.modules() if isinstance(module, HighwayLayer)]
    assert len(layers) == count
    for made in layers:
        assert made.carry is not None
        assert (made.gate.get_submodule("conv").bias == bias).all()
        assert (made.carry.get_submodule("conv").bias == -bias).all()
        assert not made.transform.get_submodule("conv").bias.any()
    opened = create_model(name, gate_bias=1.0)
    assert all(
        (m.gate.get_submodule("conv").bias == 1).all()
        for m in opened.modules()
        if isinstance(m, HighwayLayer)
    )


def test_gradients_reach_the_first_of_fifty_layers() -> None:
    """With gates almost closed most of a gradient passes; through as many plain layers nothing arrives."""
    torch.manual_seed(0)
    layers = [HighwayLayer(8, gate_bias=-4.0).double() for _ in range(50)]
    received: dict[str, float] = {}
    for name, parts in (("highway", layers), ("plain", [made.transform for made in layers])):
        x = torch.rand(1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
        y = nn.Sequential(*parts)(x)
        y.backward(torch.ones_like(y) / y.numel() ** 0.5)
        assert x.grad is not None
        received[name] = float(x.grad.norm())
    assert 0.1 < received["highway"] < 10
    assert received["plain"] < 1e-10


def test_layers_of_the_authors_files() -> None:
    """Channels and kernel of each convolution, gates marked by h, pools by P."""
    expected = {
        "highway19_cifar": "32/3 32h 32h 32h 32h P 80/3 80h 80h 80h 80h 80h P 128/3 128h 128h 128h 128h 128h 100/1 P",
        "highway10_mnist": "32/5 32h 32h P 32h 32h 32h P 32h 32h 32h P P",
    }
    for name, layers in expected.items():
        with torch.device("meta"):
            network = create_model(name)
        found: list[str] = []
        for path, module in network.named_modules():
            if isinstance(module, HighwayLayer):
                found.append(f"{module.transform.get_submodule('conv').out_channels}h")
            elif isinstance(module, nn.Conv2d) and "highway" not in path:
                found.append(f"{module.out_channels}/{module.kernel_size[0]}")
            elif isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
                found.append("P")
        assert " ".join(found) == layers


def test_maps_for_mnist() -> None:
    with torch.device("meta"):
        network = create_model("highway10_mnist")
        assert isinstance(network, Classifier)
        last, maps = network.forward_intermediates(torch.empty(1, 1, 28, 28))
        pooled = network.head.get_submodule("pool")(last)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 24, 24), (32, 12, 12), (32, 6, 6)]
    assert pooled.shape == (1, 32, 3, 3)


def test_what_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="'coupled' and 'uncoupled'"):
        create_model("highway19_cifar", gates="both")
    with pytest.raises(UsageError, match="one number per stage"):
        create_model("highway19_cifar", stage_dropout=(0.1,))
