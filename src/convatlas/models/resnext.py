"""ResNeXt: width, depth, and the number of paths (Xie, Girshick, Dollár, Tu & He, 2016).

A bottleneck is split into C paths of d channels that all do the same: split, transform, merge. At an equal cost, more
paths give better networks than more channels or more layers. C paths side by side are one grouped convolution, so a
variant is ResNet with two more numbers, the cardinality C and the width d of a path ("32x4d").

Figure 3 shows three forms of the residual that compute the same function; `concatenated`, `grouped` and `split` carry
weights from each to the next, so that any network can have its blocks rewritten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from convatlas.models.resnet import Conv, ResNet, make_residual
from convatlas.registry import Paper, Published, register


class Path(nn.Sequential):
    """One of C transformations: 1x1 to d channels, then 3x3: (N, c_in, H, W) -> (N, d, H / stride, W / stride)."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        layers = OrderedDict[str, nn.Module]()
        for i, conv in enumerate((Conv(c_in, width), Conv(width, width, 3, stride)), start=1):
            layers[f"conv{i}"] = conv.layer()
            layers[f"bn{i}"] = nn.BatchNorm2d(width)
            layers[f"relu{i}"] = nn.ReLU()
        super().__init__(layers)


class SplitTransformMerge(nn.Module):
    """Form (a): every path has a 1x1 convolution to all output channels, and their results are added (equation 2).

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)
    """

    def __init__(self, c_in: int, c_out: int, *, cardinality: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.paths = nn.ModuleList(Path(c_in, width, stride) for _ in range(cardinality))
        self.merge = nn.ModuleList(Conv(width, c_out).layer() for _ in range(cardinality))
        self.bn3 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        merged = [merge(path(x)) for path, merge in zip(self.paths, self.merge, strict=True)]
        return self.bn3(torch.stack(merged).sum(0))


class Concatenated(nn.Module):
    """Form (b): the paths' channels are concatenated, and one 1x1 convolution follows, as in Inception-ResNet.

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)
    """

    def __init__(self, c_in: int, c_out: int, *, cardinality: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.paths = nn.ModuleList(Path(c_in, width, stride) for _ in range(cardinality))
        self.conv3 = Conv(cardinality * width, c_out).layer()
        self.bn3 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        return self.bn3(self.conv3(torch.cat([path(x) for path in self.paths], 1)))


@torch.no_grad()
def concatenated(residual: SplitTransformMerge) -> Concatenated:
    """Form (b) with the weights of form (a): merging is one convolution, its input channels path by path."""
    first, last = residual.paths[0], residual.merge
    conv1, conv2 = _convs(first)
    form = Concatenated(
        conv1.in_channels,
        residual.bn3.num_features,
        cardinality=len(last),
        width=conv1.out_channels,
        stride=conv2.stride[0],
    )
    form.to(conv1.weight).train(residual.training)
    form.paths.load_state_dict(residual.paths.state_dict())
    form.conv3.weight.copy_(torch.cat([cast(Tensor, merge.weight) for merge in last], 1))
    form.bn3.load_state_dict(residual.bn3.state_dict())
    return form


@torch.no_grad()
def grouped(residual: Concatenated) -> nn.Sequential:
    """Form (c), the residual of a `Block`, with the weights of form (b): the paths are groups of channels."""
    conv1, conv2 = _convs(residual.paths[0])
    paths, inner = len(residual.paths), residual.conv3.in_channels
    convs = (
        Conv(conv1.in_channels, inner),
        Conv(inner, inner, 3, conv2.stride[0], paths),
        Conv(inner, residual.conv3.out_channels),
    )
    form = make_residual(convs).to(conv1.weight).train(residual.training)
    states = [path.state_dict() for path in residual.paths]
    joined = {
        name: torch.cat([state[name] for state in states])
        if first.ndim
        else first  # BatchNorm's count of batches
        for name, first in states[0].items()
    }
    joined |= residual.conv3.state_dict(prefix="conv3.") | residual.bn3.state_dict(prefix="bn3.")
    form.load_state_dict(joined)
    return form


@torch.no_grad()
def split(residual: nn.Sequential) -> SplitTransformMerge:
    """Form (a) with the weights of form (c), the residual of a `Block`."""
    conv1, conv2 = _convs(residual)
    conv3 = cast(nn.Conv2d, residual.get_submodule("conv3"))
    paths, width = conv2.groups, conv2.out_channels // conv2.groups
    form = SplitTransformMerge(
        conv1.in_channels, conv3.out_channels, cardinality=paths, width=width, stride=conv2.stride[0]
    )
    form.to(conv1.weight).train(residual.training)
    state = residual.state_dict()
    for i, (path, merge) in enumerate(zip(form.paths, form.merge, strict=True)):
        own = slice(i * width, (i + 1) * width)
        path.load_state_dict(
            {name: state[name][own] if state[name].ndim else state[name] for name in path.state_dict()}
        )
        cast(Tensor, merge.weight).copy_(conv3.weight[:, own])
    form.bn3.load_state_dict(residual.get_submodule("bn3").state_dict())
    return form


def _convs(path: nn.Module) -> tuple[nn.Conv2d, nn.Conv2d]:
    return cast(nn.Conv2d, path.get_submodule("conv1")), cast(nn.Conv2d, path.get_submodule("conv2"))


PAPER = Paper(
    "Aggregated Residual Transformations for Deep Neural Networks",
    year=2016,
    authors="Xie, Girshick, Dollár, Tu, He",
    arxiv="1611.05431",
)
FIFTY, HUNDRED = (3, 4, 6, 3), (3, 4, 23, 3)

# Blocks, C, d, top-1 and top-5 errors of tables 3 and 4; and whether torchvision has the network (timm has all it has).
_ROWS: tuple[tuple[str, Sequence[int], int, int, str | None, str | None, tuple[str, ...]], ...] = (
    ("resnext50_32x4d", FIFTY, 32, 4, "22.2", None, ("torchvision", "timm")),
    ("resnext101_32x4d", HUNDRED, 32, 4, "21.2", "5.6", ("timm",)),
    ("resnext101_2x64d", HUNDRED, 2, 64, "20.7", "5.5", ()),
    ("resnext101_64x4d", HUNDRED, 64, 4, "20.4", "5.3", ("torchvision", "timm")),
    ("resnet101_1x100d", HUNDRED, 1, 100, "21.3", "5.7", ()),
    ("resnext101_32x8d", HUNDRED, 32, 8, None, None, ("torchvision", "timm")),
)
for name, depths, cardinality, group_width, top1, top5, libraries in _ROWS:
    layers = 3 * sum(depths) + 2
    fifty = depths is FIFTY
    register(
        name,
        partial(ResNet, depths, bottleneck=True, cardinality=cardinality, group_width=group_width),
        paper=PAPER,
        family="resnext",
        image=224,
        published=Published(
            params="25.0M" if fifty else None,
            macs="4.2×10^9" if fifty else None,
            top1_error_pct=top1,
            top5_error_pct=top5,
            layers=layers,
            test="ILSVRC-2012 val, one crop of 224" if top1 else None,
            source="tables 1, 3 and 4",
        ),
        summary=f"{layers} layers, C = {cardinality} and d = {group_width} in the first stage"
        + ("; later than the paper" if top1 is None else ""),
        peers=dict.fromkeys(libraries, name),
    )
