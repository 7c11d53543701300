"""What the networks of the residual line share: a stem, stages of blocks, the mean over all pixels, one linear layer.

A family says how the block of a place is made. Here the places are laid out: width doubles and resolution halves
from stage to stage, as in He et al., 2015, table 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage


class Place(NamedTuple):
    """Where a block stands, and what it must do: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    Stages, and blocks in their stage, are numbered from 0. `width` is that of the 3x3 convolutions; it doubles from
    stage to stage.
    """

    stage: int
    number: int
    c_in: int
    width: int
    c_out: int
    stride: int

    @property
    def changes(self) -> bool:
        """Whether input and output differ in shape, so that the input cannot be added as it is."""
        return self.stride != 1 or self.c_in != self.c_out


class Stem(NamedTuple):
    """What stands before the blocks: named layers, `conv1` first; the channels and input pixels per pixel they give."""

    layers: OrderedDict[str, nn.Module]
    channels: int
    conv1_stride: int
    stride: int


class ResidualNet(Classifier):
    """Stem, stages `conv2_x`, `conv3_x`, ..., head: images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        stem: the layers before the first block.
        depths: blocks per stage.
        block: makes the block of a place.
        width: of the first stage.
        expansion: channels that a block gives, in widths.
        strides: of the first block of each stage.
        end: layers after the last block; they become a last child of `features`.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        stem: Stem,
        depths: Sequence[int],
        block: Callable[[Place], nn.Module],
        *,
        width: int,
        expansion: int = 1,
        strides: Sequence[int] = (1, 2, 2, 2),
        end: nn.Module | None = None,
        dropout: float = 0.0,
        num_classes: int,
        in_channels: int,
    ) -> None:
        features = OrderedDict[str, nn.Module](stem.layers)
        channels, stride = stem.channels, stem.stride
        stages = [Stage("conv1", channels, stem.conv1_stride)]
        for i, (depth, step) in enumerate(zip(depths, strides, strict=False)):
            blocks: list[nn.Module] = []
            for number in range(depth):
                place = Place(
                    i, number, channels, width * 2**i, width * 2**i * expansion, 1 if number else step
                )
                blocks.append(block(place))
                channels = place.c_out
            stride *= step
            features[f"conv{i + 2}_x"] = nn.Sequential(*blocks)
            stages.append(Stage(f"conv{i + 2}_x", channels, stride))
        if end is not None:
            features["end"] = end
            stages.append(Stage("end", channels, stride))
        super().__init__(
            nn.Sequential(features),
            mean_head(channels, num_classes, dropout),
            list({stage.stride: stage for stage in stages}.values()),  # the last child at each resolution
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        he_normal(self)


def make_stem(kind: Literal["7x7", "3x3"], in_channels: int, width: int) -> Stem:
    """Convolution, BatchNorm, ReLU: 7x7 with stride 2 and max-pooling (ImageNet), or 3x3 at full resolution (CIFAR)."""
    known(stem=(kind, ("7x7", "3x3")))
    if kind == "3x3":
        return Stem(OrderedDict(conv1=conv_bn(in_channels, width, 3)), width, 1, 1)
    layers = OrderedDict[str, nn.Module](
        conv1=conv_bn(in_channels, width, 7, 2), pool1=nn.MaxPool2d(3, stride=2, padding=1)
    )
    return Stem(layers, width, 2, 4)


def known(**settings: tuple[str, Sequence[str]]) -> None:
    """Raise `UsageError` for the first setting (value, known values) whose value is none of them."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise UsageError(f"{name}={value!r} is not known; {' or '.join(map(repr, choices))} are.")
