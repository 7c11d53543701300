"""Paths side by side, the idea of Inception: look at one map at several scales, and let the next layer choose.

A branch is a chain of convolutions, written as rows (channels, kernel). The modules of the Inception papers are such
branches beside a pooled one; so each module of theirs is a few rows here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convatlas.layers.conv import Size, conv_bn

Unit = Callable[
    ..., nn.Module
]  # (c_in, c_out, kernel, stride, padding=) -> a convolution with what follows it


class Branches(nn.Module):
    """Named branches of one input, their outputs concatenated in order.

    (N, c_in, H, W) -> (N, sum of the branches' channels, h, w)
    """

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, sum of the branches' channels, h, w)."""
        return torch.cat([branch(x) for branch in self.children()], 1)


class Fork(NamedTuple):
    """The end of a chain: a 1x3 and a 3x1 convolution side by side, each with so many channels."""

    channels: int


Chain = Sequence[tuple[int, Size] | Fork]


def chain(
    c_in: int, layers: Chain, *, stride: int = 1, padding: int | None = None, unit: Unit = conv_bn
) -> nn.Sequential:
    """Convolutions (channels, kernel) one after another; stride and padding are the last one's.

    (N, c_in, H, W) -> (N, last channels, H / stride, W / stride)
    """
    units: list[nn.Module] = []
    for i, layer in enumerate(layers, start=1):
        if isinstance(layer, Fork):
            pair = {"1x3": unit(c_in, layer.channels, (1, 3)), "3x1": unit(c_in, layer.channels, (3, 1))}
            units.append(Branches(pair))
            c_in = 2 * layer.channels
            continue
        c_out, kernel = layer
        last = i == len(layers)
        units.append(unit(c_in, c_out, kernel, stride if last else 1, padding=padding if last else None))
        c_in = c_out
    return nn.Sequential(*units)


def inception(
    c_in: int, chains: Mapping[str, Chain], *, pool: nn.Module, pooled: int, unit: Unit = conv_bn
) -> Branches:
    """Chains, and beside them `pool` with a 1x1 convolution to `pooled` channels after it.

    (N, c_in, H, W) -> (N, sum of the branches' channels, H, W)
    """
    branches = OrderedDict[str, nn.Module](
        {name: chain(c_in, layers, unit=unit) for name, layers in chains.items()}
    )
    branches["pool"] = nn.Sequential(pool, unit(c_in, pooled))
    return Branches(branches)


def reduction(c_in: int, chains: Mapping[str, Chain], *, padding: int = 0, unit: Unit = conv_bn) -> Branches:
    """Chains that end with stride 2, and beside them max-pooling: half the resolution without a bottleneck.

    (N, c_in, H, W) -> (N, sum of the chains' channels + c_in, H / 2, W / 2)

    Source: Szegedy et al., "Rethinking the Inception Architecture", 2015, section 5.
    """
    branches = OrderedDict[str, nn.Module](
        {name: chain(c_in, layers, stride=2, padding=padding, unit=unit) for name, layers in chains.items()}
    )
    branches["pool"] = nn.MaxPool2d(3, stride=2, padding=padding)
    return Branches(branches)
