"""Depthwise separable convolutions: what they compute, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.separable import depthwise_separable
from convatlas.measure import measure


@pytest.mark.parametrize(("c_out", "kernel"), [(16, 3), (64, 3), (24, 5)])
def test_a_separable_convolution_costs_one_over_n_and_one_over_k_squared(c_out: int, kernel: int) -> None:
    full = measure(conv_bn(16, c_out, kernel), (16, 14, 14)).macs
    separable = measure(depthwise_separable(16, c_out, kernel), (16, 14, 14)).macs
    assert separable / full == pytest.approx(1 / c_out + 1 / kernel**2)


def test_a_separable_convolution_filters_then_combines() -> None:
    torch.manual_seed(0)
    layer = depthwise_separable(4, 6, stride=2, act=nn.Identity).double().eval()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    filters, mixing = layer.depthwise.conv.weight, layer.pointwise.conv.weight[:, :, 0, 0]
    filtered = torch.stack(
        [
            nn.functional.conv2d(x[:, c : c + 1], filters[c : c + 1], stride=2, padding=1)[:, 0]
            for c in range(4)
        ],
        1,
    )
    expected = torch.einsum("oc,nchw->nohw", mixing, filtered) / (
        1 + 1e-5
    )  # two BatchNorms, first statistics
    torch.testing.assert_close(layer(x), expected)
    assert "act" in dict(depthwise_separable(4, 6).pointwise.named_children())
    assert "act" not in dict(depthwise_separable(4, 6, linear=True).pointwise.named_children())
