"""EfficientNet: table 1, where it squeezes and drops, any scaling, and the scaling ablation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.efficientnet import EfficientNet as Theirs
from torchvision.models.efficientnet import _efficientnet_conf

from convatlas.errors import UsageError
from convatlas.layers.drop_path import DropPath
from convatlas.layers.inverted_residual import InvertedResidual
from convatlas.layers.scaling import Scaling, compound
from convatlas.measure import measure
from convatlas.models import create_model, find
from convatlas.models.efficientnet import efficientnet

# Table 1 as the lecture prints it: operator, resolution of its input, channels, layers.
TABLE = """Conv3x3 224 32 1 | MBConv1 k3 112 16 1 | MBConv6 k3 112 24 2 | MBConv6 k5 56 40 2 | MBConv6 k3 28 80 3
    | MBConv6 k5 14 112 3 | MBConv6 k5 14 192 4 | MBConv6 k3 7 320 1 | Conv1x1 7 1280 1"""


def ghost(name: str = "efficientnet_b0", **settings: float) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **settings).eval()


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def macs(name: str) -> int:
    spec = find(name)
    return measure(ghost(name), (3, spec.image, spec.image)).macs


def test_stages_of_table_1() -> None:
    network, found, side = ghost(), [], 224
    for name, output in network.run_features(torch.empty(1, 3, 224, 224, device="meta")):
        stage = network.features.get_submodule(name)
        if name in ("stem", "last"):
            kernel, layers = stage.conv.kernel_size[0], 1
            operator = f"Conv{kernel}x{kernel}"
        else:
            last, layers = stage[-1].residual, len(stage)
            expansion = (
                last.depthwise.conv.in_channels // last.expand.conv.in_channels if layers > 1 else None
            )
            first = stage[0].residual
            inputs = (
                first.expand.conv.in_channels
                if hasattr(first, "expand")
                else first.depthwise.conv.in_channels
            )
            expansion = expansion or first.depthwise.conv.in_channels // inputs
            operator = f"MBConv{expansion} k{first.depthwise.conv.kernel_size[0]}"
        found.append(f"{operator} {side} {output.shape[1]} {layers}")
        side = output.shape[2]
    assert found == [" ".join(line.split()) for line in TABLE.split("|")]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3"])
def test_squeezed_to_a_quarter_of_the_blocks_input(name: str) -> None:
    for block in ghost(name).modules():
        if isinstance(block, InvertedResidual):
            first = next(block.residual.children())
            assert block.residual.se.reduce.out_channels == first.conv.in_channels // 4
            assert isinstance(block.residual.se.act, nn.SiLU)
            assert isinstance(block.residual.se.gate, nn.Sigmoid)


def test_paths_are_dropped_more_often_the_deeper_they_lie() -> None:
    blocks = [m for m in ghost(drop_path=0.32).modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 16
    dropped = {i: b.residual.drop_path.p for i, b in enumerate(blocks) if hasattr(b.residual, "drop_path")}
    assert dropped == pytest.approx({i: 0.02 * i for i, block in enumerate(blocks) if block.adds})
    assert not any(isinstance(m, DropPath) for m in ghost(drop_path=0).modules())


@pytest.mark.parametrize(("width", "depth"), [(0.5, 1.0), (1.3, 1.7), (1.0, 0.4), (2.5, 3.6)])
def test_any_scaling_has_as_many_weights_as_torchvisions(width: float, depth: float) -> None:
    rows, _ = _efficientnet_conf("efficientnet_b0", width_mult=width, depth_mult=depth)
    with torch.device("meta"):
        theirs = Theirs(rows, 0.2)
    assert weights(ghost(width=width, depth=depth)) == weights(theirs)


def test_b3_is_b0_scaled() -> None:
    assert weights(ghost(width=1.2, depth=1.4)) == weights(ghost("efficientnet_b3"))
    with torch.device("meta"):
        network, side = efficientnet(1.2, 1.4, 300 / 224, num_classes=7)
    assert side == 300
    assert network.num_classes == 7
    assert network.stages == ghost("efficientnet_b3").stages


def test_b0_is_phi_0() -> None:
    with torch.device("meta"):
        network, side = efficientnet(**compound(0)._asdict())
    assert (weights(network), side) == (5_288_548, 224)


def test_costs_follow_the_law_up_to_rounding() -> None:
    """Depth times width squared times resolution squared. Depths are rounded up, which weighs less in deep networks."""
    excess: list[float] = []
    for i in range(1, 8):
        spec = find(f"efficientnet_b{i}")
        settings = spec.build.keywords
        law = Scaling(settings["depth"], settings["width"], spec.image / 224)
        excess.append(macs(spec.name) / macs("efficientnet_b0") / law.macs)
    assert min(excess) > 1
    assert max(excess) == excess[0] < 1.42
    assert min(excess) == pytest.approx(1.08, abs=0.03)


def test_four_ways_to_spend_about_four_times_as_much() -> None:
    """The paper prints 1.8 to 1.9 billion for each beside 0.4 for B0; four times as many pixels are four times it."""
    base, names = macs("efficientnet_b0"), ("d4", "w2", "r2", "compound")
    ratio = {name: macs(f"efficientnet_b0_{name}") / base for name in names}
    assert ratio == pytest.approx({"d4": 4.08, "w2": 3.76, "r2": 3.99, "compound": 4.67}, abs=0.01)
    assert [find(f"efficientnet_b0_{name}").image for name in names] == [224, 224, 448, 291]


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": -1.0}])
def test_scalings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a factor larger than 0"):
        create_model("efficientnet_b0", **wrong)
