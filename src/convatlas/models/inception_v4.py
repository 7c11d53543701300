"""Inception v4: one kind of module per resolution (Szegedy, Ioffe, Vanhoucke & Alemi, 2016).

Inception v3 had grown by small changes, which left its older parts as they were. Version 4 is laid out anew: a stem
that branches itself, then four modules A, seven B and three C, all alike, with a reduction between the kinds. The names
of the modules are those of the released network.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from convatlas.layers.branches import Branches, Fork, chain, inception, reduction
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.models.classifier import Classifier, Stage
from convatlas.models.inception_v3 import conv, mean_pool
from convatlas.models.inception_v3 import stem as stem_v3
from convatlas.registry import Paper, Published, register


def stem(in_channels: int) -> OrderedDict[str, nn.Module]:
    """Three convolutions and three branchings: (N, in_channels, H, W) -> (N, 384, H/8, W/8) (figure 3).

    299 pixels become 35.
    """
    layers = OrderedDict(list(stem_v3(in_channels).items())[:3])  # version 3 begins alike
    layers["mixed3a"] = Branches({"pool": nn.MaxPool2d(3, stride=2), "conv": conv(64, 96, 3, 2, padding=0)})
    layers["mixed4a"] = Branches(
        {
            "3x3": chain(160, [(64, 1), (96, 3)], padding=0, unit=conv),
            "7x7": chain(160, [(64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3)], padding=0, unit=conv),
        }
    )
    layers["mixed5a"] = Branches({"conv": conv(192, 192, 3, 2, padding=0), "pool": nn.MaxPool2d(3, stride=2)})
    return layers


def module_a() -> Branches:
    """At 35x35 pixels: (N, 384, H, W) -> (N, 384, H, W) (figure 4)."""
    chains = {"1x1": [(96, 1)], "3x3": [(64, 1), (96, 3)], "double3x3": [(64, 1), (96, 3), (96, 3)]}
    return inception(384, chains, pool=mean_pool(count_padding=False), pooled=96, unit=conv)


def reduction_a() -> Branches:
    """35x35 to 17x17 pixels: (N, 384, H, W) -> (N, 1024, h, w) (figure 7, with table 1's k, l, m and n)."""
    return reduction(384, {"3x3": [(384, 3)], "double3x3": [(192, 1), (224, 3), (256, 3)]}, unit=conv)


def module_b() -> Branches:
    """At 17x17 pixels: (N, 1024, H, W) -> (N, 1024, H, W) (figure 5)."""
    chains = {
        "1x1": [(384, 1)],
        "7x7": [(192, 1), (224, (1, 7)), (256, (7, 1))],
        "double7x7": [(192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))],
    }
    return inception(1024, chains, pool=mean_pool(count_padding=False), pooled=128, unit=conv)


def reduction_b() -> Branches:
    """17x17 to 8x8 pixels: (N, 1024, H, W) -> (N, 1536, h, w) (figure 8)."""
    chains = {"3x3": [(192, 1), (192, 3)], "7x7": [(256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3)]}
    return reduction(1024, chains, unit=conv)


def module_c() -> Branches:
    """At 8x8 pixels: (N, 1536, H, W) -> (N, 1536, H, W) (figure 6)."""
    chains = {
        "1x1": [(256, 1)],
        "3x3": [(384, 1), Fork(256)],
        "double3x3": [(384, 1), (448, (3, 1)), (512, (1, 3)), Fork(256)],
    }
    return inception(1536, chains, pool=mean_pool(count_padding=False), pooled=256, unit=conv)


class InceptionV4(Classifier):
    """A stem, modules A, B and C with reductions between them, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes) (figure 9).

    Args:
        dropout: probability before the linear layer; the paper keeps 80 %.
    """

    def __init__(self, *, dropout: float = 0.2, num_classes: int = 1000, in_channels: int = 3) -> None:
        features = stem(in_channels)
        for letter in "bcde":
            features[f"mixed5{letter}"] = module_a()
        features["mixed6a"] = reduction_a()
        for letter in "bcdefgh":
            features[f"mixed6{letter}"] = module_b()
        features["mixed7a"] = reduction_b()
        for letter in "bcd":
            features[f"mixed7{letter}"] = module_c()
        super().__init__(
            nn.Sequential(features),
            mean_head(1536, num_classes, dropout),
            [
                Stage("conv2b", 64, 2),
                Stage("mixed4a", 192, 4),
                Stage("mixed5e", 384, 8),
                Stage("mixed6h", 1024, 16),
                Stage("mixed7d", 1536, 32),
            ],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=1536,
        )
        he_normal(self)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """In timm, numbers for the children of `features` and for the branches."""
        if origin != "timm":
            return None
        rules: list[tuple[str, str]] = []
        for i, (name, child) in enumerate(self.features.named_children()):
            if isinstance(child, Branches) and "conv" not in dict(child.named_children()):
                rules += branch_rules(rf"^features\.{name}\.", f"features.{i}.", child)
            rules.append((rf"^features\.{name}\.", f"features.{i}."))
        return [*rules, (r"^head\.fc\.", "last_linear.")]


def branch_rules(ours: str, theirs: str, branches: nn.Module) -> list[tuple[str, str]]:
    """Substitutions from our names of branches to timm's numbers; `ours` and `theirs` are what stands before them.

    A branch of one convolution has no inner number there, and one that forks has letters for the last two.
    """
    rules: list[tuple[str, str]] = []
    for i, (name, branch) in enumerate(branches.named_children()):
        layers = list(branch.children())
        if layers and isinstance(layers[-1], Branches):
            last = len(layers) - 1
            rules += [
                (rf"{ours}{name}\.{last}\.1x3\.", rf"{theirs}branch{i}_{last}a."),
                (rf"{ours}{name}\.{last}\.3x1\.", rf"{theirs}branch{i}_{last}b."),
                (rf"{ours}{name}\.(\d)\.", rf"{theirs}branch{i}_\g<1>."),
            ]
        else:
            single = r"0\." if len(layers) == 1 else ""
            rules.append((rf"{ours}{name}\.{single}", rf"{theirs}branch{i}."))
    return rules


PAPER = Paper(
    "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    year=2016,
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    arxiv="1602.07261",
)
TEST = "ILSVRC-2012 val without blacklisted images, 1-crop"
register(
    "inception_v4",
    InceptionV4,
    paper=PAPER,
    family="inception_v4",
    image=299,
    published=Published(top1_error_pct="20.0", top5_error_pct="5.0", test=TEST, source="table 2"),
    summary="4 modules A, 7 B and 3 C; timm's inception_v4",
    smallest=75,
    peers={"timm": "inception_v4"},
)
