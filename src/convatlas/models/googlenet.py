"""GoogLeNet: Inception modules look at several scales at once (Szegedy et al., 2014).

A module runs 1x1, 3x3 and 5x5 convolutions and a pooling side by side and concatenates what they find. Done naively
that is dear, and the channels grow from module to module, as pooling keeps them all. So 1x1 convolutions first reduce
the channels that the large kernels see, and the pooled ones too. A module is a row of table 1. Two auxiliary heads
speed the gradient on its way to the early layers while the network is trained; a prediction does without them.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.branches import Branches, Unit, chain, inception
from convatlas.layers.conv import Size, conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import glorot_uniform, he_normal
from convatlas.layers.lrn import lrn as local_response_norm
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register


class Widths(NamedTuple):
    """Channels of a module's convolutions, in the order of table 1's columns."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pooled: int


TABLE_1 = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


def conv_relu(
    c_in: int, c_out: int, kernel: Size = 1, stride: int = 1, *, padding: Size | None = None
) -> nn.Sequential:
    """A convolution with bias, and ReLU: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding)
    return nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU()))


def naive_module(c_in: int, one: int, three: int, five: int, *, unit: Unit = conv_relu) -> Branches:
    """1x1, 3x3 and 5x5 convolutions and 3x3 max-pooling side by side (figure 2a).

    (N, c_in, H, W) -> (N, one + three + five + c_in, H, W)
    """
    chains = {"1x1": [(one, 1)], "3x3": [(three, 3)], "5x5": [(five, 5)]}
    branches: dict[str, nn.Module] = {name: chain(c_in, rows, unit=unit) for name, rows in chains.items()}
    return Branches({**branches, "pool": nn.MaxPool2d(3, stride=1, padding=1)})


def reduced_module(c_in: int, widths: Widths, *, largest: int = 5, unit: Unit = conv_relu) -> Branches:
    """The same with 1x1 convolutions before the large kernels and after the pooling (figure 2b).

    (N, c_in, H, W) -> (N, one + three + five + pooled, H, W)

    Args:
        c_in: channels of the input.
        widths: a row of table 1.
        largest: kernel size of the third branch.
        unit: makes a convolution with what follows it.
    """
    chains = {
        "1x1": [(widths.one, 1)],
        "3x3": [(widths.reduce3, 1), (widths.three, 3)],
        "5x5": [(widths.reduce5, 1), (widths.five, largest)],
    }
    pool = nn.MaxPool2d(3, stride=1, padding=1)
    return inception(c_in, chains, pool=pool, pooled=widths.pooled, unit=unit)


def auxiliary_head(
    c_in: int, num_classes: int, *, pool: Literal["paper", "adaptive"], dropout: float, unit: Unit
) -> nn.Sequential:
    """Pooling to 4x4 pixels, a 1x1 convolution, two linear layers: (N, c_in, h, w) -> (N, num_classes).

    The paper pools 5x5 windows with stride 3, which makes 4x4 of 14x14 pixels; what that makes of another size is
    brought to 4x4 here. "adaptive" divides the map into 4x4 windows at once.
    """
    layers = OrderedDict[str, nn.Module]()
    if pool == "paper":
        layers["pool"] = nn.AvgPool2d(5, stride=3, ceil_mode=True)
    layers["fit"] = nn.AdaptiveAvgPool2d(4)
    layers["conv"] = unit(c_in, 128)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(128 * 4 * 4, 1024)
    layers["act"] = nn.ReLU()
    layers["dropout"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(1024, num_classes)
    return nn.Sequential(layers)


class GoogLeNet(Classifier):
    """A stem of three convolutions, nine modules, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes), in training mode `WithAuxiliary`. The defaults are the
    paper's.

    Args:
        largest: kernel size of the modules' third branch.
        batch_norm: BatchNorm after every convolution, instead of biases.
        lrn: local response normalisation around the second and third convolution, with AlexNet's values.
        last_pool: window of the pooling before module 5a; it has stride 2.
        aux: auxiliary heads after modules 4a and 4d, with weight 0.3 in the loss (section 5).
        aux_pool: "paper" or "adaptive" (see `auxiliary_head`).
        aux_dropout: probability before the last layer of the auxiliary heads.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        *,
        largest: int = 5,
        batch_norm: bool = False,
        lrn: bool = True,
        last_pool: int = 3,
        aux: bool = True,
        aux_pool: Literal["paper", "adaptive"] = "paper",
        aux_dropout: float = 0.7,
        dropout: float = 0.4,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if aux_pool not in ("paper", "adaptive"):
            raise UsageError(f"aux_pool={aux_pool!r} is not known; 'paper' and 'adaptive' are.")
        if largest % 2 == 0:
            raise UsageError(f"largest={largest}: the branches only fit together with an odd kernel size.")
        unit: Unit = partial(conv_bn, eps=1e-3) if batch_norm else conv_relu
        features = _stem(in_channels, unit, lrn)
        channels = 192
        widths: dict[str, int] = {}
        for name, row in TABLE_1.items():
            if name == "4a":
                features["pool3"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            if name == "5a":
                features["pool4"] = nn.MaxPool2d(last_pool, stride=2, ceil_mode=True)
            features[f"inception{name}"] = reduced_module(channels, row, largest=largest, unit=unit)
            channels = widths[name] = row.one + row.three + row.five + row.pooled
        auxiliary = {
            f"inception{name}": auxiliary_head(
                widths[name], num_classes, pool=aux_pool, dropout=aux_dropout, unit=unit
            )
            for name in ("4a", "4d")
        }
        ends = (("3b", 8), ("4e", 16), ("5b", 32))
        super().__init__(
            nn.Sequential(features),
            mean_head(channels, num_classes, dropout),
            [
                Stage("conv1", 64, 2),
                Stage("conv2", 192, 4),
                *(Stage(f"inception{name}", widths[name], stride) for name, stride in ends),
            ],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
            auxiliary=auxiliary if aux else None,
            auxiliary_weight=0.3,
        )
        # The paper is silent. By He's rule the logits of the form without BatchNorm start near 100, as the fan-out of
        # the reductions is so much smaller than their fan-in.
        he_normal(self) if batch_norm else glorot_uniform(self)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """In torchvision, numbers for the branches."""
        if origin != "torchvision":
            return None
        branches = (("1x1.0", "branch1"), ("3x3", "branch2"), ("5x5", "branch3"), ("pool", "branch4"))
        return [
            (r"^features\.conv2\.reduce\.", "conv2."),
            (r"^features\.conv2\.conv\.", "conv3."),
            (r"^features\.", ""),
            *((rf"^(inception..)\.{ours}\.", rf"\1.{theirs}.") for ours, theirs in branches),
            (r"^auxiliary\.inception4a\.", "aux1."),
            (r"^auxiliary\.inception4d\.", "aux2."),
            (r"^(aux.)\.fc\.", r"\1.fc2."),
            (r"^head\.fc\.", "fc."),
        ]


def _stem(in_channels: int, unit: Unit, lrn: bool) -> OrderedDict[str, nn.Module]:
    """(N, in_channels, H, W) -> (N, 192, H / 8, W / 8); the order of norm and pooling is that of figure 3."""
    layers = OrderedDict[str, nn.Module](conv1=unit(in_channels, 64, 7, 2))
    layers["pool1"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    if lrn:
        layers["lrn1"] = local_response_norm()
    layers["conv2"] = nn.Sequential(OrderedDict(reduce=unit(64, 64), conv=unit(64, 192, 3)))
    if lrn:
        layers["lrn2"] = local_response_norm()
    layers["pool2"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return layers


PAPER = Paper(
    "Going Deeper with Convolutions",
    year=2014,
    authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
    arxiv="1409.4842",
)
# The columns "params" and "ops" of table 1. K is 1,024, and six numbers of parameters are only near what the channels
# give, by up to 2 %: those of 3b, 4a, 4b, 4d, 4e and 5b.
ROWS: dict[str, tuple[str, str]] = {
    "features.conv1": ("2.7K", "34M"),
    "features.conv2": ("112K", "360M"),
    "features.inception3a": ("159K", "128M"),
    "features.inception3b": ("380K", "304M"),
    "features.inception4a": ("364K", "73M"),
    "features.inception4b": ("437K", "88M"),
    "features.inception4c": ("463K", "100M"),
    "features.inception4d": ("580K", "119M"),
    "features.inception4e": ("840K", "170M"),
    "features.inception5a": ("1072K", "54M"),
    "features.inception5b": ("1388K", "71M"),
    "head.fc": ("1000K", "1M"),
}
register(
    "googlenet_paper",
    GoogLeNet,
    paper=PAPER,
    family="googlenet",
    image=224,
    published=Published(
        top5_error_pct="10.07",
        layers=22,
        test="ILSVRC-2014 val, one network, one crop",
        other_errors_pct={"top-5, ILSVRC-2014 test, 7 networks, 144 crops": "6.67"},
        source="tables 1 to 3",
        params_by_layer={path: params for path, (params, _) in ROWS.items()},
        macs_by_layer={path: macs for path, (_, macs) in ROWS.items()},
    ),
    summary="the paper's: 5x5 convolutions, local response normalisation, two auxiliary heads",
    smallest=47,
)
register(
    "googlenet",
    partial(GoogLeNet, largest=3, batch_norm=True, lrn=False, last_pool=2, aux_pool="adaptive", dropout=0.2),
    paper=PAPER,
    family="googlenet",
    image=224,
    summary="torchvision's: BatchNorm, 3x3 convolutions for 5x5",
    peers={"torchvision": "googlenet"},
)
