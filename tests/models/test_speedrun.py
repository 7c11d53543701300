"""The speedrun network: what is held, how it starts, and the sizes that it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.models import create_model
from convatlas.models.classifier import Classifier


def built(**settings: object) -> Classifier:
    torch.manual_seed(0)
    net = create_model("speedrun_cifar", **settings)
    assert isinstance(net, Classifier)
    return net


def test_maps_of_32_pixels() -> None:
    net = built().eval()
    _, outputs = net.forward_intermediates(torch.randn(1, 3, 32, 32))
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (24, 31, 31),
        (64, 15, 15),
        (256, 7, 7),
        (256, 3, 3),
    ]


def test_what_is_held() -> None:
    held = {name for name, p in built().named_parameters() if not p.requires_grad}
    norms = {f"features.block{b}.norm{n}.weight" for b in (1, 2, 3) for n in (1, 2)}
    assert held == {"features.whiten.conv.weight", *norms}
    assert all((dict(built().named_parameters())[name] == 1).all() for name in norms)


def test_convolutions_start_as_the_identity_where_they_can() -> None:
    block = built().features.block1
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(block.conv1(x)[:, :24], x)
    wide = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block.conv2(wide), wide)
    assert block.conv1.weight[24:].std() > 0  # the others are drawn


def test_logits_start_small() -> None:
    x = torch.randn(64, 3, 32, 32)
    assert float(built()(x).detach().std()) < 0.5


@pytest.mark.parametrize("side", [17, 24, 25, 28, 32, 40])
def test_other_sizes_go_through(side: int) -> None:
    assert built().eval()(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_norm_momentum_is_that_of_every_norm() -> None:
    norms = [m for m in built(norm_momentum=0.05).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [0.05] * 6
