"""Statistics of activations against slow loops over every number."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.measure.activations import Activation, activations
from convatlas.models import create_model
from measure.borrowed import given_back


class Mixed(nn.Module):
    """ReLU as a module, as a function, in place and shared; sigmoid and tanh; a linear end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)) - 0.8)
        x = functional.relu(x - 0.3)
        x = self.relu(x - 0.2)
        return torch.tanh(3 * self.last(torch.sigmoid(4 * x).mean((2, 3))))


def outputs_of(network: Mixed, images: Tensor) -> dict[str, np.ndarray]:
    """The same calls written out, by name of the row."""
    z = network.conv(images)
    a = (network.norm(z) - 0.8).clamp(min=0)
    b = (a - 0.3).clamp(min=0)
    c = (b - 0.2).clamp(min=0)
    d = 1 / (1 + (-4 * c).exp())
    e = network.last(d.mean((2, 3)))
    rows = {"conv": z, "relu": a, " ReLU": b, "relu:2": c, " sigmoid": d, "last": e, " tanh": (3 * e).tanh()}
    return {name: row.detach().double().numpy() for name, row in rows.items()}


def oracle_dead(values: np.ndarray) -> tuple[float, float]:
    """Shares of dead units and dead channels, number by number."""
    images, channels, height, width = values.shape
    dead_units, dead_channels = 0, 0
    for c in range(channels):
        alive_here = 0
        for i in range(height):
            for j in range(width):
                alive = any(values[n, c, i, j] > 0 for n in range(images))
                alive_here += alive
                dead_units += not alive
        dead_channels += alive_here == 0
    return dead_units / (channels * height * width), dead_channels / channels


@pytest.fixture
def network() -> Mixed:
    torch.manual_seed(0)
    network = Mixed()
    nn.init.constant_(network.norm.bias[1:2], -9.0)  # a channel that never gets through
    return network


@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_row_is_what_a_loop_finds(network: Mixed, batch_size: int) -> None:
    images = torch.randn(7, 2, 6, 6)
    network.eval()
    expected = outputs_of(network, images)
    rows = activations(network, images, batch_size=batch_size, bins=9)
    assert len(rows) == len(expected)
    for row, (name, values) in zip(rows, expected.items(), strict=True):
        owner, _, kind = name.partition(" ")
        assert row.name == owner
        if kind:
            assert row.kind == kind
        assert row.shape == values.shape[1:]
        numbers = [float(value) for value in values.reshape(-1)]
        mean = sum(numbers) / len(numbers)
        assert row.mean == pytest.approx(mean, rel=1e-5, abs=1e-7)
        assert row.std == pytest.approx(
            math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers)), rel=1e-4
        )
        assert (row.low, row.high) == pytest.approx((min(numbers), max(numbers)), rel=1e-5)
        assert row.histogram.sum() == len(numbers)
        edges = np.linspace(row.low, row.high, 10)
        for k in range(1, 9):  # but for numbers that lie on an edge up to rounding
            near = sum(abs(x - edges[k]) < 1e-6 for x in numbers)
            assert abs(row.histogram[:k].sum() - sum(x < edges[k] for x in numbers)) <= near
        if row.kind == "ReLU":
            assert (row.dead_units, row.dead_channels) == pytest.approx(oracle_dead(values))
            assert row.dead_channels >= 0.2
        else:
            assert (row.dead_units, row.dead_channels) == (None, None)
    saturated = {row.kind: row.saturated for row in rows}
    assert saturated["tanh"] == pytest.approx(float((abs(expected[" tanh"]) > 0.99).mean()))
    s = expected[" sigmoid"]
    assert saturated["sigmoid"] == pytest.approx(float(((s < 0.005) | (s > 0.995)).mean()))
    assert saturated["Conv2d"] is None


def test_a_unit_is_dead_only_if_no_batch_wakes_it() -> None:
    relu = nn.Sequential(nn.Identity(), nn.ReLU())
    images = -torch.ones(5, 1, 2, 2)
    assert activations(relu, images, batch_size=2)[0].dead_units == 1.0
    images[4, 0, 1, 1] = 0.5
    (row,) = activations(relu, images, batch_size=2)
    assert (row.dead_units, row.dead_channels) == (0.75, 0.0)


@pytest.mark.parametrize(
    ("module", "kind", "has_dead"),
    [
        (nn.ReLU6(), "ReLU6", True),
        (nn.ReLU6(inplace=True), "ReLU6", True),
        (nn.SiLU(), "SiLU", False),
        (nn.Hardswish(), "hard swish", False),
        (nn.LeakyReLU(), "leaky ReLU", False),
        (nn.PReLU(), "PReLU", False),
        (nn.GELU(), "GELU", False),
        (nn.Mish(), "Mish", False),
    ],
)
def test_every_activation_function_has_a_row(module: nn.Module, kind: str, has_dead: bool) -> None:
    rows = activations(nn.Sequential(nn.Conv2d(1, 2, 1), module), torch.randn(2, 1, 3, 3))
    assert [row.kind for row in rows] == ["Conv2d", kind]
    assert (rows[1].dead_units is not None) == has_dead


def test_a_hard_tanh_is_no_rectifier() -> None:
    assert activations(nn.Hardtanh(), torch.randn(2, 1, 3, 3)) == ()


def test_he_keeps_the_scale_and_small_weights_do_not() -> None:
    """Of a ReLU layer's input the mean square halves, and He's weights double it again (He et al., 2015)."""

    def deviations(std: float) -> list[float]:
        torch.manual_seed(0)
        layers = [nn.Linear(256, 256, bias=False) for _ in range(8)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=std)
        chain = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))
        return [row.std for row in activations(chain, torch.randn(64, 256), bins=1) if row.kind == "Linear"]

    kept = deviations((2 / 256) ** 0.5)
    assert max(kept) / min(kept) < 1.6
    small = deviations(0.01)
    for before, after in pairwise(small):
        assert after / before == pytest.approx(0.01 * (256 / 2) ** 0.5, rel=0.15)


def test_before_and_after_training() -> None:
    """A step with a far too large rate kills units; the same images say so."""
    torch.manual_seed(0)
    network, images = create_model("squeezenet1_1_cifar", num_classes=10), torch.randn(8, 3, 32, 32)

    def dead(rows: tuple[Activation, ...]) -> float:
        shares = [row.dead_channels for row in rows if row.dead_channels is not None]
        return sum(shares) / len(shares)

    before = dead(activations(network, images))
    loss = functional.cross_entropy(network(images), torch.arange(8))
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=50.0).step()
    assert dead(activations(network, images)) > before + 0.2


def test_everything_is_given_back(network: Mixed) -> None:
    with given_back(network):
        activations(network, torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0)))
    with given_back(network), pytest.raises(UsageError):
        activations(network, torch.zeros(3, 3, 6, 6))


def test_what_does_not_fit_is_refused(network: Mixed) -> None:
    with pytest.raises(UsageError, match="in 'conv'"):
        activations(network, torch.zeros(3, 3, 6, 6))
    with pytest.raises(UsageError, match="no images"):
        activations(network, torch.zeros(0, 2, 6, 6))
    with pytest.raises(UsageError, match="at least 1"):
        activations(network, torch.zeros(1, 2, 6, 6), bins=0)
    with pytest.raises(UsageError, match="meta device"):
        activations(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2))


def test_numbers_that_are_not_finite_are_none_in_json() -> None:
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, math.inf)
    (row,) = activations(nn.Sequential(layer), torch.ones(1, 2))
    assert row.to_json()["mean"] is None
