"""BN-Inception: GoogLeNet with BatchNorm, and two 3x3 convolutions for each 5x5 (Ioffe & Szegedy, 2015).

Each layer's inputs change while the layers before it learn. BatchNorm gives them mean 0 and variance 1 over the batch,
so that the learning rate can be thirty times as high; dropout and local response normalisation are no longer needed.
Two 3x3 convolutions see 5x5 pixels with fewer weights, modules that halve the resolution do it in all branches, and
most modules pool the mean. A module is a row of figure 5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from convatlas.layers.branches import Branches, Unit, inception, reduction
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


class Row(NamedTuple):
    """Channels of a module's convolutions and its kind of pooling, in the order of figure 5's columns.

    A row without 1x1 convolution halves the resolution, and its pooling passes all channels through.
    """

    one: int
    reduce3: int
    three: int
    reduce_double: int
    double: int
    pool: Literal["avg", "max"]
    pooled: int


FIGURE_5 = {
    "3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "3c": Row(0, 128, 160, 64, 96, "max", 0),
    "4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "4c": Row(160, 128, 160, 128, 160, "avg", 96),
    "4d": Row(96, 128, 192, 160, 192, "avg", 96),
    "4e": Row(0, 128, 192, 192, 256, "max", 0),
    "5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "5b": Row(352, 192, 320, 192, 224, "max", 128),
}
# The network as it was trained and published for Caffe, and copied since.
RELEASED = FIGURE_5 | {name: FIGURE_5[name]._replace(pooled=128) for name in ("4c", "4d")}


def module(c_in: int, row: Row, *, unit: Unit = conv_bn) -> Branches:
    """A row of figure 5: (N, c_in, H, W) -> (N, C, H, W), or (N, C, H / 2, W / 2) without 1x1 convolution."""
    chains = {
        "3x3": [(row.reduce3, 1), (row.three, 3)],
        "double3x3": [(row.reduce_double, 1), (row.double, 3), (row.double, 3)],
    }
    if not row.one:
        # Padded also in the pooling, so that the branches fit together for maps of odd size.
        return reduction(c_in, chains, padding=1, unit=unit)
    kind = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[row.pool]
    return inception(
        c_in,
        {"1x1": [(row.one, 1)], **chains},
        pool=kind(3, stride=1, padding=1),
        pooled=row.pooled,
        unit=unit,
    )


class BNInception(Classifier):
    """A stem of three convolutions, ten modules, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        rows: modules by name, those of a resolution with the same first sign.
        separable: the first convolution filters each channel with eight 7x7 kernels and mixes the results by a 1x1
            convolution (appendix).
        conv_bias: biases before BatchNorm, which takes them away again (section 3.2).
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        rows: Mapping[str, Row],
        *,
        separable: bool = False,
        conv_bias: bool = False,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        unit: Unit = partial(conv_bn, bias=conv_bias)
        features = OrderedDict[str, nn.Module]()
        if separable:
            depthwise = nn.Conv2d(in_channels, 8 * in_channels, 7, 2, 3, groups=in_channels, bias=False)
            mixed = unit(8 * in_channels, 64)
            features["conv1"] = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=mixed))
        else:
            features["conv1"] = unit(in_channels, 64, 7, 2)
        features["pool1"] = nn.MaxPool2d(3, stride=2, padding=1)
        features["conv2"] = nn.Sequential(OrderedDict(reduce=unit(64, 64), conv=unit(64, 192, 3)))
        features["pool2"] = nn.MaxPool2d(3, stride=2, padding=1)
        cuts = {2: Stage("conv1", 64, 2), 4: Stage("conv2", 192, 4)}  # the last output at each resolution
        channels, stride = 192, 8
        for name, row in rows.items():
            features[f"inception{name}"] = module(channels, row, unit=unit)
            channels = row.one + row.three + row.double + (row.pooled or channels)
            stride *= 1 if row.one else 2
            cuts[stride] = Stage(f"inception{name}", channels, stride)
        super().__init__(
            nn.Sequential(features),
            mean_head(channels, num_classes, dropout),
            list(cuts.values()),
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        he_normal(self)


PAPER = Paper(
    "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    year=2015,
    authors="Ioffe, Szegedy",
    arxiv="1502.03167",
)
_register = partial(register, paper=PAPER, family="bn_inception", image=224)
_register(
    "bn_inception_paper",
    partial(BNInception, FIGURE_5, separable=True),
    published=Published(
        params="13.6M",
        macs="2.0×10^9",
        top1_error_pct="25.2",
        top5_error_pct="7.82",
        test="ILSVRC-2012 val, 1-crop",
        other_errors_pct={
            "top-1, ILSVRC-2012 val, 144 crops": "21.99",
            "top-5, ILSVRC-2012 val, 144 crops": "5.82",
            "top-5, ILSVRC test, 6 networks, 144 crops": "4.82",
        },
        source="figure 4; multiply-adds: Szegedy et al., 2015 (Inception v3), table 3",
    ),
    summary="the paper's: figure 5, with a separable first convolution",
)
_register(
    "bn_inception",
    partial(BNInception, RELEASED, conv_bias=True),
    summary="the form whose weights are in use: wider pooled branches in 4c and 4d, biases before BatchNorm",
)
