"""SimpNet: a plain network whose every width has a reason (Hasanpour, Rouhani, Fayyaz, Sabokrou & Adeli, 2018).

No branches, no shortcuts: thirteen 3x3 convolutions in three homogeneous groups, two pools, a global max-pool. The
paper derives the form from principles, and shows each by networks of equal size that differ in one respect: depth,
where the width is spent, how the resolution falls. A network here is a plan, a line of text in the tables at the end.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.saf_pooling import Mode, saf_pooling
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

# A plan's words: a number of filters, and what is unlike "3x3 convolution, BatchNorm, ReLU"; or P, a pool.
#   x1  1x1 filters, padded by one pixel all the same, as in the authors' files
#   /2  the convolution strides
#   p   a max-pool between the convolution and BatchNorm
#   -   the convolution alone, without BatchNorm and ReLU
WORD = re.compile(r"(?P<filters>\d+)(?P<small>x1)?(?P<stride>/2)?(?P<pool>p)?(?P<alone>-)?")


def layer(word: str, c_in: int, *, dropout: float, momentum: float) -> nn.Sequential:
    """(N, c_in, H, W) -> (N, K, H, W), or half the resolution: what a word of a plan says.

    Raises `UsageError` for a word of another form.
    """
    match = WORD.fullmatch(word)
    if match is None:
        raise UsageError(f"{word!r} is no word of a plan; examples are P, 64, 64x1, 64/2, 64p and 64-.")
    filters, kernel = int(match["filters"]), 1 if match["small"] else 3
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(c_in, filters, kernel, 2 if match["stride"] else 1, padding=1)
    )
    if match["pool"]:
        layers["pool"] = nn.MaxPool2d(2)
    if not match["alone"]:
        layers["bn"] = nn.BatchNorm2d(filters, momentum=momentum)
        layers["relu"] = nn.ReLU()
    if dropout:
        layers["drop"] = nn.Dropout(dropout)
    return nn.Sequential(layers)


class SimpNet(Classifier):
    """The layers of a plan, the maximum over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        plan: the layers, word by word; see `WORD`.
        saf: how the pools of the plan switch responses off while training; see `saf_pooling`.
        saf_rates: the share for each pool; 0 where none is given.
        layer_dropout: probability after each layer, one number for each resolution, 0 where none is given. The layer
            before a pool has none: there the pool switches off.
        momentum: how fast BatchNorm's statistics move; Caffe's fraction is 1 minus this.
        dropout: probability before the linear layer, that is, SAF-pooling's share after the global pool.

    Raises:
        UsageError: for a plan that cannot be read.
    """

    def __init__(
        self,
        plan: str,
        *,
        saf: Mode = "random",
        saf_rates: Sequence[float] = (),
        layer_dropout: Sequence[float] = (),
        momentum: float = 0.05,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        words = plan.split()
        if not words or "P" in (words[0], words[-1]):
            raise UsageError(f"the plan {plan!r} cannot be built; it begins and ends with a layer.")
        features = OrderedDict[str, nn.Module]()
        stages: list[Stage] = []
        channels, stride, number, pools = in_channels, 1, 0, 0
        for word, following in zip(words, [*words[1:], "end"], strict=True):
            if word == "P":
                features[f"pool{pools + 1}"] = saf_pooling(_at(saf_rates, pools), saf)
                pools, stride = pools + 1, 2 * stride
                continue
            number += 1
            halves = "p" in word or "/2" in word
            stride *= 2 if halves else 1
            group = stride.bit_length() - 1
            rate = 0.0 if following in ("P", "end") else _at(layer_dropout, group)
            features[f"conv{number}"] = layer(word, channels, dropout=rate, momentum=momentum)
            channels = int(cast("re.Match[str]", WORD.fullmatch(word))["filters"])
            if following in ("P", "end") or "p" in following or "/2" in following:
                stages.append(Stage(f"conv{number}", channels, stride))
        head = OrderedDict[str, nn.Module](pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten())
        if dropout:
            head["dropout"] = nn.Dropout(dropout)
        head["fc"] = nn.Linear(channels, num_classes)
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        initialise(self)


def initialise(network: nn.Module) -> None:
    """Caffe's "xavier": uniform weights of variance 1 / fan_in, biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]


def _at(rates: Sequence[float], place: int) -> float:
    return rates[place] if place < len(rates) else 0.0


PAPER = Paper(
    "Towards Principled Design of Deep Convolutional Networks: Introducing SimpNet",
    year=2018,
    authors="Hasanpour, Rouhani, Fayyaz, Sabokrou, Adeli",
    arxiv="1802.06205",
)
SLIM = "30 40 40 40 50 P 50 50 50 50 58 P 58 70 90"
_register = partial(register, paper=PAPER, family="simpnet", image=32)


def _published(
    params: str, accuracy: str, source: str, classes: int = 10, other: str | None = None
) -> Published:
    """The paper prints accuracies; here stands 100 minus it."""
    errors = [f"{100 - float(figure):.2f}" for figure in filter(None, (accuracy, other))]
    return Published(
        params=params,
        error_pct=errors[0],
        other_errors_pct={"CIFAR-100 test, augmented": errors[1]} if other else {},
        test=f"CIFAR-{classes} test, augmented",
        source=source,
    )


# The five networks: (name, plan, dropout of layers, SAF-pooling's shares, the last one before the linear layer,
# BatchNorm's momentum, parameters as printed, accuracies on CIFAR-10 and CIFAR-100).
for name, plan, inner, shares, momentum, params, accuracy, hundred in (
    ("simpnet_slim_300k", SLIM, (), (0.0, 0.0, 0.0), 0.01, "300K", "93.25", "68.47"),
    (
        "simpnet_slim_600k",
        "40 60 60 60 72 P 73 73 73 75 81 P 82 90 120",
        (0.1, 0.1, 0.2),
        (0.1, 0.2, 0.2),
        *(0.01, "600K", "94.03", "71.74"),
    ),
    (
        "simpnet_slim_1m",
        "60 80 80 80 85 P 85 90 90 90 110 P 110 127 150",
        (),
        (0.1, 0.2, 0.2),
        *(0.01, "1M", "94.76", None),
    ),
    (
        "simpnet_5m",
        "66 128 128 128 192 P 192 192 192 192 288 P 288 355 432",
        (0.2, 0.2, 0.3),
        (0.2, 0.3, 0.3),
        *(0.05, "5.48M", "95.69", "78.16"),
    ),
    (
        "simpnet_8_9m",
        "128 182 182 182 182 P 182 182 182 182 430 P 430 455 600",
        (0.2, 0.2, 0.2),
        (0.2, 0.2, 0.2),
        *(0.05, "8.9M", "96.12", "79.53"),
    ),
):
    _register(
        name,
        partial(
            SimpNet, plan, layer_dropout=inner, saf_rates=shares[:2], dropout=shares[2], momentum=momentum
        ),
        classes=10,
        published=_published(params, accuracy, "tables of results", other=hundred),
        summary=f"13 layers: {plan}",
    )

# The tables of principles: (table, name, plan, parameters and accuracy as printed, dropout everywhere).
for table, name, plan, params, accuracy, inner in (
    (2, "8", "41 43 70 P 70 70 70 85 P 90", "300K", "90.21", 0.0),
    (2, "9", "44 44 57 P 57 57 57 75 P 85 96", "300K", "90.55", 0.0),
    (2, "10", "40 40 40 55 P 55 55 55 75 P 85 95", "300K", "90.61", 0.0),
    (2, "13", SLIM, "300K", "89.78", 0.0),
    (3, "6", "64 64 P 128 128 P 256 256", "1.1M", "92.18", 0.0),
    (3, "10", "32 48 48 96 P 96 96 96p 96 96 P 96", "570K", "92.23", 0.0),
    (4, "10_wide", "64 128 128 256 P 256 256 384p 384 512 P 512", "8M", "95.19", 0.2),
    (4, "10_balanced", "150 200 200 300 P 300 300 300p 300 512 P 512", "8M", "95.51", 0.2),
    (4, "13_wide", "19 16 16 16 16 P 16 16 16 32 P 32 32 P 252x1 P 300x1", "128K", "87.20", 0.0),
    (4, "13_balanced", "19 25 25 25 25 P 25 25 25 56 P 56 56 P 110x1 P 110x1", "128K", "89.70", 0.0),
    (6, "13_pool", "36 44 44 44 55 P 55 55 55 55 62 P 62 71 100", "360K", "69.28", 0.0),
    (6, "15_pool", "30 40 40 40 50 50- P 50 50 50 50 58 58- P 58 70 90", "360K", "68.89", 0.0),
    (6, "15_strided", "30 40 40 40 50 50/2- 50 50 50 50 58 58/2- 58 70 90", "360K", "68.10", 0.0),
    (6, "15_pool_relu", "30 40 40 40 50 50 P 50 50 50 50 58 58 P 58 70 90", "360K", "68.27", 0.0),
    (6, "15_strided_relu", "30 40 40 40 50 50/2 50 50 50 50 58 58/2 58 70 90", "360K", "68.19", 0.0),
):
    classes = 100 if table == 6 else 10
    relu = name.endswith("_relu")
    _register(
        f"simpnet_t{table}_{name}",
        partial(
            SimpNet,
            plan,
            layer_dropout=(inner,) * 4,
            saf_rates=(inner,) * 4,
            dropout=inner,
            momentum=0.01 if table in (2, 6) else 0.05,
        ),
        classes=classes,
        published=_published(params, accuracy, "authors' files" if relu else f"table {table}", classes),
        summary=f"table {table}: {plan}",
    )
