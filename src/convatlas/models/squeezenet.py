"""SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters (Iandola et al., 2016).

Three strategies: 1x1 convolutions instead of 3x3, fewer channels into those 3x3 that remain, and late pooling, so that
maps stay large. A fire module does the first two: it squeezes the channels by 1x1 convolutions, then expands them by
1x1 and 3x3 convolutions side by side. The classifier is a convolution; the mean of its maps are the logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.init import he
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

Stem = Literal["7x7", "3x3", "cifar"]

# Channels after squeezing, and of each kind after expanding, of fire2 to fire9 (table 1).
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
# Width, kernel and stride of conv1; stride of pool1; the fires that a pool follows.
STEMS = {
    "7x7": (96, 7, 2, 2, (4, 8)),  # version 1.0
    "3x3": (64, 3, 2, 2, (3, 5)),  # version 1.1
    "cifar": (64, 3, 1, 1, (3, 5)),  # version 1.1 with larger maps for small images
}


class Fire(nn.Module):
    """Squeeze to few channels, expand by two kernels: (N, c_in, H, W) -> (N, 2 * expanded, H, W), figure 1.

    `batch_norm` names the parts with a BatchNorm before their ReLU, out of "squeeze", "expand1x1" and "expand3x3".
    """

    def __init__(self, c_in: int, squeezed: int, expanded: int, *, batch_norm: Collection[str] = ()) -> None:
        super().__init__()
        self.squeeze = _conv(c_in, squeezed, 1, batch_norm="squeeze" in batch_norm)
        self.expand1x1 = _conv(squeezed, expanded, 1, batch_norm="expand1x1" in batch_norm)
        self.expand3x3 = _conv(squeezed, expanded, 3, batch_norm="expand3x3" in batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, 2 * expanded, H, W)."""
        x = self.squeeze(x)
        return torch.cat((self.expand1x1(x), self.expand3x3(x)), 1)


class SqueezeNet(Classifier):
    """conv1, eight fire modules with three pools, conv10, ReLU, the mean over all pixels.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        stem: a row of `STEMS`: "7x7" is version 1.0, "3x3" version 1.1, "cifar" version 1.1 for images of 32 pixels.
        batch_norm: BatchNorm before the ReLU of conv1 and of every part of a fire module, but not of conv10.
        without_norm: parts that have none all the same, such as "fire2.squeeze".
        dropout: probability before conv10.
    """

    classifier_name: ClassVar[str] = "conv10"

    def __init__(
        self,
        *,
        stem: Stem = "3x3",
        batch_norm: bool = False,
        without_norm: Collection[str] = (),
        dropout: float = 0.5,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if stem not in STEMS:
            raise UsageError(f"stem={stem!r} is not known; {', '.join(map(repr, STEMS))} are.")
        width, kernel, stride, pool_stride, pooled = STEMS[stem]
        conv1 = _conv(in_channels, width, kernel, stride, padding=0, batch_norm=batch_norm)
        pool1 = nn.MaxPool2d(3, pool_stride, ceil_mode=True)
        features = OrderedDict[str, nn.Module](conv1=conv1, pool1=pool1)
        stages = [Stage("conv1", width, stride)] if pool_stride > 1 else []
        stride *= pool_stride
        for i, (squeezed, expanded) in enumerate(FIRES, start=2):
            parts = {"squeeze", "expand1x1", "expand3x3"} if batch_norm else set[str]()
            parts -= {part for part in parts if f"fire{i}.{part}" in without_norm}
            features[f"fire{i}"] = Fire(width, squeezed, expanded, batch_norm=parts)
            width = 2 * expanded
            if i in pooled:
                stages.append(Stage(f"fire{i}", width, stride))
                features[f"pool{i}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
                stride *= 2
        head = (
            OrderedDict[str, nn.Module](drop9=nn.Dropout(dropout))
            if dropout
            else OrderedDict[str, nn.Module]()
        )
        head["conv10"] = nn.Conv2d(width, num_classes, 1)
        head["relu10"] = nn.ReLU()
        head["pool10"] = nn.AdaptiveAvgPool2d(1)
        head["flatten"] = nn.Flatten()
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            [*stages, Stage("fire9", width, stride)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=width,
        )
        he(self, distribution="uniform")  # as in torchvision; the authors have Xavier's
        nn.init.normal_(head["conv10"].weight, std=0.01)  # pyright: ignore[reportArgumentType]

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A fresh conv10: (N, 512, h, w) -> (N, num_classes, h, w)."""
        conv10 = nn.Conv2d(self.head_hidden_size, num_classes, 1)
        nn.init.normal_(conv10.weight, std=0.01)
        nn.init.zeros_(conv10.bias)  # pyright: ignore[reportArgumentType]
        return conv10

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """In torchvision, the places of conv1 and of the fire modules among all children of `features`."""
        if origin != "torchvision":
            return None
        places: list[tuple[str, str]] = []
        i = 0
        for name, child in self.features.named_children():
            if not isinstance(child, nn.MaxPool2d):
                places.append((rf"^features\.{name}\.", f"features.{i}."))
            i += 2 if name == "conv1" else 1  # theirs has the ReLU of conv1 as a child
        return [*places, (r"\.conv\.", "."), (r"^head\.conv10\.", "classifier.1.")]


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, padding: int | None = None, batch_norm: bool
) -> nn.Sequential:
    """A convolution with bias, BatchNorm if wanted, ReLU: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
    padding = kernel // 2 if padding is None else padding
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(c_in, c_out, kernel, stride, padding))
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(c_out)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


PAPER = Paper(
    "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    year=2016,
    authors="Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer",
    arxiv="1602.07360",
)
_register = partial(register, paper=PAPER, family="squeezenet")
_register(
    "squeezenet1_0",
    partial(SqueezeNet, stem="7x7"),
    image=224,
    published=Published(
        params="1,248,424",
        top1_error_pct="42.5",
        top5_error_pct="19.7",
        test="ILSVRC-2012 val",
        source="tables 1 and 2",
    ),
    summary="the paper's: conv1 of 96 7x7 filters, pools after fire4 and fire8",
    peers={"torchvision": "squeezenet1_0"},
)
_register(
    "squeezenet1_1",
    partial(SqueezeNet, stem="3x3"),
    image=224,
    summary="the authors' later one: conv1 of 64 3x3 filters, earlier pools, 2.3 times fewer MACs",
    peers={"torchvision": "squeezenet1_1"},
)
# Two rows of the SimpNet paper, on accuracies of 88.60 and 92.20 %.
SIMPNET = "Hasanpour et al., 2018 (SimpNet)"
_register(
    "squeezenet1_1_cifar",
    partial(SqueezeNet, stem="cifar"),
    image=32,
    classes=10,
    published=Published(params="768K", error_pct="11.40", test="CIFAR-10 test, augmented", source=SIMPNET),
    summary="version 1.1 without the first two halvings, the SimpNet paper's 'default'",
)
_register(
    "squeezenet1_1_bn_cifar",
    partial(SqueezeNet, stem="cifar", batch_norm=True, without_norm=("fire2.squeeze", "fire4.expand1x1")),
    image=32,
    classes=10,
    published=Published(error_pct="7.80", test="CIFAR-10 test, augmented", source=SIMPNET),
    summary="squeezenet1_1_cifar with BatchNorm, the SimpNet paper's 'optimized'",
)
