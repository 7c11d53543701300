"""EfficientNet: scale depth, width and resolution together (Tan & Le, 2019).

A network can be made deeper, wider, or fed larger images; each by itself soon saturates. A larger image needs more
layers to see it whole and more channels for its finer patterns, so all three grow together, by constant ratios (the
compound law, `convatlas.layers.scaling.compound`). The base B0 was found by search: inverted residuals with
squeeze-and-excitation and swish. B1 to B7 are B0 scaled, so a variant is one row of the table at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_bn
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.inverted_residual import InvertedResidual, Row, timm_rules
from convatlas.layers.scaling import Scaling, deeper, divisible
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

IMAGE, SMALLEST = (
    224,
    32,
)  # sides in pixels: of B0's images, and of those that five halvings make one pixel of
LARGEST = 20  # of a factor: with more a network has more than 10^10 parameters


STAGES = (
    Row(1, 3, 16, 1, 1),
    Row(6, 3, 24, 2, 2),
    Row(6, 5, 40, 2, 2),
    Row(6, 3, 80, 3, 2),
    Row(6, 5, 112, 3, 1),
    Row(6, 5, 192, 4, 2),
    Row(6, 3, 320, 1, 1),
)


class EfficientNet(Classifier):
    """A 3x3 convolution, seven stages of MBConv, a 1x1 convolution, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes). `stage1` to `stage7` are lines 2 to 8 of table 1.

    Args:
        width: factor of all channels, which are rounded to multiples of 8.
        depth: factor of the blocks of every stage, rounded up.
        drop_path: probability that an image skips the last block; it grows linearly from 0 at the first.
        eps: of every BatchNorm.
        momentum: of every BatchNorm.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        drop_path: float = 0.2,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        conv = partial(conv_bn, eps=eps, momentum=momentum, act=nn.SiLU)
        channels, stride = divisible(32 * width), 2
        features = OrderedDict[str, nn.Module](stem=conv(in_channels, channels, 3, 2))
        cuts: list[Stage] = []
        total, built = sum(deeper(row.depth, depth) for row in STAGES), 0
        for i, row in enumerate(STAGES, start=1):
            c_out = divisible(row.channels * width)
            blocks: list[nn.Module] = []
            for block in range(deeper(row.depth, depth)):
                blocks.append(
                    InvertedResidual(
                        channels,
                        c_out,
                        expanded=row.expansion * channels,
                        kernel=row.kernel,
                        stride=row.stride if block == 0 else 1,
                        act=nn.SiLU,
                        squeezed=channels
                        // 4,  # a quarter of the block's input, not of the expanded channels
                        squeeze_act=nn.SiLU,
                        eps=eps,
                        momentum=momentum,
                        drop_path=drop_path * built / total,
                    )
                )
                channels = c_out
                built += 1
            features[f"stage{i}"] = nn.Sequential(*blocks)
            stride *= row.stride
            cuts.append(Stage(f"stage{i}", channels, stride))
        last = divisible(1280 * width)
        features["last"] = conv(channels, last)
        cuts.append(Stage("last", last, stride))
        super().__init__(
            nn.Sequential(features),
            mean_head(last, num_classes, dropout),
            list({cut.stride: cut for cut in cuts}.values()),  # the last at each resolution
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=last,
        )
        he_normal(self, per_group=True)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which numbers stages and layers, or timm's."""
        if origin == "timm":
            return timm_rules(without_expansion="1")
        inside = [(r"\.reduce\.", ".fc1."), (r"\.expand\.(?=weight|bias)", ".fc2.")]
        for stage, layers in (
            ("stage1", ("depthwise", "se", "project")),
            (r"stage\d", ("expand", "depthwise", "se", "project")),
        ):
            inside += [
                (rf"^(features\.{stage}\.\d+)\.residual\.{layer}\.", rf"\1.block.{j}.")
                for j, layer in enumerate(layers)
            ]
        return [
            *inside,
            (r"^features\.stem\.", "features.0."),
            *((rf"^features\.stage{i}\.", f"features.{i}.") for i in range(1, 8)),
            (r"^features\.last\.", "features.8."),
            (r"\.conv\.", ".0."),
            (r"\.bn\.", ".1."),
            (r"^head\.fc\.", "classifier.1."),
        ]


def efficientnet(
    width: float = 1.0, depth: float = 1.0, resolution: float = 1.0, **settings: Any
) -> tuple[EfficientNet, int]:
    """B0 scaled by any factors: the network, and the side of its images in pixels.

    `settings` are those of `EfficientNet`. With the compound law: `efficientnet(**compound(2)._asdict())`.

    Examples:
        >>> network, side = efficientnet(width=1.2, depth=1.4, resolution=1.3)
        >>> network.num_features, side
        (1536, 291)
    """
    if not all(0 < factor <= LARGEST for factor in (width, depth, resolution)):
        raise UsageError(
            f"width={width}, depth={depth}, resolution={resolution}: factors above 0, of at most {LARGEST}, "
            "are expected."
        )
    side = round(IMAGE * resolution)
    if side < SMALLEST:
        raise UsageError(f"resolution={resolution} means images of {side} pixels; {SMALLEST} are needed.")
    return EfficientNet(width=width, depth=depth, **settings), side


PAPER = Paper(
    "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    year=2019,
    authors="Tan, Le",
    arxiv="1905.11946",
)
_register = partial(register, paper=PAPER, family="efficientnet")
TEST = "ILSVRC-2012 val"
# torchvision builds B5 to B7 with the BatchNorm of the authors' TensorFlow code.
TENSORFLOW = {"eps": 0.001, "momentum": 0.01}

# Width, depth, image and dropout of the authors' code; parameters, multiply-adds and errors of table 2, which prints
# accuracies: 77.1 % is an error of 22.9 %.
for i, (width, depth, image, dropout, params, macs, top1, top5) in enumerate(
    (
        (1.0, 1.0, 224, 0.2, "5.3M", "0.39B", "22.9", "6.7"),
        (1.0, 1.1, 240, 0.2, "7.8M", "0.70B", "20.9", "5.6"),
        (1.1, 1.2, 260, 0.3, "9.2M", "1.0B", "19.9", "5.1"),
        (1.2, 1.4, 300, 0.3, "12M", "1.8B", "18.4", "4.3"),
        (1.4, 1.8, 380, 0.4, "19M", "4.2B", "17.1", "3.6"),
        (1.6, 2.2, 456, 0.4, "30M", "9.9B", "16.4", "3.3"),
        (1.8, 2.6, 528, 0.5, "43M", "19B", "16.0", "3.2"),
        (2.0, 3.1, 600, 0.5, "66M", "37B", "15.7", "3.0"),
    )
):
    name = f"efficientnet_b{i}"
    _register(
        name,
        partial(EfficientNet, width=width, depth=depth, dropout=dropout, **(TENSORFLOW if i > 4 else {})),
        image=image,
        published=Published(
            params=params,
            macs=macs,
            top1_error_pct=top1,
            top5_error_pct=top5,
            other_errors_pct={"ILSVRC-2012 val, top-1, table 7": "22.7"} if i == 0 else {},
            test=TEST,
            source="table 2",
        ),
        summary=f"{width} times as wide, {depth} times as deep, images of {image} pixels; torchvision's {name}"
        if i
        else f"the base, found by search; torchvision's and timm's {name}",
        peers={"torchvision": name} | ({"timm": name} if i < 5 else {}),
    )

# B0 scaled in one dimension and in all three (table 7). The 1.8, 1.8 and 1.9 billion printed for the first three are
# not what any rounding of channels, depths and pixels gives (1.6, 1.4 and 1.5).
for name, scaling, macs, top1 in (
    ("efficientnet_b0_d4", Scaling(depth=4), "1.8B", "21.0"),
    ("efficientnet_b0_w2", Scaling(width=2), "1.8B", "21.1"),
    ("efficientnet_b0_r2", Scaling(resolution=2), "1.9B", "20.9"),
    ("efficientnet_b0_compound", Scaling(depth=1.4, width=1.2, resolution=1.3), "1.8B", "18.9"),
):
    _register(
        name,
        partial(EfficientNet, width=scaling.width, depth=scaling.depth),
        image=round(IMAGE * scaling.resolution),
        published=Published(macs=macs, top1_error_pct=top1, test=TEST, source="table 7"),
        summary="B0 with " + ", ".join(f"{k} {v:g}" for k, v in scaling._asdict().items() if v != 1),
    )
