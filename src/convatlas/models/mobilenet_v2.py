"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018).

Features of interest lie in a space of few dimensions, so a block's input and output can be narrow; but a ReLU on few
channels destroys what it sets to zero. So a block expands its input sixfold, filters it there channel by channel, and
projects it back without an activation; the shortcut connects the narrow ends.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import NamedTuple

from torch import nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.inverted_residual import stack, timm_rules
from convatlas.layers.scaling import divisible
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


class Row(NamedTuple):
    """A line of table 2: expansion t, channels c, blocks n, stride s of the first block."""

    t: int
    c: int
    n: int
    s: int


STAGES = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


class MobileNetV2(Classifier):
    """A 3x3 convolution, seventeen inverted residuals, a 1x1 convolution to 1280 channels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        width: factor of all channels, which are rounded to multiples of 8; those of the last convolution grow with
            it, but do not shrink (section 6.1).
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        channels, stride = divisible(32 * width), 2
        features = OrderedDict[str, nn.Module](stem=conv_bn(in_channels, channels, 3, 2, act=nn.ReLU6))
        cuts: list[Stage] = []
        for i, (t, c, n, s) in enumerate(STAGES, start=1):
            c_out = divisible(c * width)
            features[f"stage{i}"] = stack(channels, c_out, n, expansion=t, stride=s)
            channels = c_out
            stride *= s
            cuts.append(Stage(f"stage{i}", channels, stride))
        last = divisible(1280 * max(1.0, width))
        features["last"] = conv_bn(channels, last, act=nn.ReLU6)
        cuts.append(Stage("last", last, stride))
        super().__init__(
            nn.Sequential(features),
            mean_head(last, num_classes, dropout),
            list({cut.stride: cut for cut in cuts}.values()),  # the last at each resolution
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=last,
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which numbers blocks and layers throughout, or timm's."""
        if origin == "timm":
            return timm_rules(without_expansion="1")
        rules = [(r"^features\.stem\.conv\.", "features.0.0."), (r"^features\.stem\.bn\.", "features.0.1.")]
        number = 1
        for i, row in enumerate(STAGES, start=1):
            for block in range(row.n):
                rules.append((rf"^features\.stage{i}\.{block}\.residual\.", f"features.{number}.conv."))
                number += 1
        return [
            *rules,
            (r"^features\.last\.conv\.", f"features.{number}.0."),
            (r"^features\.last\.bn\.", f"features.{number}.1."),
            (r"^features\.1\.conv\.depthwise\.conv\.", "features.1.conv.0.0."),
            (r"^features\.1\.conv\.depthwise\.bn\.", "features.1.conv.0.1."),
            (r"^features\.1\.conv\.project\.conv\.", "features.1.conv.1."),
            (r"^features\.1\.conv\.project\.bn\.", "features.1.conv.2."),
            (r"\.expand\.conv\.", ".0.0."),
            (r"\.expand\.bn\.", ".0.1."),
            (r"\.depthwise\.conv\.", ".1.0."),
            (r"\.depthwise\.bn\.", ".1.1."),
            (r"\.project\.conv\.", ".2."),
            (r"\.project\.bn\.", ".3."),
            (r"^head\.fc\.", "classifier.1."),
        ]


PAPER = Paper(
    "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    year=2018,
    authors="Sandler, Howard, Zhu, Zhmoginov, Chen",
    arxiv="1801.04381",
)
_register = partial(register, paper=PAPER, family="mobilenet_v2", image=224)
TEST = "ILSVRC-2012 val"

# Multiply-adds, parameters and top-1 accuracy 72.0 and 74.7 of table 4.
_register(
    "mobilenet_v2",
    MobileNetV2,
    published=Published(params="3.4M", macs="300M", top1_error_pct="28.0", test=TEST, source="table 4"),
    summary="17 inverted residuals; torchvision's mobilenet_v2, timm's mobilenetv2_100",
    peers={"torchvision": "mobilenet_v2", "timm": "mobilenetv2_100"},
)
_register(
    "mobilenet_v2_x1_4",
    partial(MobileNetV2, width=1.4),
    published=Published(
        params="6.9M",  # the authors' repository: 6.06M and 582M
        macs="585M",
        top1_error_pct="25.3",
        test=TEST,
        source="table 4",
    ),
    summary="channels times 1.4; timm's mobilenetv2_140",
    peers={"timm": "mobilenetv2_140"},
)
# The paper draws these in figure 5; the figures in print are the authors', beside their checkpoints.
for name, width, macs, top1, top5 in (
    ("mobilenet_v2_x0_75", 0.75, "209M", "30.2", "10.4"),
    ("mobilenet_v2_x0_5", 0.5, "97M", "34.6", "13.6"),
    ("mobilenet_v2_x0_35", 0.35, "59M", "39.7", "17.1"),
):
    peer = f"mobilenetv2_{width * 100:03.0f}"
    _register(
        name,
        partial(MobileNetV2, width=width),
        published=Published(
            macs=macs, top1_error_pct=top1, top5_error_pct=top5, test=TEST, source="authors' code (TF-Slim)"
        ),
        summary=f"channels times {width}; timm's {peer}",
        peers={"timm": peer},
    )
