"""MobileNet: a network of depthwise separable convolutions (Howard et al., 2017).

A convolution filters and combines channels at once. Done in two steps, a 3x3 filter for each channel and then a 1x1
convolution, it costs an eighth to a ninth. The network is a plain stack of thirteen such pairs. Two factors make it
cheaper still: the width multiplier thins every layer, the resolution multiplier shrinks the image.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.inverted_residual import timm_rules
from convatlas.layers.scaling import divisible
from convatlas.layers.separable import depthwise_separable
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

# Channels and depthwise separable layers of each stage; all but the first stage halve the resolution (table 1).
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class MobileNetV1(Classifier):
    """A 3x3 convolution, thirteen depthwise separable ones, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        width: the width multiplier: factor of all channels, which are rounded to multiples of 8.
        activation: "relu6", min(max(x, 0), 6), is that of the authors' code; the paper writes "relu".
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        activation: Literal["relu", "relu6"] = "relu6",
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise UsageError(f"activation={activation!r} is not known; 'relu' or 'relu6' are.")
        act = ACTIVATIONS[activation]
        channels, stride = divisible(32 * width), 2
        features = OrderedDict[str, nn.Module](stem=conv_bn(in_channels, channels, 3, 2, act=act))
        stages: list[Stage] = []
        for i, (base, depth) in enumerate(STAGES, start=1):
            c_out, first = divisible(base * width), 1 if i == 1 else 2
            layers: list[nn.Module] = []
            for layer in range(depth):
                layers.append(
                    depthwise_separable(channels, c_out, stride=first if layer == 0 else 1, act=act)
                )
                channels = c_out
            features[f"stage{i}"] = nn.Sequential(*layers)
            stride *= first
            stages.append(Stage(f"stage{i}", channels, stride))
        super().__init__(
            nn.Sequential(features),
            mean_head(channels, num_classes, dropout),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of timm; torchvision does not have the network."""
        return timm_rules(without_expansion=r"\d") if origin == "timm" else None


PAPER = Paper(
    "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    year=2017,
    authors="Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam",
    arxiv="1704.04861",
)
_register = partial(register, paper=PAPER, family="mobilenet_v1")
TEST = "ILSVRC-2012 val"

# Multiply-adds, parameters and accuracy of table 6 (width). The paper prints accuracies: 70.6 % is an error of 29.4 %.
for name, width, macs, params, error in (
    ("mobilenet_v1", 1.0, "569M", "4.2M", "29.4"),
    ("mobilenet_v1_x0_75", 0.75, "325M", "2.6M", "31.6"),
    ("mobilenet_v1_x0_5", 0.5, "149M", "1.3M", "36.3"),
    ("mobilenet_v1_x0_25", 0.25, "41M", "0.5M", "49.4"),
):
    _register(
        name,
        partial(MobileNetV1, width=width),
        image=224,
        published=Published(
            params=params, macs=macs, top1_error_pct=error, layers=28, test=TEST, source="table 6"
        ),
        summary="13 depthwise separable layers"
        + ("; timm's mobilenetv1_100" if width == 1 else f", channels times {width}"),
        peers={"timm": "mobilenetv1_100"} if width == 1 else {},
    )
# The same network for smaller images (table 7).
for image, macs, error in ((192, "418M", "30.9"), (160, "290M", "32.8"), (128, "186M", "35.6")):
    _register(
        f"mobilenet_v1_r{image}",
        MobileNetV1,
        image=image,
        published=Published(
            params="4.2M", macs=macs, top1_error_pct=error, layers=28, test=TEST, source="table 7"
        ),
        summary=f"mobilenet_v1 for images of {image} pixels",
    )
