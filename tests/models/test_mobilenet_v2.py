"""MobileNetV2: table 2 line by line, linear bottlenecks, shortcuts, widths."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from convatlas.layers.inverted_residual import InvertedResidual
from convatlas.models import create_model

# Table 2: operator's name here, t, c, n, s, and the side of its input.
TABLE = [
    ("stage1", 1, 16, 1, 1, 112),
    ("stage2", 6, 24, 2, 2, 112),
    ("stage3", 6, 32, 3, 2, 56),
    ("stage4", 6, 64, 4, 2, 28),
    ("stage5", 6, 96, 3, 1, 14),
    ("stage6", 6, 160, 3, 2, 14),
    ("stage7", 6, 320, 1, 1, 7),
]


def ghost(name: str = "mobilenet_v2", **settings: float) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **settings).eval()


@pytest.mark.parametrize(("name", "t", "c", "n", "s", "side"), TABLE)
def test_stages_of_table_2(name: str, t: int, c: int, n: int, s: int, side: int) -> None:
    network = ghost()
    blocks = list(network.features.get_submodule(name))
    assert len(blocks) == n
    assert [block.residual.depthwise.conv.stride[0] for block in blocks] == [s] + [1] * (n - 1)
    for block in blocks:
        inputs = (block.residual.expand if t > 1 else block.residual.depthwise).conv.in_channels
        assert block.residual.depthwise.conv.out_channels == t * inputs
        assert block.residual.project.conv.out_channels == c
    maps = dict(network.run_features(torch.empty(1, 3, 224, 224, device="meta")))
    before = "stem" if name == "stage1" else f"stage{int(name[-1]) - 1}"
    assert maps[before].shape[2:] == (side, side)
    assert maps[name].shape[1:] == (c, side // s, side // s)


def test_ends_of_table_2() -> None:
    maps = dict(ghost().run_features(torch.empty(1, 3, 224, 224, device="meta")))
    assert maps["stem"].shape[1:] == (32, 112, 112)
    assert maps["last"].shape[1:] == (1280, 7, 7)


def test_bottlenecks_are_linear_and_narrow_ends_are_connected() -> None:
    blocks = [m for m in ghost().modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 17
    assert sum(block.adds for block in blocks) == 10
    for block in blocks:
        *inner, (last, project) = block.residual.named_children()
        assert (last, list(dict(project.named_children()))) == ("project", ["conv", "bn"])
        assert all(isinstance(layer.act, nn.ReLU6) for _, layer in inner)


@pytest.mark.parametrize(("width", "last"), [(0.35, 1280), (1.0, 1280), (1.4, 1792)])
def test_the_last_convolution_does_not_shrink(width: float, last: int) -> None:
    assert ghost(width=width).num_features == last


@pytest.mark.parametrize("width", [0.1, 0.6, 1.1, 2.0])
def test_any_width_has_as_many_weights_as_torchvisions(width: float) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(width_mult=width)
    assert sum(p.numel() for p in ghost(width=width).parameters()) == sum(
        p.numel() for p in theirs.parameters()
    )
