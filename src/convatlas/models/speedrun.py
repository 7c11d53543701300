"""The speedrun network: 94 % on CIFAR-10 with as little arithmetic as can be (Jordan, 2024).

Everything here is there to be learnt in a few passes. A first convolution of 2x2 whitens the pixels and is never
trained, so that the layers behind it need not find out that neighbouring pixels are alike. Three blocks follow, each of
which halves the map before its second convolution. Their convolutions start as the identity where they can. The largest
value of each map goes to a linear layer, made so small that its logits start near 0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from convatlas.layers.max_pool import QuickMaxPool2d
from convatlas.layers.winograd import Winograd2d
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, register

WIDTHS = (64, 256, 256)  # channels of the three blocks
WINOGRAD_FROM = 128  # channels that come in; with fewer, changing coordinates costs more than it saves
WHITENED = 2  # side of the patches that the first layer whitens


class Scale(nn.Module):
    """x * factor, any shape: a layer behind it learns as if its rate were factor^2 as large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.factor:g}"


def whitening(in_channels: int) -> nn.Sequential:
    """A 2x2 convolution, held: (N, C, H, W) -> (N, 8C, H - 1, W - 1), a filter and its negative for each direction.

    It is drawn at random; the start named "whitening" makes it whiten (`convatlas.layers.init`). Its bias learns.
    """
    layer = nn.Conv2d(in_channels, 2 * in_channels * WHITENED**2, WHITENED)
    layer.weight.requires_grad_(False)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=layer, gelu=nn.GELU()))


def convolution(c_in: int, c_out: int, winograd: bool) -> nn.Conv2d:
    """3x3 without bias, (N, c_in, H, W) -> (N, c_out, H, W); the first c_in outputs start as the input itself."""
    fast = winograd and c_in >= WINOGRAD_FROM
    layer = Winograd2d(c_in, c_out) if fast else nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[: min(c_in, c_out)].detach())
    return layer


def norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """BatchNorm that shifts and does not scale: its weight is held at 1."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    layer.weight.requires_grad_(False)
    return layer


def block(c_in: int, c_out: int, momentum: float, winograd: bool) -> nn.Sequential:
    """Convolution, pooling, and a second convolution: (N, c_in, H, W) -> (N, c_out, H/2, W/2)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=convolution(c_in, c_out, winograd),
            pool=QuickMaxPool2d(2) if winograd else nn.MaxPool2d(2),
            norm1=norm(c_out, momentum),
            gelu1=nn.GELU(),
            conv2=convolution(c_out, c_out, winograd),
            norm2=norm(c_out, momentum),
            gelu2=nn.GELU(),
        )
    )


def classifier(c_in: int, num_classes: int) -> nn.Linear:
    """Linear without bias, weights N(0, 1): (N, c_in) -> (N, num_classes). The scale before it makes logits small."""
    layer = nn.Linear(c_in, num_classes, bias=False)
    nn.init.normal_(layer.weight)
    return layer


class SpeedrunNet(Classifier):
    """Whitening, three blocks, the maximum of each map: images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        widths: channels of the three blocks.
        norm_momentum: share of a batch in BatchNorm's running statistics. Few steps ask for a large one; where a batch
            is worked through in n pieces, each counts, and 1 - 0.4^(1/n) is as fast as 0.6.
        winograd: convolutions of 128 channels and more learn by Winograd's algorithm: less arithmetic, and in bf16 some
            rounding; pooling learns by a compiled loop. See `convatlas.layers.winograd` and `max_pool`.
    """

    classifier_name: ClassVar[str] = "fc"

    def __init__(
        self,
        *,
        widths: Sequence[int] = WIDTHS,
        norm_momentum: float = 0.4,
        winograd: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        features = OrderedDict[str, nn.Module](whiten=whitening(in_channels))
        c_in = 2 * in_channels * WHITENED**2
        stages = [Stage("whiten", c_in, 1)]
        for number, c_out in enumerate(widths, start=1):
            features[f"block{number}"] = block(c_in, c_out, norm_momentum, winograd)
            stages.append(Stage(f"block{number}", c_out, 2**number))
            c_in = c_out
        head = OrderedDict[str, nn.Module](
            pool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            scale=Scale(1 / c_in),
            fc=classifier(c_in, num_classes),
        )
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
        )

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A freshly initialised last layer, without bias: (N, head_hidden_size) -> (N, num_classes)."""
        return classifier(self.head_hidden_size, num_classes)


PAPER = Paper(
    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", year=2024, authors="Jordan", arxiv="2404.00498"
)
register(
    "speedrun_cifar",
    SpeedrunNet,
    paper=PAPER,
    family="speedrun",
    image=32,
    classes=10,
    summary="whitening, three blocks of two convolutions, the maximum of each map",
    silent={
        r"features\.whiten\.conv\.weight": "the whitening is held",
        r"\.norm[12]\.weight": "held at 1: the norms only shift",
    },
)
