"""Inception-ResNet-v2: Inception modules that learn residuals (Szegedy, Ioffe, Vanhoucke & Alemi, 2016).

A block's branches are merged by a 1x1 convolution and added to its input. That trains faster than pure Inception
modules of the same cost. With more than a thousand channels such networks die early in training, all activations 0,
unless the residuals are scaled down before they are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from convatlas.layers.branches import Branches, Chain, chain, inception, reduction
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.models.inception_v3 import DOUBLE_3X3, conv, mean_pool, stem
from convatlas.models.inception_v4 import PAPER, TEST, branch_rules
from convatlas.registry import Published, register


class ResidualInception(nn.Module):
    """relu(x + scale * F(x)), F being branches merged by a 1x1 convolution: (N, C, H, W) -> (N, C, H, W) (figure 20).

    Args:
        channels: C.
        chains: the branches.
        scale: of the residual (section 3.3).
        act: whether the ReLU comes after the sum.
    """

    def __init__(self, channels: int, chains: Mapping[str, Chain], *, scale: float, act: bool = True) -> None:
        super().__init__()
        self.branches = Branches(
            {name: chain(channels, layers, unit=conv) for name, layers in chains.items()}
        )
        merged = sum(layers[-1][0] for layers in chains.values())
        self.merge = nn.Conv2d(merged, channels, 1)
        self.scale = scale
        self.act = nn.ReLU() if act else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = x + self.scale * self.merge(self.branches(x))
        return x if self.act is None else self.act(x)

    def extra_repr(self) -> str:
        """The scale, in the printed network."""
        return f"scale={self.scale}"


block_35 = partial(
    ResidualInception,
    320,
    {"1x1": [(32, 1)], "3x3": [(32, 1), (32, 3)], "double3x3": [(32, 1), (48, 3), (64, 3)]},
)
block_17 = partial(
    ResidualInception, 1088, {"1x1": [(192, 1)], "7x7": [(128, 1), (160, (1, 7)), (192, (7, 1))]}
)
block_8 = partial(
    ResidualInception, 2080, {"1x1": [(192, 1)], "3x3": [(192, 1), (224, (1, 3)), (256, (3, 1))]}
)


class InceptionResNetV2(Classifier):
    """The stem of Inception v3, residual blocks at 35x35, 17x17 and 8x8 pixels, the mean over all, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes). The sizes are those of the released network, which is
    larger than the one that the paper draws.

    Args:
        depths: blocks at each of the three resolutions.
        scales: of the residuals there; the paper recommends 0.1 to 0.3.
        dropout: probability before the linear layer; the paper keeps 80 %.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, int, int] = (10, 20, 10),
        scales: tuple[float, float, float] = (0.17, 0.1, 0.2),
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        features = stem(in_channels)
        first = {"1x1": [(96, 1)], "5x5": [(48, 1), (64, 5)], "double3x3": DOUBLE_3X3}
        features["mixed5b"] = inception(192, first, pool=mean_pool(count_padding=False), pooled=64, unit=conv)
        features["block35"] = nn.Sequential(*(block_35(scale=scales[0]) for _ in range(depths[0])))
        to_17 = {"3x3": [(384, 3)], "double3x3": [(256, 1), (256, 3), (384, 3)]}
        features["mixed6a"] = reduction(320, to_17, unit=conv)
        features["block17"] = nn.Sequential(*(block_17(scale=scales[1]) for _ in range(depths[1])))
        to_8 = {
            "3x3a": [(256, 1), (384, 3)],
            "3x3b": [(256, 1), (288, 3)],
            "double3x3": [(256, 1), (288, 3), (320, 3)],
        }
        features["mixed7a"] = reduction(1088, to_8, unit=conv)
        # The last sum goes into a convolution without ReLU and without scale.
        blocks = [block_8(scale=scales[2]) for _ in range(depths[2] - 1)]
        features["block8"] = nn.Sequential(*blocks, block_8(scale=1.0, act=False))
        features["conv7b"] = conv(2080, 1536)
        super().__init__(
            nn.Sequential(features),
            mean_head(1536, num_classes, dropout),
            [
                Stage("conv2b", 64, 2),
                Stage("conv4a", 192, 4),
                Stage("block35", 320, 8),
                Stage("block17", 1088, 16),
                Stage("conv7b", 1536, 32),
            ],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=1536,
        )
        he_normal(self)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """In timm, numbers for the branches, and the last block apart from the others."""
        if origin != "timm":
            return None
        rules: list[tuple[str, str]] = []
        for name, child in self.features.named_children():
            if isinstance(child, Branches):
                rules += branch_rules(rf"^features\.{name}\.", f"mixed_{name[-2:]}.", child)
            elif name.startswith("block"):
                branches = child.get_submodule("0.branches")
                rules += branch_rules(
                    rf"^features\.{name}\.(\d+)\.branches\.", rf"features.{name}.\1.", branches
                )
        last = len(list(self.features.get_submodule("block8").children())) - 1
        return [
            *rules,
            (r"\.merge\.", ".conv2d."),
            (r"^features\.conv(..)\.", r"conv2d_\1."),
            (r"^features\.block35\.", "repeat."),
            (r"^features\.block17\.", "repeat_1."),
            (rf"^features\.block8\.{last}\.", "block8."),
            (r"^features\.block8\.", "repeat_2."),
            (r"^head\.fc\.", "classif."),
        ]


register(
    "inception_resnet_v2",
    InceptionResNetV2,
    paper=PAPER,
    family="inception_v4",
    image=299,
    published=Published(top1_error_pct="19.9", top5_error_pct="4.9", test=TEST, source="table 2"),
    summary="residual blocks of branches, 10, 20 and 10; timm's inception_resnet_v2",
    smallest=75,
    peers={"timm": "inception_resnet_v2"},
)
