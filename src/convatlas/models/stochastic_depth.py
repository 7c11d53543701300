"""Stochastic depth: a network that is short while it is trained and deep when it is used (Huang et al., 2016).

For each mini-batch every block is left out with a probability that grows with its depth, and only its shortcut stays.
Gradients come to the first layers on shorter ways, training is faster by the work that is not done, and the network
that is used afterwards is an average of all its shorter ones. A ResNet of 1202 layers, which overfits, then improves
on one of 110.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models.residual import Place, ResidualNet, known, make_stem
from convatlas.models.resnet import Block, Conv, basic, make_shortcut
from convatlas.registry import Paper, Published, register


class SurvivingBlock(Block):
    """relu(b · F(x) + shortcut(x)), with b = 1 or 0 for a whole mini-batch in training (equation 2).

    Else b is the probability of 1 (equation 5). (N, c_in, H, W) -> (N, c_out, H / stride, W / stride). A block that is
    left out computes nothing and moves no BatchNorm statistics. Its parameters get gradients of 0, not none: momentum
    and weight decay go on as in the authors' code, and processes that left out other blocks can add their gradients.
    """

    private_outputs = ()  # a block that is left out has no residual

    def __init__(self, convs: Sequence[Conv], added: nn.Module, survival: float) -> None:
        super().__init__(convs, added)
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        if not self.training:
            residual = self.survival * self.residual(x)
        elif self.survival == 1 or float(torch.rand((), device="cpu")) < self.survival:
            residual = self.residual(x)
        else:
            residual = 0 * torch.stack([parameter.sum() for parameter in self.residual.parameters()]).sum()
        return self.relu(residual + (x if self.shortcut is None else self.shortcut(x)))

    def extra_repr(self) -> str:
        """The probability, in the printed network."""
        return f"survival={self.survival:.3g}"


def survival(block: int, blocks: int, last: float) -> float:
    """Probability that block 1, ..., `blocks` stays: falls linearly from 1, before the first, to `last` (equation 4).

    Examples:
        >>> [survival(block, 4, 0.5) for block in (1, 2, 3, 4)]
        [0.875, 0.75, 0.625, 0.5]
    """
    return 1 - block / blocks * (1 - last)


class StochasticDepthNet(ResidualNet):
    """A CIFAR ResNet of basic blocks that survive by chance: images (N, in_channels, H, W) -> logits (N, num_classes).

    Its parameters have the names and shapes of `resnet110_cifar` and its like.

    Args:
        depths: blocks per stage.
        last: probability that the last block survives; that of the others falls linearly from 1 to it.
        width: channels of the first stage.
        shortcut: A, zero-padded, or B, projected where shapes change.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        last: float = 0.5,
        width: int = 16,
        shortcut: Literal["A", "B"] = "A",
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if not 0 < last <= 1:
            raise UsageError(f"last={last} was asked for; a block survives with a probability in (0, 1].")
        known(shortcut=(shortcut, ("A", "B")))

        def block(place: Place) -> SurvivingBlock:
            position = sum(depths[: place.stage]) + place.number + 1
            stays = survival(position, sum(depths), last)
            return SurvivingBlock(basic(place), make_shortcut(shortcut, place) or nn.Identity(), stays)

        super().__init__(
            make_stem("3x3", in_channels, width),
            depths,
            block,
            width=width,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )


PAPER = Paper(
    "Deep Networks with Stochastic Depth",
    year=2016,
    authors="Huang, Sun, Liu, Sedra, Weinberger",
    arxiv="1603.09382",
)
LEFT_OUT = "a block is left out of a whole mini-batch, with all its layers"

# Layers, CIFAR-10 error, others (table 1; without augmentation Huang et al., 2017, table 2, and of 1202 figure 5).
for layers, error, others in (
    (
        110,
        "5.23",
        {
            "CIFAR-10 test, not augmented": "11.66",
            "CIFAR-100 test, augmented": "24.58",
            "CIFAR-100 test, not augmented": "37.80",
            "SVHN test": "1.75",
        },
    ),
    (1202, "4.91", {}),
):
    n = (layers - 2) // 6
    register(
        f"resnet{layers}_stochastic_depth_cifar",
        partial(StochasticDepthNet, (n, n, n)),
        paper=PAPER,
        family="stochastic_depth",
        image=32,
        classes=10,
        published=Published(
            params="1.7M" if layers == 110 else None,
            error_pct=error,
            other_errors_pct=others,
            layers=layers,
            test="CIFAR-10 test, augmented",
            source="table 1 and section 4; Huang et al., 2017 (DenseNet), table 2",
        ),
        summary=f"resnet{layers}_cifar whose blocks survive with probabilities from 1 to 0.5",
        silent={r"^features\.conv\d_x\.\d+\.residual\.": LEFT_OUT},
    )
