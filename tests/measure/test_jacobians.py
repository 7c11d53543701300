"""The chain rule as a product of matrices, against autograd and against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.jacobians import chain_rule
from measure.borrowed import given_back


def convolutional() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip
    return chain.double(), torch.randn(1, 2, 8, 8, dtype=torch.float64)


def loss(y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(y, torch.tensor([2]))


def test_the_product_is_autograds_gradient() -> None:
    chain, image = convolutional()
    factors = chain_rule(chain, image, loss)
    assert [factor.name for factor in factors] == list("0123456")
    loss(chain(image)).backward()
    for factor, layer in zip(factors, chain, strict=True):
        assert factor.difference < 1e-12
        grads = [value.grad.flatten() for value in layer.parameters()]
        expected = torch.cat(grads).norm().item() if grads else 0.0
        assert factor.gradient == pytest.approx(expected, rel=1e-10)
        assert (factor.gradient > 0) == bool(grads)


def test_a_wrong_product_would_be_seen() -> None:
    """The difference is measured: what autograd says of another loss is far from this product."""
    chain, image = convolutional()
    flip = [1.0]

    def inconstant(y: torch.Tensor) -> torch.Tensor:
        flip[0] = -flip[0]
        return flip[0] * loss(y)

    assert chain_rule(chain, image, inconstant)[0].difference == pytest.approx(2.0)


def test_singular_values_of_known_layers() -> None:
    torch.manual_seed(0)
    turn = nn.Linear(6, 6, bias=False)
    nn.init.orthogonal_(turn.weight, gain=0.5)
    chain = nn.Sequential(turn, nn.Sigmoid(), nn.MaxPool1d(2), nn.ReLU()).double()
    factors = chain_rule(chain, torch.randn(1, 6, dtype=torch.float64), lambda y: y.sum())
    assert factors[0].singular_values == pytest.approx([0.5] * 6)
    assert max(factors[1].singular_values) <= 0.25, "the largest slope of a sigmoid"
    assert sorted(set(factors[2].singular_values)) == [1.0], "a maximum passes one number on"
    assert factors[3].singular_values == pytest.approx([1.0] * 3)


def test_signals_of_sigmoids_shrink_by_a_quarter_or_more() -> None:
    """|dL/da^(l-1)| <= |W| / 4 |dL/da^l|: with isometries, 4^-depth at most."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(8):
        turn = nn.Linear(5, 5)
        nn.init.orthogonal_(turn.weight)
        layers += [turn, nn.Sigmoid()]
    factors = chain_rule(
        nn.Sequential(*layers).double(), torch.randn(1, 5, dtype=torch.float64), lambda y: y.sum()
    )
    signals = [factor.signal for factor in factors[1::2]]
    for place, signal in enumerate(signals):
        assert signal <= math.sqrt(5) * 0.25 ** (len(signals) - 1 - place) * (1 + 1e-12)
    assert signals[0] > 0


def test_it_borrows_and_refuses() -> None:
    chain, image = convolutional()
    with given_back(chain):
        chain_rule(chain, image, loss)
    with pytest.raises(UsageError, match="2 inputs"):
        chain_rule(chain, torch.cat([image, image]), loss)
    with pytest.raises(UsageError, match="0 layers"):
        chain_rule(nn.Sequential(), image, loss)
    with pytest.raises(UsageError, match="more than 4096"):
        chain_rule(nn.Sequential(nn.Linear(2, 5000)), torch.ones(1, 2), lambda y: y.sum())
