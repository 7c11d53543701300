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
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from convatlas.errors import UsageError
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
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


def make_shortcut(option: Shortcut, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """What is added to the residual; an identity where the shapes allow it, except in option C (section 4.1)."""
    changes = stride != 1 or c_in != c_out
    if option == "none":
        return None
    if option == "C" or (option == "B" and changes):
        conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(c_out)))
    return ZeroPadded(c_out - c_in, stride) if changes else nn.Identity()


class Block(nn.Module):
    """relu(F(x) + shortcut(x)), figure 2: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    F is convolutions of (c_in, c_out, kernel, stride), each with BatchNorm, with ReLU between them.
    """

    def __init__(self, convs: Sequence[tuple[int, int, int, int]], added: nn.Module | None) -> None:
        super().__init__()
        layers = OrderedDict[str, nn.Module]()
        for i, (c_in, c_out, kernel, stride) in enumerate(convs, start=1):
            layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(c_out)
            if i < len(convs):
                layers[f"relu{i}"] = nn.ReLU()
        self.residual = nn.Sequential(layers)
        self.shortcut = added
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        residual = self.residual(x)
        return self.relu(residual if self.shortcut is None else residual + self.shortcut(x))


class ResNet(Classifier):
    """A stem, stages of blocks, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        depths: blocks per stage; width doubles and resolution halves from stage to stage.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with four times the width outside (figure 5).
        width: channels of the first stage's 3x3 convolutions.
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
        stem: Literal["7x7", "3x3"] = "7x7",
        shortcut: Shortcut = "B",
        stride_at: Literal["1x1", "3x3"] = "3x3",
        zero_init_residual: bool = False,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        _check(shortcut=(shortcut, ("A", "B", "C", "none")), stride_at=(stride_at, ("1x1", "3x3")))
        _check(stem=(stem, ("7x7", "3x3")))
        features = _stem(stem, in_channels, width)
        stride = 2 if stem == "7x7" else 1
        stages = [Stage("conv1", width, stride)]
        stride *= 2 if stem == "7x7" else 1
        channels = width
        for i, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for block in range(depth):
                step = 2 if i > 0 and block == 0 else 1
                blocks.append(_block(channels, width * 2**i, step, bottleneck, stride_at, shortcut))
                channels = width * 2**i * (4 if bottleneck else 1)
            stride *= 2 if i > 0 else 1
            features[f"conv{i + 2}_x"] = nn.Sequential(*blocks)
            stages.append(Stage(f"conv{i + 2}_x", channels, stride))
        super().__init__(
            nn.Sequential(features),
            _head(channels, num_classes, dropout),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        he_normal(self)
        if zero_init_residual and shortcut != "none":
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.zeros_(module.residual[-1].weight)  # pyright: ignore[reportArgumentType]

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which are timm's too."""
        del origin
        return [
            (r"^features\.conv1\.conv\.", "conv1."),
            (r"^features\.conv1\.bn\.", "bn1."),
            *((rf"^features\.conv{i + 1}_x\.", f"layer{i}.") for i in range(1, len(self.stages))),
            (r"\.residual\.", "."),
            (r"\.shortcut\.conv\.", ".downsample.0."),
            (r"\.shortcut\.bn\.", ".downsample.1."),
            (r"^head\.fc\.", "fc."),
        ]


def _block(c_in: int, width: int, stride: int, bottleneck: bool, stride_at: str, option: Shortcut) -> Block:
    """A basic block of two 3x3 convolutions, or a bottleneck."""
    if not bottleneck:
        convs = [(c_in, width, 3, stride), (width, width, 3, 1)]
    elif stride_at == "1x1":
        convs = [(c_in, width, 1, stride), (width, width, 3, 1), (width, 4 * width, 1, 1)]
    else:
        convs = [(c_in, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
    return Block(convs, make_shortcut(option, c_in, convs[-1][1], stride))


def _stem(kind: str, in_channels: int, width: int) -> OrderedDict[str, nn.Module]:
    """(N, in_channels, H, W) -> (N, width, H/4, W/4), or (N, width, H, W) for the 3x3 stem."""
    kernel, stride = (7, 2) if kind == "7x7" else (3, 1)
    conv = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
    conv1 = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), relu=nn.ReLU()))
    features = OrderedDict[str, nn.Module](conv1=conv1)
    if kind == "7x7":
        features["pool1"] = nn.MaxPool2d(3, stride=2, padding=1)
    return features


def _head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """(N, channels, h, w) -> (N, num_classes)."""
    layers = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)


def _check(**settings: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in settings.items():
        if value not in known:
            raise UsageError(f"{name}={value!r} is not known; {' or '.join(map(repr, known))} are.")


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
RESNEXT = Published(params="25.5M", macs="4.1×10^9", layers=50, source="Xie et al., 2016 (ResNeXt), table 1")
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
        published=RESNEXT if layers == 50 else Published(layers=layers, source="table 1"),
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
            params=params, error_pct=error, layers=layers, test="CIFAR-10 test, augmented", source="table 6"
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
