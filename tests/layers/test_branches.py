"""Branches, chains and forks against their definitions; reductions halve in every branch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers.branches import Branches, Fork, chain, inception, reduction


def kernels(module: nn.Module) -> list[tuple[int, ...]]:
    return [layer.weight.shape for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_branches_are_concatenated_in_order() -> None:
    branches = Branches({"b": nn.Identity(), "a": nn.ReLU()})
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(branches(x), torch.cat([x, x.relu()], 1))


def test_chain_carries_its_channels() -> None:
    assert kernels(chain(3, [(4, 1), (5, (1, 7)), (6, (7, 1))])) == [(4, 3, 1, 1), (5, 4, 1, 7), (6, 5, 7, 1)]


@pytest.mark.parametrize(("stride", "padding", "side"), [(1, None, 9), (1, 0, 7), (2, None, 5), (2, 0, 4)])
def test_stride_and_padding_are_the_last_ones(stride: int, padding: int | None, side: int) -> None:
    layers = chain(3, [(4, 3), (5, 3)], stride=stride, padding=padding).eval()
    assert layers[0](torch.randn(1, 3, 9, 9)).shape == (1, 4, 9, 9)
    assert layers(torch.randn(1, 3, 9, 9)).shape == (1, 5, side, side)


def test_fork_ends_a_chain_with_both_factors() -> None:
    layers = chain(3, [(4, 1), Fork(5)]).eval()
    assert kernels(layers) == [(4, 3, 1, 1), (5, 4, 1, 3), (5, 4, 3, 1)]
    x = torch.randn(1, 3, 6, 6)
    both = [layers[1].get_submodule(name)(layers[0](x)) for name in ("1x3", "3x1")]
    torch.testing.assert_close(layers(x), torch.cat(both, 1))


def test_chain_goes_on_after_a_fork() -> None:
    assert kernels(chain(3, [Fork(4), (5, 1)]))[-1] == (5, 8, 1, 1)


def test_inception_keeps_the_resolution_and_adds_a_pooled_branch() -> None:
    module = inception(
        6, {"1x1": [(2, 1)], "3x3": [(1, 1), (3, 3)]}, pool=nn.AvgPool2d(3, 1, 1), pooled=4
    ).eval()
    assert [name for name, _ in module.named_children()] == ["1x1", "3x3", "pool"]
    assert module(torch.randn(1, 6, 5, 5)).shape == (1, 2 + 3 + 4, 5, 5)


@pytest.mark.parametrize(("padding", "side"), [(0, 3), (1, 4)])
def test_reduction_passes_pooled_channels_through(padding: int, side: int) -> None:
    module = reduction(6, {"3x3": [(2, 3)], "double3x3": [(1, 1), (3, 3), (3, 3)]}, padding=padding).eval()
    x = torch.randn(1, 6, 7, 7)
    y = module(x)
    assert y.shape == (1, 2 + 3 + 6, side, side)
    assert torch.equal(y[:, 5:], nn.functional.max_pool2d(x, 3, 2, padding))
