"""SAF-pooling: what is pooled, what is switched off, how much of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.saf_pooling import StrongestOff, saf_pooling


@pytest.mark.parametrize("mode", ["random", "deterministic", "none"])
def test_evaluation_is_max_pooling(mode: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    layer = saf_pooling(0.3, mode).eval()  # type: ignore[arg-type]
    assert torch.equal(layer(x), nn.functional.max_pool2d(x, 2))


def test_random_mode_is_dropout_on_the_maxima() -> None:
    x = torch.rand(4, 8, 16, 16) + 1
    torch.manual_seed(0)
    y = saf_pooling(0.2)(x)
    torch.manual_seed(0)
    assert torch.equal(y, nn.functional.dropout(nn.functional.max_pool2d(x, 2), 0.2))
    assert float((y == 0).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_deterministic_mode_switches_off_the_strongest_of_each_image() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5)
    y = StrongestOff(0.25)(x)
    for image, switched in zip(x, y, strict=True):
        values = image.flatten().tolist()
        limit = sorted(values, reverse=True)[25 - 1]  # 25 of 100 responses
        expected = [0.0 if value >= limit else value / 0.75 for value in values]
        torch.testing.assert_close(switched.flatten(), torch.tensor(expected))
    assert torch.equal(y, StrongestOff(0.25)(x))  # nothing is drawn


def test_the_count_is_rounded_down() -> None:
    assert int((StrongestOff(0.19)(torch.arange(1.0, 11.0).view(1, 10, 1, 1)) == 0).sum()) == 1


def test_gradients_flow_through_what_is_left() -> None:
    x = torch.arange(1.0, 5.0).view(1, 4, 1, 1).requires_grad_()
    StrongestOff(0.5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize(("p", "mode"), [(0.1, "sometimes"), (1.0, "random"), (-0.1, "random")])
def test_refusals(p: float, mode: str) -> None:
    with pytest.raises(UsageError):
        saf_pooling(p, mode)  # type: ignore[arg-type]
