"""MobileNetV3: MobileNetV2's block, with widths found by search and cheaper activations (Howard et al., 2019).

Search for a given phone chose kernels, widths and where to squeeze and excite; the ends were then redrawn by hand. The
swish x * sigmoid(x) is replaced by the hard-swish x * relu6(x + 3) / 6, which needs no exponential, and is used only
in the deeper half, where the maps are small. A variant is one table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.init import he_normal
from convatlas.layers.inverted_residual import InvertedResidual
from convatlas.layers.scaling import divisible
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

EPS, MOMENTUM = 0.001, 0.01  # of every BatchNorm (section 6.1.1 gives an average decay of 0.99)


class Row(NamedTuple):
    """A line of table 1 or 2: one block."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool  # SE
    act: str  # NL: "RE" is ReLU, "HS" is hard-swish
    stride: int  # s


LARGE = (
    Row(3, 16, 16, False, "RE", 1),
    Row(3, 64, 24, False, "RE", 2),
    Row(3, 72, 24, False, "RE", 1),
    Row(5, 72, 40, True, "RE", 2),
    Row(5, 120, 40, True, "RE", 1),
    Row(5, 120, 40, True, "RE", 1),
    Row(3, 240, 80, False, "HS", 2),
    Row(3, 200, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 480, 112, True, "HS", 1),
    Row(3, 672, 112, True, "HS", 1),
    Row(5, 672, 160, True, "HS", 2),
    Row(5, 960, 160, True, "HS", 1),
    Row(5, 960, 160, True, "HS", 1),
)
SMALL = (
    Row(3, 16, 16, True, "RE", 2),
    Row(3, 72, 24, False, "RE", 2),
    Row(3, 88, 24, False, "RE", 1),
    Row(5, 96, 40, True, "HS", 2),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 120, 48, True, "HS", 1),
    Row(5, 144, 48, True, "HS", 1),
    Row(5, 288, 96, True, "HS", 2),
    Row(5, 576, 96, True, "HS", 1),
    Row(5, 576, 96, True, "HS", 1),
)


class MobileNetV3(Classifier):
    """A 3x3 convolution, blocks, a 1x1 convolution, the mean over all pixels, two linear layers.

    Images (N, in_channels, H, W) -> logits (N, num_classes). The layer before the classifier comes after the mean:
    there it costs one pixel instead of 49 (section 5.1).

    Args:
        rows: a table of blocks.
        hidden: width of the first linear layer.
        width: factor of all channels, which are rounded to multiples of 8.
        dropout: probability before the classifier.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        hidden: int,
        width: float = 1.0,
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        channels, stride = divisible(16 * width), 2
        conv = partial(conv_bn, eps=EPS, momentum=MOMENTUM, act=nn.Hardswish)
        features = OrderedDict[str, nn.Module](stem=conv(in_channels, channels, 3, 2))
        cuts = [Stage("stem", channels, stride)]
        for i, row in enumerate(rows, start=1):
            expanded, c_out = divisible(row.expanded * width), divisible(row.out * width)
            features[f"block{i}"] = InvertedResidual(
                channels,
                c_out,
                expanded=expanded,
                kernel=row.kernel,
                stride=row.stride,
                act=nn.Hardswish if row.act == "HS" else nn.ReLU,
                squeezed=divisible(expanded // 4) if row.squeeze else 0,
                gate=nn.Hardsigmoid,
                eps=EPS,
                momentum=MOMENTUM,
            )
            channels = c_out
            stride *= row.stride
            cuts.append(Stage(f"block{i}", channels, stride))
        features["last"] = conv(channels, 6 * channels)
        cuts.append(Stage("last", 6 * channels, stride))
        hidden = divisible(hidden * width)
        head = OrderedDict[str, nn.Module](
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=nn.Linear(6 * channels, hidden),
            act=nn.Hardswish(),
        )
        if dropout:
            head["dropout"] = nn.Dropout(dropout)
        head["fc"] = nn.Linear(hidden, num_classes)
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            list({cut.stride: cut for cut in cuts}.values()),  # the last at each resolution
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=hidden,
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision. timm's network is another function: its BatchNorm has an epsilon of 1e-5."""
        if origin != "torchvision":
            return None
        rules: list[tuple[str, str]] = []
        for i, (name, child) in enumerate(self.features.named_children()):
            rules.append((rf"^features\.{name}\.", f"features.{i}."))
            if isinstance(child, InvertedResidual):
                for j, (layer, _) in enumerate(child.residual.named_children()):
                    rules.append((rf"^features\.{i}\.residual\.{layer}\.", f"features.{i}.block.{j}."))
        return [
            *rules,
            (r"\.reduce\.", ".fc1."),
            (r"\.expand\.", ".fc2."),
            (r"\.conv\.", ".0."),
            (r"\.bn\.", ".1."),
            (r"^head\.hidden\.", "classifier.0."),
            (r"^head\.fc\.", "classifier.3."),
        ]


PAPER = Paper(
    "Searching for MobileNetV3",
    year=2019,
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    arxiv="1905.02244",
)
# Multiply-adds, parameters and top-1 accuracy 75.2 and 67.4 of table 3.
for name, rows, hidden, macs, params, error in (
    ("large", LARGE, 1280, "219M", "5.4M", "24.8"),  # the authors' repository prints 217M
    ("small", SMALL, 1024, "56M", "2.5M", "32.6"),
):
    register(
        f"mobilenet_v3_{name}",
        partial(MobileNetV3, rows, hidden=hidden),
        paper=PAPER,
        family="mobilenet_v3",
        image=224,
        published=Published(
            params=params,
            macs=macs,
            top1_error_pct=error,
            test="ILSVRC-2012 val",
            source="table 3, authors' repository",
        ),
        summary=f"{len(rows)} blocks; torchvision's mobilenet_v3_{name}",
        peers={"torchvision": f"mobilenet_v3_{name}"},
    )
