"""ResNet: deep networks that learn residuals (He, Zhang, Ren & Sun, 2015).

Plain stacks of layers get worse with depth, also on their training data, though the added layers could be
identities. So a block learns what to add to its input, relu(F(x) + x): an identity is then F = 0. Depth, kind of
block and kind of shortcut are the paper's variables, and a variant is one row of the tables at the end. The plain
twins of the paper are the same stacks without shortcuts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pad

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.models.residual import Place, ResidualNet, known, make_stem
from convatlas.registry import Paper, Published, register

Shortcut = Literal["A", "B", "C", "none"]


class ZeroPadded(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the new channels. It has no parameters.

    (N, c_in, H, W) -> (N, c_in + new_channels, H / stride, W / stride)
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_in + new_channels, H / stride, W / stride)."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def make_shortcut(option: Shortcut, place: Place, *, norm: bool = True) -> nn.Module | None:
    """What is added to the residual; an identity where the shapes allow it, except in option C (section 4.1).

    A projection is a 1x1 convolution, with BatchNorm unless `norm` is false.
    """
    if option == "none":
        return None
    if option == "C" or (option == "B" and place.changes):
        if norm:
            return conv_bn(place.c_in, place.c_out, 1, place.stride, act=None)
        return nn.Conv2d(place.c_in, place.c_out, 1, place.stride, bias=False)
    return ZeroPadded(place.c_out - place.c_in, place.stride) if place.changes else nn.Identity()


class Conv(NamedTuple):
    """A convolution without bias; `padding` keeps the resolution if None."""

    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: int | None = None

    def layer(self) -> nn.Conv2d:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        padding = self.kernel // 2 if self.padding is None else self.padding
        return nn.Conv2d(
            self.c_in, self.c_out, self.kernel, self.stride, padding, groups=self.groups, bias=False
        )


def basic(place: Place) -> list[Conv]:
    """The convolutions of a basic block (figure 5, left)."""
    return [Conv(place.c_in, place.width, 3, place.stride), Conv(place.width, place.c_out, 3)]


def bottleneck_convs(
    place: Place, inner: int, *, stride_at: Literal["1x1", "3x3"] = "3x3", groups: int = 1
) -> list[Conv]:
    """The convolutions of a bottleneck with `inner` channels inside (figure 5, right)."""
    first, second = (place.stride, 1) if stride_at == "1x1" else (1, place.stride)
    return [
        Conv(place.c_in, inner, 1, first),
        Conv(inner, inner, 3, second, groups),
        Conv(inner, place.c_out),
    ]


def make_residual(convs: Sequence[Conv]) -> nn.Sequential:
    """F of equation 1: convolutions, each with BatchNorm, with ReLU between them (`conv1`, `bn1`, `relu1`, ...)."""
    layers = OrderedDict[str, nn.Module]()
    for i, conv in enumerate(convs, start=1):
        layers[f"conv{i}"] = conv.layer()
        layers[f"bn{i}"] = nn.BatchNorm2d(conv.c_out)
        if i < len(convs):
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


class Block(nn.Module):
    """relu(F(x) + shortcut(x)), figure 2: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""

    private_inputs: ClassVar[tuple[str, ...]] = ("relu",)  # children whose input nobody else needs
    private_outputs: ClassVar[tuple[str, ...]] = ("residual",)  # children whose output nobody else needs

    def __init__(self, convs: Sequence[Conv], added: nn.Module | None) -> None:
        super().__init__()
        self.residual = make_residual(convs)
        self.shortcut = added
        self.relu = nn.ReLU()
        self.inplace = False  # whether the sum may overwrite the residual

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        residual = self.residual(x)
        return self.relu(residual if self.shortcut is None else self.sum(residual, self.shortcut(x)))

    def sum(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """F(x) + shortcut(x): twice (N, c_out, H', W') -> the same shape."""
        if self.inplace and residual.dtype == shortcut.dtype:
            return residual.add_(shortcut)
        return residual + shortcut


class ResNet(ResidualNet):
    """A stem, stages of blocks, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        depths: blocks per stage; width doubles and resolution halves from stage to stage.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with four times the width outside (figure 5).
        width: channels of the first stage's 3x3 convolutions.
        cardinality: groups of a bottleneck's 3x3 convolution (ResNeXt).
        group_width: channels of each such group in the first stage; `width` if None.
        stem: "7x7" with stride 2 and max-pooling (ImageNet), or "3x3" at full resolution (CIFAR).
        shortcut: A, zero-padded; B, projected where shapes change; C, always projected; or none (plain).
        stride_at: the convolution of a bottleneck that halves the resolution: "1x1", the paper's ("v1"), or
            "3x3", torchvision's ("v1.5"), which sees all pixels and costs more.
        zero_init_residual: start every block as an identity (Goyal et al., 2017, section 5.1).
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        bottleneck: bool = False,
        width: int = 64,
        cardinality: int = 1,
        group_width: int | None = None,
        stem: Literal["7x7", "3x3"] = "7x7",
        shortcut: Shortcut = "B",
        stride_at: Literal["1x1", "3x3"] = "3x3",
        zero_init_residual: bool = False,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        known(shortcut=(shortcut, ("A", "B", "C", "none")), stride_at=(stride_at, ("1x1", "3x3")))
        if not bottleneck and (cardinality, group_width) != (1, None):
            raise UsageError(
                "cardinality and group_width are those of bottlenecks; basic blocks have no groups."
            )

        def block(place: Place) -> Block:
            inner = cardinality * (group_width or width) * 2**place.stage
            convs = (
                bottleneck_convs(place, inner, stride_at=stride_at, groups=cardinality)
                if bottleneck
                else basic(place)
            )
            return Block(convs, make_shortcut(shortcut, place))

        super().__init__(
            make_stem(stem, in_channels, width),
            depths,
            block,
            width=width,
            expansion=4 if bottleneck else 1,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        if zero_init_residual and shortcut != "none":
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.zeros_(module.residual[-1].weight)  # pyright: ignore[reportArgumentType]

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which are timm's too."""
        del origin
        return torchvision_names()


def torchvision_names() -> list[tuple[str, str]]:
    """Substitutions from our names of stem, stages, blocks and head to torchvision's."""
    return [
        (r"^features\.conv1\.conv\.", "conv1."),
        (r"^features\.conv1\.bn\.", "bn1."),
        *((rf"^features\.conv{i + 1}_x\.", f"layer{i}.") for i in range(1, 5)),
        (r"\.residual\.", "."),
        (r"\.shortcut\.conv\.", ".downsample.0."),
        (r"\.shortcut\.bn\.", ".downsample.1."),
        (r"^head\.fc\.", "fc."),
    ]


PAPER = Paper(
    "Deep Residual Learning for Image Recognition",
    year=2015,
    authors="He, Zhang, Ren, Sun",
    arxiv="1512.03385",
)
_register = partial(register, paper=PAPER, family="resnet")
TEN_CROP = "ILSVRC-2012 val, 10-crop"

# Blocks per stage (table 1), multiply-adds there; top-1 and top-5 errors of shortcuts B (tables 3 and 4). The
# 34-layer figure of multiply-adds belongs to the identity shortcuts of figure 3. 3.8×10^9 cuts 3.858×10^9.
SHALLOW = {18: ((2, 2, 2, 2), None, None), 34: ((3, 4, 6, 3), "24.52", "7.46")}
DEEP = {
    50: ((3, 4, 6, 3), "3.8×10^9", "22.85", "6.71"),
    101: ((3, 4, 23, 3), "7.6×10^9", "21.75", "6.05"),
    152: ((3, 8, 36, 3), "11.3×10^9", "21.43", "5.71"),
}
# The stride in the 3x3 convolution is counted in a later paper, whose 25.5M cuts 25,557,032 and does not round it.
RESNEXT = {
    50: Published(params="25.5M", macs="4.1×10^9", layers=50, source="Xie et al., 2016 (ResNeXt), table 1"),
    101: Published(
        top1_error_pct="22.0",
        top5_error_pct="6.0",
        layers=101,
        test="ILSVRC-2012 val, one crop of 224",
        source="Xie et al., 2016 (ResNeXt), table 4",
    ),
}
for layers, (depths, top1, top5) in SHALLOW.items():
    _register(
        f"resnet{layers}",
        partial(ResNet, depths),
        image=224,
        published=Published(
            top1_error_pct=top1, top5_error_pct=top5, layers=layers, test=TEN_CROP, source="tables 1 and 3"
        ),
        summary=f"basic blocks, projections where shapes change (B); torchvision's resnet{layers}",
        peers=dict.fromkeys(("torchvision", "timm"), f"resnet{layers}"),
    )
for layers, (depths, macs, top1, top5) in DEEP.items():
    _register(
        f"resnet{layers}",
        partial(ResNet, depths, bottleneck=True),
        image=224,
        published=RESNEXT.get(layers) or Published(layers=layers, source="table 1"),
        summary=f"bottlenecks with the stride in the 3x3 convolution (v1.5); torchvision's resnet{layers}",
        peers=dict.fromkeys(("torchvision", "timm"), f"resnet{layers}"),
    )
    _register(
        f"resnet{layers}_v1",
        partial(ResNet, depths, bottleneck=True, stride_at="1x1"),
        image=224,
        published=Published(
            macs=macs,
            top1_error_pct=top1,
            top5_error_pct=top5,
            layers=layers,
            test=TEN_CROP,
            source="tables 1 and 3",
        ),
        summary="the paper's: bottlenecks with the stride in the first 1x1 convolution",
    )

# Shortcut options and plain twins: (name, layers, shortcut, multiply-adds, top-1, top-5) of tables 1, 2 and 3.
_TWINS: tuple[tuple[str, int, Shortcut, str | None, str | None, str | None], ...] = (
    ("plain18", 18, "none", "1.8×10^9", "27.94", None),
    ("plain34", 34, "none", "3.6×10^9", "28.54", "10.02"),
    ("resnet18_a", 18, "A", "1.8×10^9", "27.88", None),
    ("resnet34_a", 34, "A", "3.6×10^9", "25.03", "7.76"),
    ("resnet18_c", 18, "C", None, None, None),
    ("resnet34_c", 34, "C", None, "24.19", "7.40"),
)
for name, layers, option, macs, top1, top5 in _TWINS:
    _register(
        name,
        partial(ResNet, SHALLOW[layers][0], shortcut=option),
        image=224,
        published=Published(
            macs=macs,
            top1_error_pct=top1,
            top5_error_pct=top5,
            layers=layers,
            test=TEN_CROP,
            source="tables 1, 2 and 3",
        ),
        summary={
            "none": "the plain twin: the same stack without shortcuts",
            "A": "identity shortcuts, zero-padded where shapes change: no more parameters than the plain twin",
            "C": "projections in every shortcut",
        }[option],
    )

# CIFAR-10 (section 4.2): 6n + 2 layers of 16, 32 and 64 channels, shortcuts A; parameters and errors of table 6.
for layers, params, error in (
    (20, "0.27M", "8.75"),
    (32, "0.46M", "7.51"),
    (44, "0.66M", "7.17"),
    (56, "0.85M", "6.97"),
    (110, "1.7M", "6.43"),
    (1202, "19.4M", "7.93"),
):
    n = (layers - 2) // 6
    cifar = partial(ResNet, (n, n, n), width=16, stem="3x3")
    _register(
        f"resnet{layers}_cifar",
        partial(cifar, shortcut="A"),
        image=32,
        classes=10,
        published=Published(
            params=params,
            error_pct=error,
            other_errors_pct={"CIFAR-10 test, augmented, mean of 5 runs": "6.61"} if layers == 110 else {},
            layers=layers,
            test="CIFAR-10 test, augmented",
            source="table 6",
        ),
        summary=f"3 stages of {n} basic blocks for 32x32 images, identity shortcuts (A)",
    )
    if layers < 100:
        _register(
            f"plain{layers}_cifar",
            partial(cifar, shortcut="none"),
            image=32,
            classes=10,
            published=Published(layers=layers, source="section 4.2"),
            summary="the plain twin: the same stack without shortcuts",
        )
