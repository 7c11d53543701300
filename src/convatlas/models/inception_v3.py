"""Inception v3: large kernels in factors (Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, 2015).

A 5x5 convolution is two of 3x3, and an nxn convolution is one of 1xn and one of nx1: the same pixels are seen for fewer
weights. At 17x17 pixels n is 7; at the coarsest resolution both factors stand side by side, as wide as possible. Where
the resolution is halved, channels are added, so that nothing is squeezed. The auxiliary head has BatchNorm and acts as
a regulariser. The names of the modules are those of the released network.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from convatlas.layers.branches import Branches, Fork, Unit, inception, reduction
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

conv: Unit = partial(conv_bn, eps=1e-3)
DOUBLE_3X3 = [(64, 1), (96, 3), (96, 3)]


def stem(in_channels: int) -> OrderedDict[str, nn.Module]:
    """Five convolutions and two poolings, without padding but once: (N, in_channels, H, W) -> (N, 192, H/8, W/8).

    299 pixels become 35.
    """
    return OrderedDict[str, nn.Module](
        conv1a=conv(in_channels, 32, 3, 2, padding=0),
        conv2a=conv(32, 32, 3, padding=0),
        conv2b=conv(32, 64, 3),
        pool3a=nn.MaxPool2d(3, stride=2),
        conv3b=conv(64, 80),
        conv4a=conv(80, 192, 3, padding=0),
        pool5a=nn.MaxPool2d(3, stride=2),
    )


def mean_pool(*, count_padding: bool = True) -> nn.AvgPool2d:
    """3x3 means at every pixel; at the border the zeros of the padding count as pixels or not."""
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=count_padding)


def module_35(c_in: int, pooled: int) -> Branches:
    """At 35x35 pixels: (N, c_in, H, W) -> (N, 224 + pooled, H, W) (figure 5)."""
    chains = {"1x1": [(64, 1)], "5x5": [(48, 1), (64, 5)], "double3x3": DOUBLE_3X3}
    return inception(c_in, chains, pool=mean_pool(), pooled=pooled, unit=conv)


def module_17(c_in: int, width: int) -> Branches:
    """At 17x17 pixels, with 7x7 kernels in factors: (N, c_in, H, W) -> (N, 768, H, W) (figure 6)."""
    double = [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))]
    chains = {"1x1": [(192, 1)], "7x7": [(width, 1), (width, (1, 7)), (192, (7, 1))], "double7x7": double}
    return inception(c_in, chains, pool=mean_pool(), pooled=192, unit=conv)


def module_8(c_in: int) -> Branches:
    """At 8x8 pixels, with factors side by side: (N, c_in, H, W) -> (N, 2048, H, W) (figure 7)."""
    chains = {
        "1x1": [(320, 1)],
        "3x3": [(384, 1), Fork(384)],
        "double3x3": [(448, 1), (384, 3), Fork(384)],
    }
    return inception(c_in, chains, pool=mean_pool(), pooled=192, unit=conv)


def auxiliary_head(c_in: int, num_classes: int) -> nn.Sequential:
    """5x5 means with stride 3, convolutions of 1x1 and 5x5, one linear layer: (N, c_in, h, w) -> (N, num_classes)."""
    return nn.Sequential(
        OrderedDict(
            shrink=nn.AvgPool2d(5, stride=3),
            conv0=conv(c_in, 128),
            conv1=conv(128, 768, 5, padding=0),
            **dict(mean_head(768, num_classes).named_children()),
        )
    )


class InceptionV3(Classifier):
    """A stem, modules at 35x35, 17x17 and 8x8 pixels, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes), in training mode `WithAuxiliary`. Images of 299 pixels are
    the smallest for which the auxiliary head has pixels; without it 75 are enough.

    Args:
        aux: an auxiliary head after the modules at 17x17 pixels, with weight 0.4 in the loss.
        dropout: probability before the linear layer.
    """

    def __init__(
        self, *, aux: bool = True, dropout: float = 0.5, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        features = stem(in_channels)
        features["mixed5b"] = module_35(192, 32)
        features["mixed5c"] = module_35(256, 64)
        features["mixed5d"] = module_35(288, 64)
        features["mixed6a"] = reduction(288, {"3x3": [(384, 3)], "double3x3": DOUBLE_3X3}, unit=conv)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            features[f"mixed{name}"] = module_17(768, width)
        to_8 = {"3x3": [(192, 1), (320, 3)], "7x7": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]}
        features["mixed7a"] = reduction(768, to_8, unit=conv)
        features["mixed7b"] = module_8(1280)
        features["mixed7c"] = module_8(2048)
        super().__init__(
            nn.Sequential(features),
            mean_head(2048, num_classes, dropout),
            [
                Stage("conv2b", 64, 2),
                Stage("conv4a", 192, 4),
                Stage("mixed5d", 288, 8),
                Stage("mixed6e", 768, 16),
                Stage("mixed7c", 2048, 32),
            ],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=2048,
            auxiliary={"mixed6e": auxiliary_head(768, num_classes)} if aux else None,
            auxiliary_weight=0.4,
        )
        he_normal(self)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which are timm's too."""
        del origin
        return [
            (r"^features\.conv(1a|2a|2b|4a)\.", r"Conv2d_\1_3x3."),
            (r"^features\.conv3b\.", "Conv2d_3b_1x1."),
            (r"^features\.mixed(..)\.", r"Mixed_\1."),
            (r"\.1x1\.0\.", ".branch1x1."),
            (r"\.pool\.1\.", ".branch_pool."),
            (r"^Mixed_6a\.3x3\.0\.", "Mixed_6a.branch3x3."),
            (r"^Mixed_7a\.7x7\.", "Mixed_7a.7x7x3."),
            (r"\.double(3x3|7x7)\.", r".\1dbl."),
            *((rf"\.([357]x[357]\w*)\.{i}\.", rf".branch\1_{i + 1}.") for i in range(5)),
            (r"\.1x3\.", "a."),
            (r"\.3x1\.", "b."),
            (r"^auxiliary\.mixed6e\.", "AuxLogits."),
            (r"^head\.fc\.", "fc."),
        ]


PAPER = Paper(
    "Rethinking the Inception Architecture for Computer Vision",
    year=2015,
    authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
    arxiv="1512.00567",
)
_register = partial(register, paper=PAPER, family="inception_v3", image=299)
_register(
    "inception_v3",
    InceptionV3,
    published=Published(
        macs="4.8×10^9",
        top1_error_pct="21.2",
        top5_error_pct="5.6",
        test="ILSVRC-2012 val, 1-crop",
        source="table 3",
    ),
    summary="factorised 7x7 convolutions, auxiliary head with BatchNorm; torchvision's inception_v3",
    smallest=299,
    peers={"torchvision": "inception_v3"},
)
_register(
    "inception_v3_without_aux",
    partial(InceptionV3, aux=False),
    summary="the same without its auxiliary head, so that small images train too; timm's inception_v3",
    smallest=75,
    peers={"timm": "inception_v3"},
)
