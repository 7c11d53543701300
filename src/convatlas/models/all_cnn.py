"""All convolutional networks: is pooling needed? (Springenberg, Dosovitskiy, Brox & Riedmiller, 2014).

Max-pooling halves the maps. So does a convolution of stride 2, which learns what to keep. The paper takes three base
networks and changes their two poolings in three ways:

- strided: no pooling; the convolution before it gets its stride. Fewer windows overlap.
- all: a convolution of stride 2 takes the place of pooling.
- convpool: the control of that, a convolution of stride 1 before pooling, with just as many weights.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import ClassVar

from torch import nn

from convatlas.layers.conv_head import class_maps, conv_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

WIDTHS = (96, 192)  # channels of the two stages before the tail
KERNELS = {"A": (5,), "B": (5, 1), "C": (3, 3)}  # of each stage's convolutions (table 1)


def plan(base: str, variant: str) -> list[tuple[int, int]]:
    """Kernel and stride of a stage's convolutions; kernel 0 is 3x3 max-pooling (table 2).

    Examples:
        >>> plan("C", "base"), plan("C", "strided")
        ([(3, 1), (3, 1), (0, 2)], [(3, 1), (3, 2)])
        >>> plan("C", "convpool"), plan("C", "all")
        ([(3, 1), (3, 1), (3, 1), (0, 2)], [(3, 1), (3, 1), (3, 2)])
    """
    convolutions = [(kernel, 1) for kernel in KERNELS[base]]
    if variant == "strided":
        return [*convolutions[:-1], (convolutions[-1][0], 2)]
    return convolutions + {"base": [(0, 2)], "convpool": [(3, 1), (0, 2)], "all": [(3, 2)]}[variant]


def convolution(
    c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    """A convolution with ReLU: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
    padding = kernel // 2 if padding is None else padding
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=layer, relu=nn.ReLU()))


class AllCNN(Classifier):
    """Two stages of convolutions, each halving its maps at the end, and a tail of three that gives a map a class.

    Images (N, in_channels, H, W) -> logits (N, num_classes), the means of the class maps after ReLU.

    Args:
        base: a row of `KERNELS`.
        variant: how the maps are halved.
        tail_padding: of the 3x3 convolution after the second halving. With 1 the last maps of 32x32 images are 8x8;
            with 0 they are 6x6, the size that table 1 prints.
        dropout: probability after each halving (section 3.2).
        input_dropout: probability of each value of the image.
    """

    classifier_name: ClassVar[str] = "classifier"

    def __init__(
        self,
        base: str,
        variant: str,
        *,
        tail_padding: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        features = OrderedDict[str, nn.Module](drop0=nn.Dropout(input_dropout))
        last: dict[int, Stage] = {}  # by stride
        c_in, reduction = in_channels, 1
        for i, c_out in enumerate(WIDTHS, start=1):
            for j, (kernel, stride) in enumerate(plan(base, variant), start=1):
                name = f"conv{i}_{j}" if kernel else f"pool{i}"
                pool = nn.MaxPool2d(3, 2, ceil_mode=True)
                features[name] = convolution(c_in, c_out, kernel, stride) if kernel else pool
                c_in, reduction = c_out, reduction * stride
                last[reduction] = Stage(name, c_out, reduction)
            features[f"drop{i}"] = nn.Dropout(dropout)
        features["conv3_1"] = convolution(c_in, c_in, 3, padding=tail_padding)
        features["conv3_2"] = convolution(c_in, c_in, 1)
        last[reduction] = Stage("conv3_2", c_in, reduction)
        super().__init__(
            nn.Sequential(features),
            conv_head(c_in, num_classes),
            list(last.values()),
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
        )
        he_normal(self)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A freshly initialised last layer: (N, 192, h, w) -> (N, num_classes, h, w)."""
        return class_maps(self.head_hidden_size, num_classes)


PAPER = Paper(
    "Striving for Simplicity: The All Convolutional Net",
    year=2014,
    authors="Springenberg, Dosovitskiy, Brox, Riedmiller",
    arxiv="1412.6806",
)
VARIANTS = {
    "base": ("all_cnn_base_", "the base: max-pooling halves the maps"),
    "strided": ("strided_cnn_", "no pooling: the convolution before it has stride 2"),
    "convpool": ("convpool_cnn_", "another convolution before each pooling"),
    "all": ("all_cnn_", "a convolution of stride 2 in the place of each pooling"),
}
# Errors and parameters of table 3. The paper prints the latter as approximate; they follow from the layers for some.
for base, variant, error, params in (
    ("A", "base", "12.47", "0.9M"),
    ("A", "strided", "13.46", "0.9M"),
    ("A", "convpool", "10.21", "1.28M"),
    ("A", "all", "10.30", "1.28M"),
    ("B", "base", "10.20", "1M"),
    ("B", "strided", "10.98", "1M"),
    ("B", "convpool", "9.33", "1.35M"),
    ("B", "all", "9.10", "1.35M"),
    ("C", "base", "9.74", "1.3M"),
    ("C", "strided", "10.19", "1.3M"),
    ("C", "convpool", "9.31", "1.4M"),
    ("C", "all", "9.08", "1.4M"),
):
    prefix, summary = VARIANTS[variant]
    best = {"CIFAR-10 test, augmented": "7.25", "CIFAR-100 test, augmented": "33.71"}
    register(
        f"{prefix}{base.lower()}",
        partial(AllCNN, base, variant),
        paper=PAPER,
        family="all_cnn",
        image=32,
        classes=10,
        smallest=4,
        published=Published(
            params=params,
            error_pct=error,
            test="CIFAR-10 test, not augmented",
            other_errors_pct=best if (base, variant) == ("C", "all") else {},
            source="tables 3 and 4",
        ),
        summary=f"{base}, {summary}",
    )
