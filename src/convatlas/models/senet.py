"""SENet: channels that weigh each other (Hu, Shen, Albanie, Sun & Wu, 2017).

Convolutions mix what they see nearby and treat all channels alike, wherever they help or not. Squeeze-and-excitation
takes the mean of every channel over the whole map (squeeze), lets two small layers decide from all of these means how
much each channel is worth (excitation), and multiplies. It stands at the end of a block's residual, before the
addition, so it fits any residual network: `squeeze_excite`. SENet-154 won the classification of ILSVRC-2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.init import he_normal
from convatlas.layers.squeeze_excitation import SqueezeExcitation
from convatlas.models.preact import Unit
from convatlas.models.residual import Place, ResidualNet, Stem, known
from convatlas.models.resnet import Block, Conv, ResNet, make_residual, torchvision_names
from convatlas.registry import Paper, Published, register

Pool = Literal["padded", "ceil"]


def squeeze_excite(network: nn.Module, reduction: int = 16) -> None:
    """Put squeeze-and-excitation with C / `reduction` hidden channels behind every residual of a residual network.

    Raises `UsageError` if it has no residuals, or squeezes already, or for a reduction below 1.
    """
    residuals = [block.residual for block in network.modules() if isinstance(block, (Block, Unit))]
    if not residuals or any(hasattr(residual, "se") for residual in residuals):
        raise UsageError(f"{type(network).__name__} has no residuals, or squeezes and excites them already.")
    if reduction < 1:
        raise UsageError(
            f"reduction={reduction} was asked for; C / reduction hidden channels need 1 or more."
        )
    for residual in residuals:
        last = [module for module in residual if isinstance(module, nn.Conv2d)][-1]
        se = SqueezeExcitation(last.out_channels, max(last.out_channels // reduction, 1))
        he_normal(se)
        residual.add_module("se", se.to(last.weight))


class SEResNet(ResNet):
    """ResNet or ResNeXt with squeeze-and-excitation: images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        depths: blocks per stage.
        reduction: r, by which the hidden channels are fewer (section 6.1).
        bottleneck: 1x1, 3x3, 1x1 convolutions; else basic blocks.
        cardinality: groups of a bottleneck's 3x3 convolution.
        group_width: channels of each such group in the first stage.
        stem: "7x7" (ImageNet) or "3x3" (CIFAR).
        stride_at: the convolution of a bottleneck that halves the resolution: "1x1", the paper's, or "3x3", timm's.
        pool: borders of the stem's max-pooling: "padded" on all sides, torchvision's, or "ceil", Caffe's, which starts
            at the first pixel and lets the last window stand over.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        reduction: int = 16,
        bottleneck: bool = True,
        cardinality: int = 1,
        group_width: int | None = None,
        stem: Literal["7x7", "3x3"] = "7x7",
        stride_at: Literal["1x1", "3x3"] = "3x3",
        pool: Pool = "padded",
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        known(pool=(pool, ("padded", "ceil")))
        if (stem, pool) == ("3x3", "ceil"):
            raise UsageError("pool='ceil' was asked for; the 3x3 stem has no pooling.")
        super().__init__(
            depths,
            bottleneck=bottleneck,
            cardinality=cardinality,
            group_width=group_width,
            stem=stem,
            stride_at=stride_at,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        squeeze_excite(self, reduction)
        self.pool: Pool = pool
        if stem == "7x7":
            self.features.set_submodule("pool1", max_pool(pool))

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of timm's `seresnet*`, and with Caffe's pooling those of its `legacy_*`."""
        return timm_names(self.pool) if origin == "timm" else None


class SENet154(ResidualNet):
    """SE-ResNeXt-152 (64x4d), improved: images (N, in_channels, H, W) -> logits (N, num_classes).

    Three 3x3 convolutions are the stem, the first 1x1 convolution of a block has half the channels, projections that
    halve the resolution are 3x3, and dropout stands before the linear layer (appendix).

    Args:
        depths: blocks per stage.
        reduction: r of squeeze-and-excitation.
        pool: see `SEResNet`.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        reduction: int = 16,
        pool: Pool = "padded",
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        known(pool=(pool, ("padded", "ceil")))
        conv1 = make_residual([Conv(in_channels, 64, 3, 2), Conv(64, 64, 3), Conv(64, 128, 3)])
        conv1.add_module("relu3", nn.ReLU())
        super().__init__(
            Stem(OrderedDict[str, nn.Module](conv1=conv1, pool1=max_pool(pool)), 128, 2, 4),
            depths,
            senet_block,
            width=64,
            expansion=4,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        squeeze_excite(self, reduction)
        self.pool: Pool = pool

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of timm's `senet154`, and with Caffe's pooling those of its `legacy_senet154`."""
        if origin != "timm":
            return None
        if self.pool == "ceil":
            return [(r"^features\.conv1\.", "layer0."), *timm_names(self.pool)]
        theirs = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
        ours = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
        stem = [(rf"^features\.conv1\.{a}\.", f"{b}.") for a, b in zip(ours, theirs, strict=True)]
        return stem + timm_names(self.pool)


def senet_block(place: Place) -> Block:
    """Half the channels first, 64 groups, and 3x3 projections where the resolution halves."""
    inner = 4 * place.width
    convs = [
        Conv(place.c_in, inner // 2),
        Conv(inner // 2, inner, 3, place.stride, 64),
        Conv(inner, place.c_out),
    ]
    projection = conv_bn(place.c_in, place.c_out, 3 if place.stride > 1 else 1, place.stride, act=None)
    return Block(convs, projection if place.changes else nn.Identity())


def max_pool(pool: Pool) -> nn.MaxPool2d:
    """3x3 with stride 2: (N, C, H, W) -> (N, C, H / 2, W / 2), for odd sides the half rounded up or down."""
    if pool == "padded":
        return nn.MaxPool2d(3, stride=2, padding=1)
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def timm_names(pool: Pool) -> list[tuple[str, str]]:
    """Substitutions to timm's names; networks with Caffe's pooling are its `legacy_*`."""
    rules, se = torchvision_names(), "se"
    if pool == "ceil":
        rules = [
            (
                ours,
                {"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1.", "fc.": "last_linear."}.get(theirs, theirs),
            )
            for ours, theirs in rules
        ]
        se = "se_module"
    return [*rules, (r"\.se\.reduce\.", f".{se}.fc1."), (r"\.se\.expand\.", f".{se}.fc2.")]


PAPER = Paper(
    "Squeeze-and-Excitation Networks", year=2017, authors="Hu, Shen, Albanie, Sun, Wu", arxiv="1709.01507"
)
ONE_CROP = "ILSVRC-2012 val, one crop of 224"

# Name, builder, timm's name and its name of the authors' form; errors of that form (table 2; SENet-154: table 8).
_ROWS: tuple[tuple[str, partial[ResidualNet], str, int, str | None, str | None], ...] = (
    ("se_resnet50", partial(SEResNet, (3, 4, 6, 3)), "seresnet50", 50, "23.29", "6.62"),
    ("se_resnet101", partial(SEResNet, (3, 4, 23, 3)), "seresnet101", 101, "22.38", "6.07"),
    ("se_resnet152", partial(SEResNet, (3, 8, 36, 3)), "seresnet152", 152, "21.57", "5.73"),
    (
        "se_resnext50_32x4d",
        partial(SEResNet, (3, 4, 6, 3), cardinality=32, group_width=4),
        "seresnext50_32x4d",
        50,
        "21.10",
        "5.49",
    ),
    (
        "se_resnext101_32x4d",
        partial(SEResNet, (3, 4, 23, 3), cardinality=32, group_width=4),
        "seresnext101_32x4d",
        101,
        "20.70",
        "5.01",
    ),
    ("senet154", partial(SENet154, (3, 8, 36, 3)), "senet154", 154, "18.68", "4.47"),
)
GFLOPS = {  # table 2: multiply-adds, with some of the sums and products of excitations and shortcuts
    "se_resnet50": "3.87×10^9",
    "se_resnet101": "7.60×10^9",
    "se_resnet152": "11.32×10^9",
    "se_resnext50_32x4d": "4.25×10^9",
    "se_resnext101_32x4d": "8.00×10^9",
}
for name, build, theirs, layers, top1, top5 in _ROWS:
    early = (
        build.func is SEResNet and "cardinality" not in build.keywords
    )  # ResNet's stride, as in its own paper
    register(
        name,
        build,
        paper=PAPER,
        family="senet",
        image=224,
        published=Published(layers=layers, source="table 1"),
        summary=f"timm's {theirs}",
        peers={"timm": theirs},
    )
    register(
        f"{name}_paper",
        partial(build, pool="ceil", **({"stride_at": "1x1"} if early else {})),
        paper=PAPER,
        family="senet",
        image=224,
        published=Published(
            macs=GFLOPS.get(name),
            top1_error_pct=top1,
            top5_error_pct=top5,
            other_errors_pct={"ILSVRC-2017 test, ensemble, top-5": "2.251"} if layers == 154 else {},
            layers=layers,
            test=ONE_CROP,
            source="section 4, tables 2, 8 and 9",
        ),
        summary=f"the authors' form: {'stride in the first 1x1 convolution, ' if early else ''}Caffe's max-pooling",
        peers={"timm": f"legacy_{theirs}"},
    )
