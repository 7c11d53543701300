"""MnasNet: MobileNetV2's blocks, their kernels and expansions found by search on a phone (Tan et al., 2018).

The search rewards accuracy and measured latency at once, and chooses for each stage of the network by itself: here
the stages have 3x3 or 5x5 filters and expand by 3 or 6. This is MnasNet-B1, the form without squeeze-and-excitation.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.inverted_residual import Row, stack, timm_rules
from convatlas.layers.scaling import divisible
from convatlas.layers.separable import depthwise_separable
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

STAGES = (
    Row(3, 3, 24, 3, 2),
    Row(3, 5, 40, 3, 2),
    Row(6, 5, 80, 3, 2),
    Row(6, 3, 96, 2, 1),
    Row(6, 5, 192, 4, 2),
    Row(6, 3, 320, 1, 1),
)


class MNASNet(Classifier):
    """A 3x3 convolution, a depthwise separable one, sixteen inverted residuals, a 1x1 convolution, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        width: factor of all channels but the last 1280, rounded to multiples of 8.
        momentum: of every BatchNorm. The paper's decay of 0.9997 is 0.0003 here; torchvision has it too. But then
            three quarters of the first statistics are left after 1000 steps, and a short training ends in noise.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        momentum: float = 0.1,
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        stem, channels, stride = divisible(32 * width), divisible(16 * width), 2
        features = OrderedDict[str, nn.Module](stem=conv_bn(in_channels, stem, 3, 2, momentum=momentum))
        features["stage1"] = nn.Sequential(
            depthwise_separable(stem, channels, momentum=momentum, linear=True)
        )
        cuts = [Stage("stage1", channels, stride)]
        for i, row in enumerate(STAGES, start=2):
            c_out = divisible(row.channels * width)
            features[f"stage{i}"] = stack(
                channels,
                c_out,
                row.depth,
                expansion=row.expansion,
                kernel=row.kernel,
                stride=row.stride,
                act=nn.ReLU,
                momentum=momentum,
            )
            channels = c_out
            stride *= row.stride
            cuts.append(Stage(f"stage{i}", channels, stride))
        features["last"] = conv_bn(channels, 1280, momentum=momentum)
        cuts.append(Stage("last", 1280, stride))
        super().__init__(
            nn.Sequential(features),
            mean_head(1280, num_classes, dropout),
            list({cut.stride: cut for cut in cuts}.values()),  # the last at each resolution
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=1280,
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which numbers every layer, or timm's."""
        if origin == "timm":
            return timm_rules(without_expansion="1")
        return [
            (r"^features\.stem\.conv\.", "layers.0."),
            (r"^features\.stem\.bn\.", "layers.1."),
            (r"^features\.stage1\.0\.depthwise\.conv\.", "layers.3."),
            (r"^features\.stage1\.0\.depthwise\.bn\.", "layers.4."),
            (r"^features\.stage1\.0\.pointwise\.conv\.", "layers.6."),
            (r"^features\.stage1\.0\.pointwise\.bn\.", "layers.7."),
            *((rf"^features\.stage{i}\.", f"layers.{i + 6}.") for i in range(2, 8)),
            (r"^features\.last\.conv\.", "layers.14."),
            (r"^features\.last\.bn\.", "layers.15."),
            (r"\.residual\.expand\.conv\.", ".layers.0."),
            (r"\.residual\.expand\.bn\.", ".layers.1."),
            (r"\.residual\.depthwise\.conv\.", ".layers.3."),
            (r"\.residual\.depthwise\.bn\.", ".layers.4."),
            (r"\.residual\.project\.conv\.", ".layers.6."),
            (r"\.residual\.project\.bn\.", ".layers.7."),
            (r"^head\.fc\.", "classifier.1."),
        ]


PAPER = Paper(
    "MnasNet: Platform-Aware Neural Architecture Search for Mobile",
    year=2018,
    authors="Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le",
    arxiv="1807.11626",
)
# The paper tabulates MnasNet-A1, with squeeze-and-excitation; these errors are torchvision's, of its own weights.
for name, width, top1, top5, timm in (
    ("mnasnet0_5", 0.5, "32.266", "12.510", "mnasnet_050"),
    ("mnasnet0_75", 0.75, "28.820", "9.504", "mnasnet_075"),
    ("mnasnet1_0", 1.0, "26.544", "8.490", "mnasnet_100"),
    ("mnasnet1_3", 1.3, "23.494", "6.478", None),
):
    register(
        name,
        partial(MNASNet, width=width),
        paper=PAPER,
        family="mnasnet",
        image=224,
        published=Published(
            top1_error_pct=top1, top5_error_pct=top5, test="ILSVRC-2012 val", source="torchvision's weights"
        ),
        summary=f"MnasNet-B1, channels times {width}; torchvision's {name}",
        peers={"torchvision": name} | ({"timm": timm} if timm else {}),
    )
