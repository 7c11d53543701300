"""Deeply supervised nets: hidden layers are taught directly (Lee, Xie, Gallagher, Zhang & Tu, 2014).

Good features make a simple classifier good. So each hidden convolution gets a linear classifier of its own, whose
companion loss is added while the network is trained: features become discriminative early, and gradients need not
come all the way from the output. The companions fade during training and are no part of the network that predicts,
which is a Network In Network.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import nn

from convatlas.layers.conv_head import class_maps
from convatlas.layers.init import glorot_uniform, small_gaussian
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

FADE = 0.1  # factor of the companion losses at the start, section 2.2

# Kernel of each convolution, and channels after it and after the 1x1 convolutions that follow; the last 1x1
# convolution of the third is the classifier.
PARTS = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192)))


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """ReLU, then 1x1 convolutions with ReLU: (N, widths[0], H, W) -> (N, widths[-1], H, W)."""
    layers = OrderedDict[str, nn.Module](relu1=nn.ReLU())
    for i, (c_in, c_out) in enumerate(pairwise(widths), start=2):
        layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, 1)
        layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def companion(channels: int, side: int, num_classes: int) -> nn.Sequential:
    """A linear classifier of all pixels, maps being brought to `side`: (N, channels, h, w) -> (N, num_classes)."""
    classifier = nn.Linear(channels * side * side, num_classes)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            resize=nn.AdaptiveAvgPool2d(side), flatten=nn.Flatten(), classifier=classifier
        )
    )


class DeeplySupervisedNet(Classifier):
    """Three convolutions of large kernel with 1x1 convolutions after each, and the mean of each class's map.

    Images (N, in_channels, H, W) -> logits (N, num_classes); in training mode also the logits of the companions, which
    read each of the three convolutions before its ReLU. `auxiliary_weight` is their losses' factor.

    Args:
        alpha: balance of the companion losses; their factor is 0.1 * alpha * (1 - progress). 0: no companions.
        dropout: probability after each pooling.
    """

    classifier_name: ClassVar[str] = "classifier"

    def __init__(
        self, *, alpha: float = 1.0, dropout: float = 0.5, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        features = OrderedDict[str, nn.Module]()
        auxiliary: dict[str, nn.Sequential] = {}
        stages: list[Stage] = []
        c_in, side = in_channels, 32
        for i, (kernel, widths) in enumerate(PARTS, start=1):
            if i > 1:
                features[f"pool{i - 1}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
                features[f"drop{i - 1}"] = nn.Dropout(dropout)
                side //= 2
            features[f"conv{i}"] = nn.Conv2d(c_in, widths[0], kernel, padding=kernel // 2)
            features[f"mlp{i}"] = mlp(widths)
            stages.append(Stage(f"mlp{i}", widths[-1], 2 ** (i - 1)))
            if alpha:
                auxiliary[f"conv{i}"] = companion(widths[0], side, num_classes)
            c_in = widths[-1]
        head = OrderedDict[str, nn.Module](
            classifier=class_maps(c_in, num_classes), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()
        )
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
            auxiliary=auxiliary,
            auxiliary_weight=FADE * alpha,
        )
        self.alpha = alpha
        small_gaussian(self, std=0.05)
        glorot_uniform(self.auxiliary)

    def set_progress(self, progress: float) -> None:
        """The companion losses fade linearly and are gone at the end (section 2.2)."""
        self.auxiliary_weight = FADE * self.alpha * (1 - progress)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A fresh layer of class maps: (N, 192, h, w) -> (N, num_classes, h, w)."""
        maps = class_maps(self.head_hidden_size, num_classes)
        nn.init.normal_(maps.weight, std=0.05)
        return maps


PAPER = Paper(
    "Deeply-Supervised Nets",
    year=2014,
    authors="Lee, Xie, Gallagher, Zhang, Tu",
    arxiv="1409.5185",
)
_register = partial(register, family="deeply_supervised", paper=PAPER, image=32)
for classes, error, test, others in (
    (10, "7.97", "CIFAR-10 test, augmented", {"CIFAR-10": "9.69", "SVHN": "1.92"}),
    (100, "34.57", "CIFAR-100 test", {}),
):
    _register(
        f"dsn_cifar{classes}",
        DeeplySupervisedNet,
        classes=classes,
        published=Published(error_pct=error, test=test, other_errors_pct=others, source="tables 1 to 3"),
        summary=f"a Network In Network with companion losses at three convolutions, {classes} classes",
    )
