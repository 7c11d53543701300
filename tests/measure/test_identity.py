"""Deeper by identities: the same outputs, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.depth import weight_layers
from convatlas.measure.identity import deepened
from convatlas.models import create_model
from measure.borrowed import given_back


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [("plain20_cifar", 32, 36), ("nin_cifar10", 32, 5), ("squeezenet1_0", 64, 10), ("alexnet", 64, 3)],
)
def test_b_reproduces_a(name: str, side: int, layers: int) -> None:
    torch.manual_seed(0)
    a = create_model(name, num_classes=10).eval()
    x = torch.randn(3, a.in_channels, side, side)
    with given_back(a):
        b = deepened(a, layers, x)
    a.eval()
    b.eval()
    count = [sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) for net in (a, b)]
    assert count[1] == count[0] + layers
    with torch.no_grad():
        assert torch.equal(a(x), b(x))
        assert a(x).std() > 0
    assert len(list(b.parameters())) == len(list(a.parameters())) + 2 * layers


def test_plain20_becomes_as_deep_as_plain56() -> None:
    a = create_model("plain20_cifar")
    b = deepened(a, 36, torch.zeros(1, 3, 32, 32))
    assert weight_layers(b, (3, 32, 32)) == weight_layers(create_model("plain56_cifar"), (3, 32, 32)) == 56


def test_it_still_learns_and_a_does_not_notice() -> None:
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(8, 3)
    b = deepened(a, 2, x)
    before = a(x)
    b(x).square().sum().backward()
    torch.optim.SGD(b.parameters(), lr=0.1).step()
    assert torch.equal(a(x), before)
    assert not torch.equal(b(x), before)


def test_without_a_place_it_says_so() -> None:
    with pytest.raises(UsageError, match=r"no nn.ReLU"):  # scaled tanh
        deepened(create_model("lenet5"), 3, torch.zeros(1, 1, 32, 32))
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 2), relu)
    with pytest.raises(UsageError, match="exactly once"):
        deepened(shared, 1, torch.ones(1, 3))
    with pytest.raises(UsageError, match="one or more"):
        deepened(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), 0, torch.ones(1, 3))
