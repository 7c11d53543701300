"""MCDNN: many small networks, each trained on other images, and the mean of what they say (Cireşan et al., 2012).

A column is a small LeNet with max-pooling. Columns differ in their first weights and in the preprocessing of their
images: for MNIST, digits squeezed or stretched to seven widths, five columns for each. Their errors differ, too, and
so the mean of their probabilities errs less often than a column alone.

All columns stand side by side as one network: a convolution in 35 groups is 35 convolutions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.scaled_tanh import ScaledTanh
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


class Spread(nn.Module):
    """The same image for every column: (N, C, H, W) -> (N, columns * C, H, W)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, columns * C, H, W)."""
        return x.repeat(1, self.columns, 1, 1)


class Vote(nn.Module):
    """The mean of the columns' probabilities (section 2), as logits: (N, columns * K, 1, 1) -> (N, K).

    Logits are the logarithms of the means, so that their softmax is the mean.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """(N, columns * K, 1, 1) -> (N, K)."""
        each = x.flatten(1).unflatten(1, (self.columns, -1)).log_softmax(dim=2)
        return each.logsumexp(dim=1) - math.log(self.columns)


class MCDNN(Classifier):
    """Columns 20C4-MP2-40C5-MP3-150N-KN side by side: images (N, in_channels, 29, 29) -> logits (N, K).

    The columns meet in the vote only. The paper trains each by itself: train networks of one column, then put
    them together by `committee`. Larger images give larger maps, which adaptive mean-pooling brings to 3x3.

    Args:
        columns: how many.
        dropout: probability before the last layer; the paper has none.
    """

    classifier_name: ClassVar[str] = "output"

    def __init__(
        self, *, columns: int = 1, dropout: float = 0.0, num_classes: int = 10, in_channels: int = 1
    ) -> None:
        if columns < 1:
            raise UsageError(f"{columns} columns were asked for; one or more are possible.")
        self.columns = columns
        features = OrderedDict[str, nn.Module](
            spread=Spread(columns),
            conv1=_squashed(nn.Conv2d(columns * in_channels, columns * 20, 4, groups=columns)),
            pool1=nn.MaxPool2d(2),
            conv2=_squashed(nn.Conv2d(columns * 20, columns * 40, 5, groups=columns)),
        )
        head = OrderedDict[str, nn.Module](
            pool2=nn.MaxPool2d(3),
            pool=nn.AdaptiveAvgPool2d(3),
            hidden=_squashed(nn.Conv2d(columns * 40, columns * 150, 3, groups=columns)),
            dropout=nn.Dropout(dropout),
            output=nn.Conv2d(columns * 150, columns * num_classes, 1, groups=columns),
            vote=Vote(columns),
        )
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            [Stage("conv1", columns * 20, 1), Stage("conv2", columns * 40, 2)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=columns * 150,
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)  # section 3

    def forward_views(self, views: Tensor) -> Tensor:
        """Logits of images that each column sees in its own preprocessing: (N, V, C, H, W) -> (N, K).

        The V views are shared out in order: with 35 columns and 7 widths, columns 0 to 4 see the first. Raises
        `UsageError` unless V divides the columns.
        """
        if views.ndim != 5 or self.columns % views.shape[1]:
            raise UsageError(
                f"views of shape {tuple(views.shape)} came for {self.columns} columns; expected (N, V, C, H, W), "
                "where V divides the columns."
            )
        x = views.repeat_interleave(self.columns // views.shape[1], dim=1).flatten(1, 2)
        for name, child in self.features.named_children():
            x = x if name == "spread" else child(x)
        return self.forward_head(x)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A fresh last layer for every column: (N, columns * 150, 1, 1) -> (N, columns * num_classes, 1, 1)."""
        output = nn.Conv2d(self.head_hidden_size, self.columns * num_classes, 1, groups=self.columns)
        for parameter in output.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)
        return output

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier in place; with 0 classes there is no vote, and all columns' 150 values come out."""
        super().reset_classifier(num_classes)
        self.head.set_submodule("vote", Vote(self.columns) if num_classes else nn.Flatten())


def _squashed(layer: nn.Module) -> nn.Sequential:
    """A layer and its squashing function."""
    return nn.Sequential(OrderedDict[str, nn.Module](conv=layer, squash=ScaledTanh()))


def committee(members: Sequence[MCDNN]) -> MCDNN:
    """Trained networks put together, with copies of their weights: its columns are theirs, in order.

    Raises `UsageError` without members, or if they differ in classes or in channels.

    Source: section 2, "forming the MCDNN".

    Examples:
        >>> committee([MCDNN(), MCDNN(columns=2)]).columns
        3
    """
    kinds = {(member.num_classes, member.in_channels) for member in members}
    if len(kinds) != 1 or (0, members[0].in_channels) in kinds:
        raise UsageError(
            f"{len(members)} networks of {sorted(kinds)} (classes, channels) came; a committee has one member or "
            "more, all with the same classes and channels."
        )
    ((num_classes, in_channels),) = kinds
    together = MCDNN(
        columns=sum(member.columns for member in members), num_classes=num_classes, in_channels=in_channels
    )
    states = [member.state_dict() for member in members]
    like = next(members[0].parameters())
    together.to(like.device, like.dtype)
    together.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return together.train(members[0].training)


PAPER = Paper(
    "Multi-column Deep Neural Networks for Image Classification",
    year=2012,
    authors="Cireşan, Meier, Schmidhuber",
    arxiv="1202.2745",
)
register(
    "mcdnn_column",
    MCDNN,
    paper=PAPER,
    family="mcdnn",
    image=29,
    channels=1,
    classes=10,
    smallest=17,
    published=Published(layers=4, source="table 1"),
    summary="one column: 20C4-MP2-40C5-MP3-150N-10N",
)
register(
    "mcdnn_35",
    partial(MCDNN, columns=35),
    paper=PAPER,
    family="mcdnn",
    image=29,
    channels=1,
    classes=10,
    smallest=17,
    published=Published(error_pct="0.23", layers=4, test="MNIST test", source="tables 1 and 2"),
    summary="35 columns and the mean of their probabilities",
)
