"""The cells of NASNet: a genotype with weights (Zoph, Vasudevan, Shlens & Le, 2017, section 3 and appendix A)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from convatlas.errors import UsageError
from convatlas.layers.drop_path import DropPath
from convatlas.layers.genotype import Genotype
from convatlas.layers.same_padding import SameAvgPool2d, SameConv2d, SameMaxPool2d

EPS = 1e-3  # of every BatchNorm, as in the authors' code

# Figure 4: the best pair of cells. Maps 0 and 1 are the outputs of the cell before the last and of the last cell.
NORMAL_A = Genotype(
    steps=(
        (("sep5", 1), ("sep3", 0)),
        (("sep5", 0), ("sep3", 0)),
        (("avg3", 1), ("same", 0)),
        (("avg3", 0), ("avg3", 0)),
        (("sep3", 1), ("same", 1)),
    ),
    concat=(0, 2, 3, 4, 5, 6),
)
REDUCTION_A = Genotype(
    steps=(
        (("sep5", 1), ("sep7", 0)),
        (("max3", 1), ("sep7", 0)),
        (("avg3", 1), ("sep5", 0)),
        (("same", 3), ("avg3", 2)),
        (("sep3", 2), ("max3", 1)),
    ),
    concat=(3, 4, 5, 6),
)


def bn(channels: int) -> nn.BatchNorm2d:
    """BatchNorm as every layer here has it."""
    return nn.BatchNorm2d(channels, eps=EPS)


def separable_twice(c_in: int, c_out: int, kernel: int, stride: int) -> OrderedDict[str, nn.Module]:
    """ReLU, separable convolution, BatchNorm, two times; the first one strides (appendix A.4)."""
    layers = OrderedDict[str, nn.Module]()
    for i, (channels, step) in enumerate(((c_in, stride), (c_out, 1)), start=1):
        depthwise = (
            SameConv2d(channels, channels, kernel, step, groups=channels, bias=False)
            if step > 1
            else nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        )
        pointwise = nn.Conv2d(channels, c_out, 1, bias=False)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"separable{i}"] = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
        layers[f"bn{i}"] = bn(c_out)
    return layers


def operation(name: str, c_in: int, c_out: int, stride: int, *, count_padding: bool = False) -> nn.Module:
    """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride), the operation of that name.

    Separable convolutions ("sep3", "sep5", "sep7") and pools ("avg3", "max3") are followed by drop-path, which starts
    at 0; "same" is the identity. Raises `UsageError` for another name, or a pool that would change channels.
    """
    kind, side = name[:3], name[3:]
    if name != "same" and (kind not in ("sep", "avg", "max") or side not in ("3", "5", "7")):
        raise UsageError(
            f"the operation {name!r} is not known; same, sep, avg and max with a side of 3, 5 or 7 are."
        )
    if kind != "sep" and (c_in != c_out or (name == "same" and stride != 1)):
        raise UsageError(f"{name!r} cannot turn {c_in} channels into {c_out} with stride {stride}.")
    if name == "same":
        return nn.Identity()
    kernel = int(side)
    if kind == "sep":
        layers = separable_twice(c_in, c_out, kernel, stride)
    elif kind == "max":
        layers = OrderedDict[str, nn.Module](pool=SameMaxPool2d(kernel, stride))
    elif stride == 1:
        layers = OrderedDict[str, nn.Module](
            pool=nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
        )
    else:
        layers = OrderedDict[str, nn.Module](pool=SameAvgPool2d(kernel, stride, count_padding=count_padding))
    layers["drop"] = DropPath(0.0)
    return nn.Sequential(layers)


def project(c_in: int, c_out: int) -> nn.Sequential:
    """ReLU, 1x1 convolution, BatchNorm: (N, c_in, H, W) -> (N, c_out, H, W)."""
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=conv, bn=bn(c_out)))


class FactorizedReduction(nn.Module):
    """Halve a map without losing pixels: every second one, and every second one of the map shifted by one pixel.

    (N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2)); each half gives half of the channels.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.path1 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.path2 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.path_bn = bn(c_out // 2 * 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, ceil(H / 2), ceil(W / 2))."""
        x = self.relu(x)
        shifted = pad(x, (-1, 1, -1, 1))
        halves = self.path1(x[:, :, ::2, ::2]), self.path2(shifted[:, :, ::2, ::2])
        return self.path_bn(torch.cat(halves, dim=1))


class Cell(nn.Module):
    """A genotype with weights: two maps -> (N, len(concat) * C, H / stride, W / stride).

    Args:
        genotype: the graph.
        c_previous: channels of the output of the cell before the last.
        c_current: channels of the last cell's output.
        channels: C, of every map in the cell.
        stride: 2 in a reduction cell, for the branches that read the cell's inputs.
        previous: how the older input is made to fit: "project", by a 1x1 convolution; "halve", where it has twice the
            resolution; "as it is" in the first stem cell, whose inputs are the same map.
        count_padding: for strided mean-pooling.
    """

    def __init__(
        self,
        genotype: Genotype,
        c_previous: int,
        c_current: int,
        channels: int,
        *,
        stride: int = 1,
        previous: str = "project",
        count_padding: bool = False,
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.prev: nn.Module = nn.Identity()
        if previous != "as it is":
            fit = FactorizedReduction if previous == "halve" else project
            self.prev = fit(c_previous, channels)
        self.cur = project(c_current, channels)
        widths = [
            c_previous if previous == "as it is" else channels,
            *(channels,) * (1 + len(genotype.steps)),
        ]
        self.steps = nn.ModuleList()
        for left, right in genotype.steps:
            branches = {
                side: operation(
                    name, widths[source], channels, stride if source < 2 else 1, count_padding=count_padding
                )
                for side, (name, source) in (("left", left), ("right", right))
            }
            self.steps.append(nn.ModuleDict(branches))

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """(N, c_current, H, W) and the older map -> (N, len(concat) * C, H / stride, W / stride)."""
        maps = [self.prev(previous), self.cur(current)]
        for step, ((_, left), (_, right)) in zip(self.steps, self.genotype.steps, strict=True):
            branches = dict(step.named_children())
            maps.append(branches["left"](maps[left]) + branches["right"](maps[right]))
        return torch.cat([maps[i] for i in self.genotype.concat], dim=1)
