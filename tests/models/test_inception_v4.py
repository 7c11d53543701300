"""Inception v4 and Inception-ResNet-v2: the modules of the figures, residuals by hand, sizes, timm's names."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from convatlas.models import create_model, find
from convatlas.models.classifier import Classifier
from convatlas.models.inception_resnet_v2 import ResidualInception, block_17
from convatlas.models.inception_v4 import module_a, module_b, module_c, reduction_a, reduction_b

# Channels and pixels after each kind of module (figure 9), with those inside the stem (figure 3).
V4 = {
    "conv1a": (32, 149),
    "conv2a": (32, 147),
    "conv2b": (64, 147),
    "mixed3a": (160, 73),
    "mixed4a": (192, 71),
    "mixed5a": (384, 35),
    "mixed5e": (384, 35),
    "mixed6a": (1024, 17),
    "mixed6h": (1024, 17),
    "mixed7a": (1536, 8),
    "mixed7d": (1536, 8),
}
RESNET_V2 = {
    "conv4a": (192, 71),
    "mixed5b": (320, 35),
    "block35": (320, 35),
    "mixed6a": (1088, 17),
    "block17": (1088, 17),
    "mixed7a": (2080, 8),
    "block8": (2080, 8),
    "conv7b": (1536, 8),
}


@pytest.mark.parametrize(("name", "expected"), [("inception_v4", V4), ("inception_resnet_v2", RESNET_V2)])
def test_maps(name: str, expected: dict[str, tuple[int, int]]) -> None:
    with torch.device("meta"):
        network = create_model(name)
        assert isinstance(network, Classifier)
        found = {child: tuple(x.shape[1:]) for child, x in network.run_features(torch.empty(1, 3, 299, 299))}
    assert {child: found[child] for child in expected} == {
        child: (channels, side, side) for child, (channels, side) in expected.items()
    }


def described(branches: nn.Module) -> list[str]:
    """Each branch as the figures write it: "1x1 (192), 1x7 (224), 7x1 (256)"."""
    return [
        ", ".join(
            f"{layer.kernel_size[0]}x{layer.kernel_size[1]} ({layer.out_channels})"
            for layer in branch.modules()
            if isinstance(layer, nn.Conv2d)
        )
        for branch in branches.children()
    ]


def test_figures_4_to_8() -> None:
    assert described(module_a()) == [
        "1x1 (96)",
        "1x1 (64), 3x3 (96)",
        "1x1 (64), 3x3 (96), 3x3 (96)",
        "1x1 (96)",
    ]
    assert described(module_b()) == [
        "1x1 (384)",
        "1x1 (192), 1x7 (224), 7x1 (256)",
        "1x1 (192), 7x1 (192), 1x7 (224), 7x1 (224), 1x7 (256)",
        "1x1 (128)",
    ]
    assert described(module_c()) == [
        "1x1 (256)",
        "1x1 (384), 1x3 (256), 3x1 (256)",
        "1x1 (384), 3x1 (448), 1x3 (512), 1x3 (256), 3x1 (256)",
        "1x1 (256)",
    ]
    assert described(reduction_a()) == ["3x3 (384)", "1x1 (192), 3x3 (224), 3x3 (256)", ""]
    assert described(reduction_b()) == [
        "1x1 (192), 3x3 (192)",
        "1x1 (256), 1x7 (256), 7x1 (320), 3x3 (320)",
        "",
    ]


def test_four_seven_and_three_modules_alike() -> None:
    with torch.device("meta"):
        features = create_model("inception_v4").features
    kinds = [" | ".join(described(child)) for name, child in features.named_children() if name[-1] != "a"]
    expected = [(module_a, 4), (module_b, 7), (module_c, 3)]
    assert kinds[1:] == [" | ".join(described(make())) for make, count in expected for _ in range(count)]


def test_means_leave_the_padding_out() -> None:
    """A constant map stays constant to its border."""
    with torch.device("meta"):
        networks = [create_model(name) for name in ("inception_v4", "inception_resnet_v2")]
    for network in networks:
        pools = [m for m in network.features.modules() if isinstance(m, nn.AvgPool2d)]
        assert pools
        for pool in pools:
            torch.testing.assert_close(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("act", [True, False])
def test_residual_is_scaled_before_it_is_added(act: bool) -> None:
    torch.manual_seed(0)
    block = (
        ResidualInception(8, {"1x1": [(3, 1)], "3x3": [(2, 1), (4, 3)]}, scale=0.2, act=act).double().eval()
    )
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    shrink = 1 / (1 + 1e-3) ** 0.5  # BatchNorm with its first statistics

    def unit(y: torch.Tensor, path: str) -> torch.Tensor:
        weight = block.branches.get_submodule(f"{path}.conv").weight
        return torch.relu(nn.functional.conv2d(y, weight, padding=weight.shape[2] // 2) * shrink)

    merged = torch.cat([unit(x, "1x1.0"), unit(unit(x, "3x3.0"), "3x3.1")], 1)
    added = nn.functional.conv2d(merged, block.merge.weight, block.merge.bias)
    expected = x + 0.2 * added
    torch.testing.assert_close(block(x), torch.relu(expected) if act else expected)


def test_scales_and_depths_of_the_released_network() -> None:
    with torch.device("meta"):
        network = create_model("inception_resnet_v2")
        small = create_model("inception_resnet_v2", depths=(1, 2, 3), scales=(0.1, 0.2, 0.3))
    for net, scales in (
        (network, [0.17] * 10 + [0.1] * 20 + [0.2] * 9 + [1.0]),
        (small, [0.1, 0.2, 0.2, 0.3, 0.3, 1.0]),
    ):
        blocks = [m for m in net.modules() if isinstance(m, ResidualInception)]
        assert [block.scale for block in blocks] == scales
        assert [block.act is None for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_smaller_scales_keep_the_signal_from_growing() -> None:
    """Section 3.3: twenty residuals at 17x17 pixels, added as they are or scaled by a tenth."""
    torch.manual_seed(0)
    x = torch.rand(2, 1088, 3, 3)
    with torch.no_grad():
        full, scaled = (nn.Sequential(*(block_17(scale=s) for _ in range(20)))(x).std() for s in (1.0, 0.1))
    assert scaled < full / 2


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_names_become_timms_one_to_one(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name)
    assert isinstance(ours, Classifier)
    assert ours.key_rules("torchvision") is None
    renamed: dict[str, torch.Size] = {}
    for key, tensor in ours.state_dict().items():
        for pattern, replacement in ours.key_rules("timm") or []:
            key = re.sub(pattern, replacement, key)
        assert key not in renamed
        renamed[key] = tensor.shape
    assert renamed == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_smallest_image(name: str) -> None:
    side = find(name).smallest
    with torch.device("meta"):
        network = create_model(name).train()
        network(torch.empty(4, 3, side, side))
        with pytest.raises(RuntimeError):
            network(torch.empty(4, 3, side - 1, side - 1))
