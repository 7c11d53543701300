"""NAS: a whole network written by a recurrent controller (Zoph & Le, 2016).

A controller network writes a network as a sequence of tokens, for every layer the height, width and number of its
filters and which earlier layers it reads. What it wrote is trained, and its accuracy is the reward of the controller.
So a found network is a table. The paper prints one, the best without strides and pooling (its figure 7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.recompute import recompute
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


class Layer(NamedTuple):
    """What the controller writes for one layer; `inputs` are numbers of earlier layers, 0 is the image."""

    height: int
    width: int
    filters: int
    inputs: tuple[int, ...]


# Figure 7: filter height, filter width, number of filters; the arrows that end at the layer.
V1 = (
    Layer(3, 3, 36, (0,)),
    Layer(3, 3, 48, (1,)),
    Layer(3, 3, 36, (1, 2)),
    Layer(5, 5, 36, (1, 2, 3)),
    Layer(3, 7, 48, (3, 4)),
    Layer(7, 7, 48, (2, 3, 4, 5)),
    Layer(7, 7, 48, (2, 3, 4, 5, 6)),
    Layer(7, 3, 36, (1, 6, 7)),
    Layer(7, 1, 36, (1, 5, 6, 8)),
    Layer(7, 7, 36, (1, 3, 4, 5, 6, 7, 8, 9)),
    Layer(5, 7, 36, (1, 2, 5, 6, 7, 8, 9, 10)),
    Layer(7, 7, 48, (1, 2, 3, 4, 6, 11)),
    Layer(7, 5, 48, (1, 3, 6, 7, 8, 9, 10, 11, 12)),
    Layer(7, 5, 48, (3, 7, 12, 13)),
    Layer(7, 5, 48, (6, 7, 11, 12, 13, 14)),
)


class Joined(nn.Sequential):
    """Layers that read several maps at once: (N, C_1, H, W), (N, C_2, H, W), ... -> (N, K, H, W).

    The maps are concatenated, not added: the connections are no residual ones (section 3.3).
    """

    def forward(self, *maps: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(N, C_1, H, W), (N, C_2, H, W), ... -> (N, K, H, W)."""
        return super().forward(torch.cat(maps, dim=1))


class NAS(Classifier):
    """Convolutions with BatchNorm and ReLU as a genotype joins them, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes). Nothing changes the resolution; the stages are every
    fifth layer.

    Args:
        genotype: the layers in order. Every layer but the last must be read by a later one.
        extra_filters: more filters in every layer; the paper's largest network adds 40 (section 4.1).
        dropout: probability before the linear layer; the paper has none.

    Raises:
        UsageError: for a layer that reads a later one, or that no other reads.
    """

    def __init__(
        self,
        genotype: Sequence[Layer] = V1,
        *,
        extra_filters: int = 0,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        check(genotype)
        widths = [in_channels, *(layer.filters + extra_filters for layer in genotype)]
        features = OrderedDict[str, nn.Module]()
        for i, layer in enumerate(genotype, start=1):
            c_in = sum(widths[j] for j in layer.inputs)
            features[f"conv{i}"] = Joined(
                OrderedDict(conv_bn(c_in, widths[i], (layer.height, layer.width)).named_children())
            )
        last = len(genotype)
        super().__init__(
            nn.Sequential(features),
            mean_head(widths[-1], num_classes, dropout),
            [Stage(f"conv{i}", widths[i], 1) for i in sorted({*range(5, last + 1, 5), last})],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=widths[-1],
        )
        self.inputs = {f"conv{i}": layer.inputs for i, layer in enumerate(genotype, start=1)}
        he_normal(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H, W)."""
        for _, output in self.run_features(x):
            x = output
        return x

    def run_features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's name and output; a layer reads those that the genotype says."""
        outputs = [x]
        for name, layer in self.features.named_children():
            maps = [outputs[i] for i in self.inputs[name]]
            saving = self.grad_checkpointing and torch.is_grad_enabled()
            outputs.append(recompute(layer, *maps) if saving else layer(*maps))
            yield name, outputs[-1]


def check(genotype: Sequence[Layer]) -> None:
    """Raise `UsageError` unless every layer reads earlier ones, and is read if it is not the last."""
    read: set[int] = set()
    for i, layer in enumerate(genotype, start=1):
        if not layer.inputs or not all(0 <= j < i for j in layer.inputs):
            raise UsageError(
                f"layer {i} reads {layer.inputs}; it can read the image (0) and layers before it."
            )
        if layer.height % 2 == 0 or layer.width % 2 == 0:
            raise UsageError(
                f"layer {i} has a {layer.height}x{layer.width} filter; only odd sides keep the maps' size."
            )
        read.update(layer.inputs)
    unread = sorted(set(range(1, len(genotype))) - read)
    if not genotype or unread:
        raise UsageError(
            f"layers {unread} of {len(genotype)} are read by none; join them, or leave them out."
        )


PAPER = Paper(
    "Neural Architecture Search with Reinforcement Learning",
    year=2016,
    authors="Zoph, Le",
    arxiv="1611.01578",
)
register(
    "nas_v1",
    partial(NAS, V1),
    paper=PAPER,
    family="nas",
    image=32,
    classes=10,
    published=Published(
        params="4.2M", layers=15, error_pct="5.50", test="CIFAR-10 test, augmented", source="table 1"
    ),
    summary="15 layers with rectangular filters and many skip connections, no strides, no pooling (figure 7)",
)
