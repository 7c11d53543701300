"""ShuffleNetV2: a network drawn for speed, not for few multiply-adds (Ma, Zhang, Zheng & Sun, 2018).

Measured on devices, layers are fastest with as many inputs as outputs, few groups, few branches and few element-wise
operations. So a block splits the channels in two: one half passes by untouched, the other goes through 1x1, depthwise
and 1x1 convolutions of equal width. They are concatenated, not added, and a shuffle mixes them for the next block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

DEPTHS = (4, 8, 4)  # blocks of stages 2, 3 and 4 (table 5)


def branch(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """1x1, depthwise and 1x1 convolutions: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv_bn(c_in, c_out),
            depthwise=conv_bn(c_out, c_out, 3, stride, groups=c_out, act=None),
            conv2=conv_bn(c_out, c_out),
        )
    )


class Block(nn.Module):
    """Split, filter one half, concatenate, shuffle: (N, C, H, W) -> (N, C, H, W), figure 3c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, 1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        passing, filtered = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([passing, self.branch(filtered)], dim=1))


class DownBlock(nn.Module):
    """Both halves are made from the whole input, at half the resolution: figure 3d.

    (N, c_in, H, W) -> (N, c_out, H / 2, W / 2)
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(
            OrderedDict(
                depthwise=conv_bn(c_in, c_in, 3, 2, groups=c_in, act=None), conv=conv_bn(c_in, c_out // 2)
            )
        )
        self.branch = branch(c_in, c_out // 2, 2)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / 2, W / 2)."""
        return self.shuffle(torch.cat([self.shortcut(x), self.branch(x)], dim=1))


class ShuffleNetV2(Classifier):
    """A 3x3 convolution and max-pooling, three stages, a 1x1 convolution, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        widths: channels of stages 2, 3 and 4, and of the last convolution.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        channels = 24
        features = OrderedDict[str, nn.Module](
            conv1=conv_bn(in_channels, channels, 3, 2), pool=nn.MaxPool2d(3, stride=2, padding=1)
        )
        stages = [Stage("conv1", channels, 2), Stage("pool", channels, 4)]
        for i, (width, depth) in enumerate(zip(widths, DEPTHS, strict=False), start=2):
            blocks = [DownBlock(channels, width), *(Block(width) for _ in range(depth - 1))]
            features[f"stage{i}"] = nn.Sequential(*blocks)
            stages.append(Stage(f"stage{i}", width, 2 ** (i + 1)))
            channels = width
        features["conv5"] = conv_bn(channels, widths[-1])
        stages[-1] = Stage("conv5", widths[-1], 32)
        super().__init__(
            nn.Sequential(features),
            mean_head(widths[-1], num_classes, dropout),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=widths[-1],
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision; timm does not have the network."""
        if origin != "torchvision":
            return None
        return [
            (r"\.shortcut\.depthwise\.conv\.", ".branch1.0."),
            (r"\.shortcut\.depthwise\.bn\.", ".branch1.1."),
            (r"\.shortcut\.conv\.conv\.", ".branch1.2."),
            (r"\.shortcut\.conv\.bn\.", ".branch1.3."),
            (r"\.branch\.conv1\.conv\.", ".branch2.0."),
            (r"\.branch\.conv1\.bn\.", ".branch2.1."),
            (r"\.branch\.depthwise\.conv\.", ".branch2.3."),
            (r"\.branch\.depthwise\.bn\.", ".branch2.4."),
            (r"\.branch\.conv2\.conv\.", ".branch2.5."),
            (r"\.branch\.conv2\.bn\.", ".branch2.6."),
            (r"^features\.(conv\d)\.conv\.", r"\1.0."),
            (r"^features\.(conv\d)\.bn\.", r"\1.1."),
            (r"^features\.", ""),
            (r"^head\.fc\.", "fc."),
        ]


PAPER = Paper(
    "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    year=2018,
    authors="Ma, Zhang, Zheng, Sun",
    arxiv="1807.11164",
)
# Channels, parameters and multiply-adds of table 5, errors of table 8.
for factor, widths, params, macs, error in (
    ("0.5", (48, 96, 192, 1024), "1.4M", "41M", "39.7"),
    ("1.0", (116, 232, 464, 1024), "2.3M", "146M", "30.6"),
    ("1.5", (176, 352, 704, 1024), "3.5M", "299M", "27.4"),
    ("2.0", (244, 488, 976, 2048), "7.4M", "591M", "25.1"),
):
    name = f"shufflenet_v2_x{factor.replace('.', '_')}"
    register(
        name,
        partial(ShuffleNetV2, widths),
        paper=PAPER,
        family="shufflenet_v2",
        image=224,
        published=Published(
            params=params,
            macs=macs,
            top1_error_pct=error,
            test="ILSVRC-2012 val",
            source="tables 5 and 8",
        ),
        summary=f"{factor} times as wide; torchvision's {name}",
        peers={"torchvision": name},
    )
