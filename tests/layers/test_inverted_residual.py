"""Inverted residuals against their equation, and their names in timm."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from convatlas.layers.drop_path import DropPath
from convatlas.layers.inverted_residual import InvertedResidual, timm_rules


def test_inverted_residual_is_expand_filter_weigh_project_and_add() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, expanded=48, kernel=5, squeezed=2, act=nn.SiLU).double().eval()
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    conv, silu, scale = nn.functional.conv2d, nn.functional.silu, (1 + 1e-5) ** -0.5
    y = silu(conv(x, block.residual.expand.conv.weight) * scale)
    y = silu(conv(y, block.residual.depthwise.conv.weight, padding=2, groups=48) * scale)
    se = block.residual.se
    hidden = torch.relu(conv(y.mean((2, 3), keepdim=True), se.reduce.weight, se.reduce.bias))
    y = y * torch.sigmoid(conv(hidden, se.expand.weight, se.expand.bias))
    torch.testing.assert_close(block(x), x + conv(y, block.residual.project.conv.weight) * scale)


@pytest.mark.parametrize(
    ("c_out", "expanded", "stride", "layers", "adds"),
    [
        (8, 8, 1, ["depthwise", "project", "drop_path"], True),
        (8, 48, 1, ["expand", "depthwise", "project", "drop_path"], True),
        (8, 48, 2, ["expand", "depthwise", "project"], False),
        (16, 48, 1, ["expand", "depthwise", "project"], False),
    ],
)
def test_when_a_block_expands_adds_and_drops(
    c_out: int, expanded: int, stride: int, layers: list[str], adds: bool
) -> None:
    block = InvertedResidual(8, c_out, expanded=expanded, stride=stride, drop_path=0.5)
    assert [name for name, _ in block.residual.named_children()] == layers
    assert block.adds is adds
    assert block(torch.zeros(2, 8, 6, 6)).shape == (2, c_out, 6 // stride, 6 // stride)


def test_a_dropped_path_leaves_the_input() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(4, 4, expanded=8, drop_path=0.5)
    x = torch.randn(64, 4, 3, 3)
    same = (block(x) == x).flatten(1).all(1)
    assert 16 < int(same.sum()) < 48
    assert isinstance(block.residual.drop_path, DropPath)


def test_names_of_timm_depend_on_whether_a_block_expands() -> None:
    names = {
        "features.stage1.0.residual.depthwise.bn.weight": "blocks.0.0.bn1.weight",
        "features.stage1.0.residual.project.conv.weight": "blocks.0.0.conv_pw.weight",
        "features.stage3.2.residual.depthwise.bn.weight": "blocks.2.2.bn2.weight",
        "features.stage3.2.residual.project.conv.weight": "blocks.2.2.conv_pwl.weight",
        "features.stage3.2.residual.se.expand.bias": "blocks.2.2.se.conv_expand.bias",
        "features.last.conv.weight": "conv_head.weight",
    }
    for ours, theirs in names.items():
        for pattern, replacement in timm_rules(without_expansion="1"):
            ours = re.sub(pattern, replacement, ours)
        assert ours == theirs
