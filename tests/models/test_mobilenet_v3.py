"""MobileNetV3: tables 1 and 2, where it squeezes, where the hard-swish stands, the late hidden layer."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from convatlas.layers.inverted_residual import InvertedResidual
from convatlas.layers.squeeze_excitation import SqueezeExcitation
from convatlas.models import create_model

# Tables 1 and 2: kernel, expansion size, output channels, SE, activation, side of the output.
LARGE = """3 16 16 - RE 112 | 3 64 24 - RE 56 | 3 72 24 - RE 56 | 5 72 40 SE RE 28 | 5 120 40 SE RE 28
    | 5 120 40 SE RE 28 | 3 240 80 - HS 14 | 3 200 80 - HS 14 | 3 184 80 - HS 14 | 3 184 80 - HS 14
    | 3 480 112 SE HS 14 | 3 672 112 SE HS 14 | 5 672 160 SE HS 7 | 5 960 160 SE HS 7 | 5 960 160 SE HS 7"""
SMALL = """3 16 16 SE RE 56 | 3 72 24 - RE 28 | 3 88 24 - RE 28 | 5 96 40 SE HS 14 | 5 240 40 SE HS 14
    | 5 240 40 SE HS 14 | 5 120 48 SE HS 14 | 5 144 48 SE HS 14 | 5 288 96 SE HS 7 | 5 576 96 SE HS 7
    | 5 576 96 SE HS 7"""


def ghost(size: str, **settings: float) -> nn.Module:
    with torch.device("meta"):
        return create_model(f"mobilenet_v3_{size}", **settings).eval()


@pytest.mark.parametrize(("size", "table"), [("large", LARGE), ("small", SMALL)])
def test_blocks_of_the_tables(size: str, table: str) -> None:
    found: list[str] = []
    for name, output in (network := ghost(size)).run_features(torch.empty(1, 3, 224, 224, device="meta")):
        block = network.features.get_submodule(name)
        if isinstance(block, InvertedResidual):
            depthwise = block.residual.depthwise
            squeezes = "SE" if hasattr(block.residual, "se") else "-"
            act = {nn.ReLU: "RE", nn.Hardswish: "HS"}[type(depthwise.act)]
            k, expanded = depthwise.conv.kernel_size[0], depthwise.conv.out_channels
            found.append(f"{k} {expanded} {output.shape[1]} {squeezes} {act} {output.shape[2]}")
    assert found == [" ".join(line.split()) for line in table.split("|")]


@pytest.mark.parametrize("size", ["large", "small"])
def test_squeezed_to_a_quarter_in_eights(size: str) -> None:
    for module in ghost(size).modules():
        if isinstance(module, SqueezeExcitation):
            channels, hidden = module.reduce.in_channels, module.reduce.out_channels
            assert hidden % 8 == 0
            assert 0.9 * channels / 4 <= hidden < channels / 4 + 8
            assert (type(module.act), type(module.gate)) == (nn.ReLU, nn.Hardsigmoid)


@pytest.mark.parametrize(("size", "last", "hidden"), [("large", 960, 1280), ("small", 576, 1024)])
def test_the_hidden_layer_comes_after_the_mean(size: str, last: int, hidden: int) -> None:
    network = ghost(size)
    assert [name for name, _ in network.head.named_children()] == [
        *("pool", "flatten", "hidden", "act", "dropout", "fc"),
    ]
    assert (network.head.hidden.in_features, network.head.hidden.out_features) == (last, hidden)


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("width", [0.5, 0.75, 1.25])
def test_any_width_has_as_many_weights_as_torchvisions(size: str, width: float) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"mobilenet_v3_{size}", width_mult=width)
    ours = ghost(size, width=width)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_timm_has_another_form() -> None:
    assert ghost("small").key_rules("timm") is None
