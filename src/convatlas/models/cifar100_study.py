"""A lecture's case study on CIFAR-100: one plain network, four trainings, one change at a time (Bucharest, 2024).

Each block filters along rows, then along columns, and does so twice; a strided convolution follows two blocks. The
lecture trains the network bare, with BatchNorm, with augmentation, and with regularisation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


def unit(
    c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, *, batch_norm: bool
) -> nn.Sequential:
    """Convolution, BatchNorm if wanted, ReLU: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(c_in, c_out, sides, stride, (sides[0] // 2, sides[1] // 2))
    )
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(c_out)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def conv_block(c_in: int, c_out: int, *, batch_norm: bool) -> nn.Sequential:
    """1x3, 3x1, 1x3, 3x1 units, which see 5x5 pixels: (N, c_in, H, W) -> (N, c_out, H, W)."""
    kernels = ((1, 3), (3, 1), (1, 3), (3, 1))
    return nn.Sequential(
        *(
            unit(c_in if i == 0 else c_out, c_out, kernel, batch_norm=batch_norm)
            for i, kernel in enumerate(kernels)
        )
    )


class StudyNet(Classifier):
    """For each width two blocks and a strided convolution, then the mean over all pixels and one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        widths: channels of each resolution.
        subsample_last: a strided convolution after the last two blocks too.
        batch_norm: BatchNorm before every ReLU.
        dropout: probability before the linear layer; 0.5 in the lecture's regularised training.

    Raises:
        UsageError: without a width.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 128),
        *,
        subsample_last: bool = True,
        batch_norm: bool = False,
        dropout: float = 0.0,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        if not widths:
            raise UsageError("a network without widths cannot be built; give one for each resolution.")
        features = OrderedDict[str, nn.Module]()
        stages: list[Stage] = []
        c_in = in_channels
        for i, width in enumerate(widths):
            for block in (2 * i + 1, 2 * i + 2):
                features[f"block{block}"] = conv_block(c_in, width, batch_norm=batch_norm)
                c_in = width
            stages.append(Stage(f"block{2 * i + 2}", width, 2**i))
            if subsample_last or i + 1 < len(widths):
                features[f"sub{i + 1}"] = unit(width, width, 3, 2, batch_norm=batch_norm)
        if subsample_last:
            stages.append(Stage(f"sub{len(widths)}", c_in, 2 ** len(widths)))
        super().__init__(
            nn.Sequential(features),
            mean_head(c_in, num_classes, dropout),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
        )
        he_normal(self)


PAPER = Paper(
    "Artificial Intelligence II, lecture 4: Convolutional Neural Networks, example on CIFAR-100",
    year=2024,
    authors="Politehnica Bucharest",
)
_register = partial(register, paper=PAPER, family="cifar100_study", image=32, classes=100)
for suffix, batch_norm, tail in (("", False, ""), ("_bn", True, ", with BatchNorm")):
    _register(
        f"cifar100_study_printed{suffix}",
        partial(StudyNet, batch_norm=batch_norm),
        summary=f"as the lecture prints it: 32 and 128 channels{tail}",
    )
    _register(
        f"cifar100_study{suffix}",
        partial(StudyNet, (32, 128, 256), subsample_last=False, batch_norm=batch_norm),
        published=Published(params="2M", source="the lecture's slide of settings"),
        summary=f"with the stage of 256 channels that the printed table has lost{tail}",
    )
