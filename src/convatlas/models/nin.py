"""Network In Network: a small network slides over the image, not a filter (Lin, Chen & Yan, 2013).

A convolution is a linear model of its window. An mlpconv layer looks at the window with a multilayer perceptron, whose
later layers see one pixel, that is, 1x1 convolutions. Features then are good enough to give one map for each class,
whose mean is the logit: there is no linear layer to overfit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv_head import class_maps, conv_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


def mlpconv(c_in: int, widths: Sequence[int], kernel: int) -> nn.Sequential:
    """A convolution and 1x1 convolutions, each with ReLU: (N, c_in, H, W) -> (N, widths[-1], H, W).

    Equation 2 of the paper, which calls the 1x1 convolutions cross-channel parametric pooling.
    """
    layers = OrderedDict[str, nn.Module]()
    for i, c_out in enumerate(widths, start=1):
        size = kernel if i == 1 else 1
        layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, size, padding=size // 2)
        layers[f"relu{i}"] = nn.ReLU()
        c_in = c_out
    return nn.Sequential(layers)


class NIN(Classifier):
    """Three mlpconv layers, pooling between them, and the mean of each class's map.

    Images (N, in_channels, H, W) -> logits (N, num_classes). The third layer of the last mlpconv is the classifier,
    with ReLU too: logits are not negative.

    Args:
        second_pool: "max", as the paper says of all pooling; "mean", as the authors' released model has it.
        dropout: probability after each pooling.
    """

    classifier_name: ClassVar[str] = "classifier"

    def __init__(
        self,
        *,
        second_pool: Literal["max", "mean"] = "max",
        dropout: float = 0.5,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        pools = {"max": nn.MaxPool2d, "mean": nn.AvgPool2d}
        if second_pool not in pools:
            raise UsageError(f"second_pool={second_pool!r} is not known; 'max' and 'mean' are.")
        features = OrderedDict[str, nn.Module](
            mlpconv1=mlpconv(in_channels, (192, 160, 96), 5),
            pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
            drop1=nn.Dropout(dropout),
            mlpconv2=mlpconv(96, (192, 192, 192), 5),
            pool2=pools[second_pool](3, 2, ceil_mode=True),
            drop2=nn.Dropout(dropout),
            mlpconv3=mlpconv(192, (192, 192), 3),
        )
        super().__init__(
            nn.Sequential(features),
            conv_head(192, num_classes),
            [Stage("mlpconv1", 96, 1), Stage("mlpconv2", 192, 2), Stage("mlpconv3", 192, 4)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=192,
        )
        he_normal(self)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A freshly initialised last layer: (N, 192, h, w) -> (N, num_classes, h, w)."""
        return class_maps(self.head_hidden_size, num_classes)


PAPER = Paper("Network In Network", year=2013, authors="Lin, Chen, Yan", arxiv="1312.4400")
for classes, error, others in (
    (10, "10.41", {"CIFAR-10 test, augmented": "8.81"}),
    (100, "35.68", {}),
):
    register(
        f"nin_cifar{classes}",
        NIN,
        paper=PAPER,
        family="nin",
        image=32,
        classes=classes,
        smallest=4,
        published=Published(
            error_pct=error,
            layers=9,
            test=f"CIFAR-{classes} test, not augmented",
            other_errors_pct=others,
            source=f"table {1 if classes == 10 else 2}",
        ),
        summary=f"three mlpconv layers, and one map for each of {classes} classes",
    )
