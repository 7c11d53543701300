"""FractalNet: very deep networks without residuals (Larsson, Maire & Shakhnarovich, 2016).

One rule, applied again and again, makes a block: f_1 is a convolution, and f_(C+1) joins f_C after f_C with one more
convolution beside them. Drawn out, a block has C columns of 1, 2, 4, ... convolutions, with joins (means) wherever
columns end at the same height. No signal passes unchanged, and yet the deep columns can be trained: the shallow ones
teach them. Drop-path keeps columns from leaning on each other, so each of them is a good network by itself.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.head import mean_head
from convatlas.layers.init import glorot_uniform
from convatlas.layers.recompute import recompute
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


def unit(c_in: int, c_out: int, dropout: float) -> nn.Sequential:
    """Convolution 3x3, dropout, BatchNorm, ReLU: (N, c_in, H, W) -> (N, c_out, H, W)."""
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(c_in, c_out, 3, padding=1))
    if dropout:
        layers["drop"] = nn.Dropout(dropout)
    layers["bn"], layers["relu"] = nn.BatchNorm2d(c_out), nn.ReLU()
    return nn.Sequential(layers)


def join(inputs: Sequence[Tensor], shares: Tensor | None) -> Tensor:
    """The mean of the inputs, each (N, C, H, W), or their sum with `shares` (inputs, 1 or N) as factors."""
    if shares is None:
        return torch.stack(tuple(inputs)).mean(0)
    return torch.stack([x * share.view(-1, 1, 1, 1) for x, share in zip(inputs, shares, strict=True)]).sum(0)


class FractalBlock(nn.Module):
    """f_C and 2x2 max-pooling, figure 1: (N, c_in, H, W) -> (N, width, H/2, W/2).

    Child `columnI` has 2^(I-1) convolutions; the last children of all columns are their pools. The paper exchanges the
    pooling with the last join, and so every column is pooled by itself.
    """

    def __init__(self, c_in: int, width: int, columns: int, dropout: float) -> None:
        super().__init__()
        for i in range(1, columns + 1):
            layers = OrderedDict[str, nn.Module]()
            for j in range(2 ** (i - 1)):
                layers[f"unit{j + 1}"] = unit(c_in if j == 0 else width, width, dropout)
            layers["pool"] = nn.MaxPool2d(2)
            self.add_module(f"column{i}", nn.Sequential(layers))

    def forward(self, x: Tensor, shares: Tensor | None = None) -> Tensor:
        """(N, c_in, H, W) -> (N, width, H/2, W/2); `shares` (joins, columns, 1 or N) are factors at the joins."""
        columns = [list(cast(nn.Sequential, column)) for column in self.children()]
        count, height = len(columns), 2 ** (len(columns) - 1)
        signals, joined = [x] * count, 0
        for step in range(1, height + 1):
            ending = [i for i in range(count) if step % 2 ** (count - 1 - i) == 0]
            for i in ending:
                signals[i] = columns[i][step // 2 ** (count - 1 - i) - 1](signals[i])
            if step == height:
                signals = [column[-1](signal) for column, signal in zip(columns, signals, strict=True)]
            if len(ending) > 1:
                at_join = None if shares is None else shares[joined, ending[0] :]
                together = join(signals[ending[0] :], at_join)
                signals[ending[0] :] = [together] * len(ending)
                joined += 1
        return signals[-1]


def joins(columns: int) -> list[int]:
    """How many columns meet at each join of a block, in order: the deepest ones.

    Examples:
        >>> joins(3), joins(4)
        ([2, 3], [2, 3, 2, 4])
    """
    counts = [sum(step % 2**i == 0 for i in range(columns)) for step in range(1, 2 ** (columns - 1) + 1)]
    return [count for count in counts if count > 1]


def drop_paths(
    meeting: Sequence[int], columns: int, rate: float, global_share: float, like: Tensor
) -> Tensor:
    """Factors of the inputs at joins where `meeting` columns meet: (joins, columns, N of `like`), each join's sum 1.

    With probability `global_share` drop-path is global: one column, the same at every join. Otherwise it is local: a
    join drops each input with probability `rate`, and if it would drop all of them, one survives (section 3).
    """
    n, device = like.shape[0], like.device
    column = torch.arange(columns, device=device).view(1, -1, 1)
    first = torch.tensor([columns - count for count in meeting], device=device).view(-1, 1, 1)
    present = column >= first
    chances = torch.rand(len(meeting), columns, n, device=device).masked_fill(~present, -1)
    local = (chances >= rate) | (
        chances == chances.amax(1, keepdim=True)
    )  # among equals, any survivor will do
    chosen = torch.randint(columns, (n,), device=device)
    single = present & (column == chosen)
    single = single | (present & (chosen < first))  # a join that the column does not reach leads nowhere
    kept = torch.where(torch.rand(n, device=device) < global_share, single, local & present).to(like.dtype)
    return kept / kept.sum(1, keepdim=True)


class FractalNet(Classifier):
    """Fractal blocks, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        columns: C; the network is as deep as len(widths) * 2^(C-1) convolutions and a linear layer.
        widths: channels of each block.
        block_dropout: probability after the convolutions of each block.
        drop_path: probability of an input to be dropped at a join by local drop-path; 0 switches drop-path off.
        global_share: share of the mini-batches with global drop-path.
        per_image: draw paths for each image, and not for each mini-batch.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        columns: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        block_dropout: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4),
        drop_path: float = 0.15,
        global_share: float = 0.5,
        per_image: bool = False,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if len(block_dropout) != len(widths):
            raise UsageError(f"{block_dropout=} and {widths=} need one number per block.")
        if not (0 <= drop_path < 1 and 0 <= global_share <= 1):
            raise UsageError(f"{drop_path=} and {global_share=} are probabilities: in [0, 1) and in [0, 1].")
        features = OrderedDict[str, nn.Module]()
        stages: list[Stage] = []
        c_in = in_channels
        for i, (width, rate) in enumerate(zip(widths, block_dropout, strict=True), start=1):
            features[f"block{i}"] = FractalBlock(c_in, width, columns, rate)
            stages.append(Stage(f"block{i}", width, 2**i))
            c_in = width
        super().__init__(
            nn.Sequential(features),
            mean_head(c_in, num_classes, dropout),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
        )
        self.columns = columns
        self.drop_path, self.global_share, self.per_image = drop_path, global_share, per_image
        glorot_uniform(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_features, h, w)."""
        if not self.training:
            return super().forward_features(x)
        *_, (_, x) = self.run_features(x)
        return x

    def run_features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each block's name and output; in training mode on paths that are drawn once for the whole network."""
        shares: list[Tensor | None] = [None] * len(self.features)  # pyright: ignore[reportArgumentType]
        if self.training and self.drop_path and self.columns > 1:
            meeting = joins(self.columns) * len(shares)
            drawn = drop_paths(
                meeting, self.columns, self.drop_path, self.global_share, x if self.per_image else x[:1]
            )
            shares = list(drawn.split(len(meeting) // len(shares)))
        save = self.grad_checkpointing and torch.is_grad_enabled()
        for (name, block), share in zip(self.features.named_children(), shares, strict=True):
            x = recompute(block, x, share) if save else block(x, share)
            yield name, x

    def column(self, index: int) -> Classifier:
        """The plain network of one column, 1 for the shallowest, with copies of its weights (section 3).

        It gives what the whole network gives where all other columns are dropped. Raises `UsageError` for a column
        that does not exist.
        """
        if not 1 <= index <= self.columns:
            raise UsageError(f"column {index} was asked for; there are 1 to {self.columns}.")
        blocks = [
            (name, copy.deepcopy(block.get_submodule(f"column{index}")))
            for name, block in self.features.named_children()
        ]
        plain = Classifier(
            nn.Sequential(OrderedDict(blocks)),
            copy.deepcopy(self.head),
            self.stages,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            head_hidden_size=self.head_hidden_size,
        )
        return plain.train(self.training)


PAPER = Paper(
    "FractalNet: Ultra-Deep Neural Networks without Residuals",
    year=2016,
    authors="Larsson, Maire, Shakhnarovich",
    arxiv="1605.07648",
)
_register = partial(
    register,
    paper=PAPER,
    family="fractalnet",
    image=32,
    classes=10,
    silent={r"^features\.block\d\.column\d\.": "drop-path leaves columns out of a mini-batch"},
)
_register(
    "fractalnet21_cifar",
    partial(FractalNet, 3),
    published=Published(
        params="38.6M",
        error_pct="4.60",
        other_errors_pct={
            "CIFAR-10": "7.33",
            "CIFAR-100": "28.20",
            "CIFAR-100, augmented": "23.73",
            "SVHN": "1.87",
            "CIFAR-10, augmented, without dropout and drop-path": "5.22",
            "CIFAR-100, augmented, without dropout and drop-path": "23.30",
        },
        layers=21,
        test="CIFAR-10 test, augmented",
        source="table 1",
    ),
    summary="five blocks of three columns: 20 convolutions in the deepest",
)
_register(
    "fractalnet41_cifar",
    partial(FractalNet, 4),
    published=Published(layers=41, source="section 4"),
    summary="five blocks of four columns: 40 convolutions in the deepest",
)
