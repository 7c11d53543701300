"""BN-Inception: figure 5 row by row, halving in all branches, biases that BatchNorm takes away."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.models import create_model
from convatlas.models.bn_inception import FIGURE_5, module
from convatlas.models.classifier import Classifier

# Figure 5: output channels and pixels of each module, then the channels of its convolutions in the order of the rows.
ROWS = {
    "3a": (256, 28, "64 | 64 64 | 64 96 96 | avg 32"),
    "3b": (320, 28, "64 | 64 96 | 64 96 96 | avg 64"),
    "3c": (576, 14, "128 160 | 64 96 96 | max"),
    "4a": (576, 14, "224 | 64 96 | 96 128 128 | avg 128"),
    "4b": (576, 14, "192 | 96 128 | 96 128 128 | avg 128"),
    "4c": (576, 14, "160 | 128 160 | 128 160 160 | avg 96"),
    "4d": (576, 14, "96 | 128 192 | 160 192 192 | avg 96"),
    "4e": (1024, 7, "128 192 | 192 256 256 | max"),
    "5a": (1024, 7, "352 | 192 320 | 160 224 224 | avg 128"),
    "5b": (1024, 7, "352 | 192 320 | 192 224 224 | max 128"),
}


def described(branches: nn.Module) -> str:
    texts: list[str] = []
    for branch in branches.children():
        words: list[str] = []
        for layer in branch.modules():
            if isinstance(layer, nn.Conv2d):
                words.append(str(layer.out_channels))
            elif isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)):
                words.append("avg" if isinstance(layer, nn.AvgPool2d) else "max")
        texts.append(" ".join(words))
    return " | ".join(texts)


def test_modules_and_maps_of_figure_5() -> None:
    with torch.device("meta"):
        network = create_model("bn_inception_paper")
        assert isinstance(network, Classifier)
        outputs = dict(network.run_features(torch.empty(1, 3, 224, 224)))
    for name, (channels, side, text) in ROWS.items():
        assert described(network.features.get_submodule(f"inception{name}")) == text
        assert outputs[f"inception{name}"].shape == (1, channels, side, side)


def test_two_modules_of_the_released_form_are_wider() -> None:
    with torch.device("meta"):
        features = create_model("bn_inception").features
    for name, (_, _, text) in ROWS.items():
        wider = text.replace("avg 96", "avg 128") if name in ("4c", "4d") else text
        assert described(features.get_submodule(f"inception{name}")) == wider


def test_no_kernel_is_5x5() -> None:
    with torch.device("meta"):
        modules = list(create_model("bn_inception_paper").modules())
    sizes = [m.kernel_size for m in modules if isinstance(m, nn.Conv2d)]
    assert set(sizes) == {(1, 1), (3, 3), (7, 7)}
    assert sizes.count((7, 7)) == 1


def test_separable_convolution_has_eight_kernels_a_channel() -> None:
    """24 kernels of 7x7 and a 1x1 convolution: the 2.7K weights and 34M operations of GoogLeNet's table 1."""
    with torch.device("meta"):
        first = create_model("bn_inception_paper").get_submodule("features.conv1")
    weights = [m.weight for m in first.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(w.shape) for w in weights] == [(24, 1, 7, 7), (64, 24, 1, 1)]
    assert sum(w.numel() for w in weights) == 2712
    assert 2712 * 112 * 112 == 34_019_328


@pytest.mark.parametrize("side", [7, 8, 1])
def test_branches_that_halve_fit_together_at_any_size(side: int) -> None:
    halving = module(8, FIGURE_5["3c"]).eval()
    assert halving(torch.randn(1, 8, side, side)).shape == (1, 160 + 96 + 8, (side + 1) // 2, (side + 1) // 2)


def test_batch_norm_takes_the_biases_away() -> None:
    """Section 3.2: in training mode the biases before it have no effect."""
    torch.manual_seed(0)
    network = create_model("bn_inception", num_classes=3).double().train()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = network(x)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                layer.bias.normal_()
        torch.testing.assert_close(network(x), before)


def test_dropout_is_left_out() -> None:
    with torch.device("meta"):
        assert not [m for m in create_model("bn_inception_paper").modules() if isinstance(m, nn.Dropout)]
        rates = [
            m.p for m in create_model("bn_inception", dropout=0.2).modules() if isinstance(m, nn.Dropout)
        ]
    assert rates == [0.2]


@pytest.mark.parametrize("name", ["bn_inception", "bn_inception_paper"])
def test_an_image_of_32_pixels_trains(name: str) -> None:
    logits = create_model(name, num_classes=3).train()(torch.randn(4, 3, 32, 32))
    assert torch.isfinite(logits).all()
