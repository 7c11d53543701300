"""Pre-activation ResNet: where activations stand in a residual unit (He, Zhang, Ren & Sun, 2016).

If nothing stands on the path of shortcuts, a unit's output is the sum of its input and its residual, and so is that
of any number of units: signals and gradients pass unchanged from any unit to any other. ReLU and BatchNorm therefore
move from behind the addition to the front of the convolutions. The paper compares five placements (figure 4); one is
a row of `PLACEMENTS`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

from convatlas.models.residual import Place, ResidualNet, Stem, known, make_stem
from convatlas.models.resnet import Conv, basic, bottleneck_convs, make_shortcut
from convatlas.registry import Paper, Published, register


class Placement(NamedTuple):
    """The layers before each convolution, after each, after the last, and after the addition."""

    before: str
    behind: str
    last: str
    after: str


PLACEMENTS = {  # figure 4, (a) to (e)
    "original": Placement("", "bn relu", "bn", "relu"),
    "bn_after_addition": Placement("", "bn relu", "", "bn relu"),
    "relu_before_addition": Placement("", "bn relu", "bn relu", ""),
    "relu_only_preactivation": Placement("relu", "bn", "bn", ""),
    "full_preactivation": Placement("bn relu", "", "", ""),
}
PlacementName = Literal[
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
]


def activation(words: str, channels: int, number: int | None = None) -> OrderedDict[str, nn.Module]:
    """The layers of "bn relu", named so, with a number behind if one is given: (N, channels, H, W), kept."""
    return OrderedDict(
        (f"{word}{number or ''}", nn.BatchNorm2d(channels) if word == "bn" else nn.ReLU())
        for word in words.split()
    )


class Unit(nn.Module):
    """after(F(y) + shortcut(y)) with y = before(x): (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    Args:
        convs: the convolutions of F.
        shortcut: what is added to F.
        placement: where F and the unit have their activations.
        first: whether the activation before the first convolution is in F; "shared", before F and the shortcut
            part; or "made" by the layers before the unit.
        dropout: probability, before each convolution but the first (Zagoruyko & Komodakis, 2016).
    """

    def __init__(
        self,
        convs: Sequence[Conv],
        shortcut: nn.Module,
        placement: Placement,
        *,
        first: Literal["in F", "shared", "made"] = "in F",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.before = nn.Sequential()
        layers = OrderedDict[str, nn.Module]()
        for i, conv in enumerate(convs, start=1):
            made = activation(placement.before, conv.c_in, i)
            if i > 1 or first == "in F":
                layers |= made
            elif first == "shared":
                self.before = nn.Sequential(made)
            if dropout and i > 1:
                layers[f"dropout{i}"] = nn.Dropout(dropout)
            layers[f"conv{i}"] = conv.layer()
            layers |= activation(placement.last if i == len(convs) else placement.behind, conv.c_out, i)
        self.residual = nn.Sequential(layers)
        self.shortcut = shortcut
        self.after = nn.Sequential(activation(placement.after, convs[-1].c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        x = self.before(x)
        return self.after(self.residual(x) + self.shortcut(x))


def first_activation(place: Place) -> Literal["in F", "shared", "made"]:
    """The first unit has that of `conv1` (appendix); units that change shape share it, as in the authors' code."""
    if place.stage == place.number == 0:
        return "made"
    return "shared" if place.changes else "in F"


class PreActResNet(ResidualNet):
    """Residual units with the activations where `placement` says.

    Images (N, in_channels, H, W) -> logits (N, num_classes). Before the first unit stands the activation of `conv1`,
    and with pre-activation another one after the last addition (appendix).

    Args:
        depths: units per stage.
        bottleneck: units of 1x1, 3x3, 1x1 convolutions with four times the width outside.
        width: channels of the first stage's 3x3 convolutions.
        stem: "7x7" with stride 2 and max-pooling (ImageNet), or "3x3" at full resolution (CIFAR).
        placement: a name of `PLACEMENTS`.
        shortcut: A, zero-padded, or B, projected where shapes change. Where they do, a pre-activation stands before
            the shortcut too, as in the authors' code; every other unit adds its input as it is.
        stride_at: the convolution of a bottleneck that halves the resolution.
        activate: the first activation follows "conv1", as in the paper, or the max-pooling after it ("pool1"), as in
            timm.
        classifier: "linear", or "conv", a 1x1 convolution of one pixel with the same function, as in timm.
        dropout: probability before the classifier; the paper has none.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["7x7", "3x3"] = "7x7",
        placement: PlacementName = "full_preactivation",
        shortcut: Literal["A", "B"] = "B",
        stride_at: Literal["1x1", "3x3"] = "3x3",
        activate: Literal["conv1", "pool1"] = "conv1",
        classifier: Literal["linear", "conv"] = "linear",
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        known(
            placement=(placement, tuple(PLACEMENTS)),
            shortcut=(shortcut, ("A", "B")),
            stride_at=(stride_at, ("1x1", "3x3")),
            activate=(activate, ("conv1", "pool1")),
            classifier=(classifier, ("linear", "conv")),
        )
        order, expansion = PLACEMENTS[placement], 4 if bottleneck else 1

        def unit(place: Place) -> Unit:
            convs = bottleneck_convs(place, place.width, stride_at=stride_at) if bottleneck else basic(place)
            added = make_shortcut(shortcut, place, norm="bn" in order.last)
            return Unit(convs, added or nn.Identity(), order, first=first_activation(place))

        channels = width * 2 ** (len(depths) - 1) * expansion
        start = make_stem(stem, in_channels, width)
        super().__init__(
            activated_last(start) if activate == "pool1" else start,
            depths,
            unit,
            width=width,
            expansion=expansion,
            end=nn.Sequential(activation(order.before, channels)) if order.before else None,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        self.classifier = classifier
        if classifier == "conv":
            layers = OrderedDict(self.head.named_children())
            del layers["flatten"]
            layers["fc"] = self.new_classifier(num_classes)
            self.head = nn.Sequential(layers | {"flatten": nn.Flatten()})

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A freshly initialised classifier, of the kind that the network has."""
        if self.classifier == "conv":
            return nn.Conv2d(self.head_hidden_size, num_classes, 1)
        return super().new_classifier(num_classes)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of timm's `resnetv2_*`."""
        if origin != "timm":
            return None
        return [
            (r"^features\.conv1\.conv\.", "stem.conv."),
            (r"^features\.act1\.bn\.", "stages.0.blocks.0.norm1."),
            *((rf"^features\.conv{i + 2}_x\.", f"stages.{i}.blocks.") for i in range(4)),
            (r"\.(before|residual)\.", "."),
            (r"\.bn(\d)\.", r".norm\1."),
            (r"\.shortcut\.", ".downsample.conv."),
            (r"^features\.end\.bn\.", "norm."),
        ]


def activated_last(stem: Stem) -> Stem:
    """The same stem with the activation of `conv1` behind its last layer, as a child `act1`."""
    layers = stem.layers.copy()
    conv1 = OrderedDict(layers.pop("conv1").named_children())
    conv = nn.Sequential(OrderedDict(conv=conv1.pop("conv")))
    return stem._replace(layers=OrderedDict(conv1=conv) | layers | {"act1": nn.Sequential(conv1)})


PAPER = Paper(
    "Identity Mappings in Deep Residual Networks",
    year=2016,
    authors="He, Zhang, Ren, Sun",
    arxiv="1603.05027",
)
CIFAR = partial(PreActResNet, width=16, stem="3x3")
MEDIAN = "CIFAR-10 test, augmented, median of 5 runs"

# The placements with their errors for 110 and 164 layers (table 2). 110 layers in the original one are
# `resnet110_cifar`.
_ROWS: tuple[tuple[str, PlacementName, str | None, str, str], ...] = (
    ("", "original", None, "5.93", "the original unit: ReLU after the addition"),
    ("_bn_after_addition", "bn_after_addition", "8.17", "6.50", "BatchNorm and ReLU after the addition"),
    (
        "_relu_before_addition",
        "relu_before_addition",
        "7.84",
        "6.14",
        "ReLU before the addition, none after it",
    ),
    (
        "_relu_preact",
        "relu_only_preactivation",
        "6.71",
        "5.91",
        "ReLU before, BatchNorm behind each convolution",
    ),
    ("_preact", "full_preactivation", "6.37", "5.46", "BatchNorm and ReLU before each convolution"),
)
for suffix, placement, error110, error164, summary in _ROWS:
    for layers, error in ((110, error110), (164, error164)):
        if error is None:
            continue
        n = (layers - 2) // (6 if layers == 110 else 9)
        shape = {"shortcut": "A"} if layers == 110 else {"bottleneck": True, "stride_at": "1x1"}
        best = (layers, placement) == (164, "full_preactivation")
        register(
            f"resnet{layers}{suffix}_cifar",
            partial(CIFAR, (n, n, n), placement=placement, **shape),
            paper=PAPER,
            family="preact",
            image=32,
            classes=10,
            published=Published(
                params="1.7M" if best else None,
                error_pct=error,
                other_errors_pct={"CIFAR-100 test, augmented": "24.33"} if best else {},
                layers=layers,
                test=MEDIAN,
                source="tables 2 and 4",
            ),
            summary=f"{summary}; {'basic units' if layers == 110 else 'bottlenecks'}",
        )
register(
    "resnet1001_preact_cifar",
    partial(CIFAR, (111, 111, 111), bottleneck=True, stride_at="1x1"),
    paper=PAPER,
    family="preact",
    image=32,
    classes=10,
    published=Published(
        params="10.2M",  # without BatchNorm's, 10,178,490
        error_pct="4.62",
        other_errors_pct={
            "CIFAR-10 test, augmented, batches of 128": "4.92",
            "CIFAR-100 test, augmented": "22.71",
        },
        layers=1001,
        test="CIFAR-10 test, augmented, batches of 64",
        source="table 4, the authors' code; Zagoruyko & Komodakis, 2016, table 5 (parameters)",
    ),
    summary="BatchNorm and ReLU before each convolution; 333 bottlenecks",
)
register(
    "resnet200_preact",
    partial(PreActResNet, (3, 24, 36, 3), bottleneck=True),
    paper=PAPER,
    family="preact",
    image=224,
    published=Published(
        top1_error_pct="21.7",
        top5_error_pct="5.8",
        layers=200,
        test="ILSVRC-2012 val, one crop of 224",
        source="Xie et al., 2016 (ResNeXt), table 4",
    ),
    summary="full pre-activation, bottlenecks with the stride in the 3x3 convolution",
)
for layers, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))):
    register(
        f"resnetv2_{layers}",
        partial(PreActResNet, depths, bottleneck=True, activate="pool1", classifier="conv"),
        paper=PAPER,
        family="preact",
        image=224,
        published=Published(layers=layers, source="He et al., 2015, table 1"),
        summary=f"full pre-activation, the first one after the pooling; timm's resnetv2_{layers}",
        peers={"timm": f"resnetv2_{layers}"},
    )
