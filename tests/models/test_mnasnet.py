"""MnasNet-B1: its stages, the separable stage without a shortcut, widths, BatchNorm's memory."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from convatlas.models import create_model


def ghost(**settings: float) -> nn.Module:
    with torch.device("meta"):
        return create_model("mnasnet1_0", **settings).eval()


def test_stages_of_b1() -> None:
    """(expansion, kernel, channels, blocks, side of the output) for images of 224."""
    network, found = ghost(), []
    for name, output in network.run_features(torch.empty(1, 3, 224, 224, device="meta")):
        if name.startswith("stage") and name != "stage1":
            blocks = list(network.features.get_submodule(name))
            depthwise = blocks[0].residual.depthwise.conv
            expansion = depthwise.in_channels // blocks[0].residual.expand.conv.in_channels
            found.append((expansion, depthwise.kernel_size[0], output.shape[1], len(blocks), output.shape[2]))
    assert found == [
        (3, 3, 24, 3, 56),
        (3, 5, 40, 3, 28),
        (6, 5, 80, 3, 14),
        (6, 3, 96, 2, 14),
        (6, 5, 192, 4, 7),
        (6, 3, 320, 1, 7),
    ]


def test_the_first_stage_has_no_shortcut_at_any_width() -> None:
    """At a quarter of the width its input and output have eight channels both."""
    torch.manual_seed(0)
    network = create_model("mnasnet1_0", width=0.25).eval()
    stage, x = network.features.stage1, torch.randn(1, 8, 6, 6)
    assert stage(x).shape == x.shape
    torch.testing.assert_close(stage(x), stage[0].pointwise(stage[0].depthwise(x)))
    assert "act" not in dict(stage[0].pointwise.named_children())


@pytest.mark.parametrize("width", [0.25, 0.35, 1.4])
def test_any_width_has_as_many_weights_as_torchvisions(width: float) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.MNASNet(width)
    assert sum(p.numel() for p in ghost(width=width).parameters()) == sum(
        p.numel() for p in theirs.parameters()
    )


def test_the_papers_memory_is_a_setting() -> None:
    for momentum in (0.1, 3e-4):
        norms = [m for m in ghost(momentum=momentum).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {momentum}
