"""VGG: depth from stacked 3x3 convolutions (Simonyan & Zisserman, 2014).

Three stacked 3x3 convolutions see 7x7 pixels with fewer weights and two more ReLUs than one 7x7 convolution. The
paper varies depth alone, so a variant is one row of the table at the end. The names are torchvision's; the paper's
letters A to E stand in the summaries. BatchNorm is later than the paper: the `_bn` forms are torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.init import he_normal, small_gaussian
from convatlas.layers.lrn import lrn as local_response_norm
from convatlas.layers.names import numbered
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

WIDTHS = (64, 128, 256, 512, 512)  # channels of the five stages (table 1)

# Kernel sizes of each stage's convolutions (table 1). A-LRN is A with a normalisation after the first.
CONFIGURATIONS = {
    "A": ("3", "3", "33", "33", "33"),
    "B": ("33", "33", "33", "33", "33"),
    "C": ("33", "33", "331", "331", "331"),
    "D": ("33", "33", "333", "333", "333"),
    "E": ("33", "33", "3333", "3333", "3333"),
}


def stage(c_in: int, c_out: int, kernels: str, *, batch_norm: bool, lrn: bool) -> nn.Sequential:
    """Convolutions, each with ReLU: (N, c_in, H, W) -> (N, c_out, H, W)."""
    layers = OrderedDict[str, nn.Module]()
    for i, kernel in enumerate(map(int, kernels), start=1):
        layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
        if batch_norm:
            layers[f"bn{i}"] = nn.BatchNorm2d(c_out)
        layers[f"relu{i}"] = nn.ReLU()
        if lrn and i == 1:
            layers["lrn"] = local_response_norm()  # with AlexNet's values (section 3.1)
        c_in = c_out
    return nn.Sequential(layers)


class VGG(Classifier):
    """Five stages, each followed by 2x2 max-pooling, and three linear layers.

    Images (N, in_channels, H, W) -> logits (N, num_classes). Images of 224 pixels give 7x7 maps; others are brought
    to 7x7 by adaptive mean-pooling, as in torchvision.

    Args:
        kernels: a row of `CONFIGURATIONS`.
        batch_norm: BatchNorm before every ReLU of the stages.
        lrn: local response normalisation after the first ReLU (A-LRN).
        hidden: width of the first two linear layers.
        dropout: probability after each of them (section 3.1).
        init: "torchvision", He's convolutions and N(0, 0.01^2) linear layers; "paper", N(0, 0.01) with 0.01 the
            variance (section 3.1). Glorot's, which the authors found sufficient afterwards, is `create_model`'s.
    """

    classifier_name: ClassVar[str] = "fc8"

    def __init__(
        self,
        kernels: Sequence[str],
        *,
        batch_norm: bool = False,
        lrn: bool = False,
        hidden: int = 4096,
        dropout: float = 0.5,
        init: Literal["torchvision", "paper"] = "torchvision",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        features = OrderedDict[str, nn.Module]()
        stages: list[Stage] = []
        for i, (c_in, c_out, sizes) in enumerate(zip((in_channels, *WIDTHS), WIDTHS, kernels, strict=False)):
            features[f"conv{i + 1}"] = stage(c_in, c_out, sizes, batch_norm=batch_norm, lrn=lrn and i == 0)
            features[f"pool{i + 1}"] = nn.MaxPool2d(2)
            stages.append(Stage(f"conv{i + 1}", c_out, 2**i))
        head = OrderedDict[str, nn.Module](
            pool=nn.AdaptiveAvgPool2d(7),
            flatten=nn.Flatten(),
            fc6=nn.Linear(512 * 7 * 7, hidden),
            relu6=nn.ReLU(),
            drop6=nn.Dropout(dropout),
            fc7=nn.Linear(hidden, hidden),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc8=nn.Linear(hidden, num_classes),
        )
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            [*stages, Stage("pool5", 512, 32)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=hidden,
        )
        if init == "paper":
            small_gaussian(self, std=0.1)
        elif init == "torchvision":
            small_gaussian(self, std=0.01)
            he_normal(self)
        else:
            raise UsageError(
                f"init={init!r} is not known; 'torchvision', 'paper' and those of create_model are."
            )

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """Numbers for the layers of `features`, in one flat list from 0; timm's hidden layers are convolutions."""
        if origin == "timm":
            return [
                *numbered(self.features),
                (r"^head\.fc6\.", "pre_logits.fc1."),
                (r"^head\.fc7\.", "pre_logits.fc2."),
                (r"^head\.fc8\.", "head.fc."),
            ]
        return [
            *numbered(self.features),
            (r"^head\.fc6\.", "classifier.0."),
            (r"^head\.fc7\.", "classifier.3."),
            (r"^head\.fc8\.", "classifier.6."),
        ]


# What a deeper network takes over from A: its first four convolutions and its linear layers (section 3.1).
TAKEN_OVER = (
    *("features.conv1.conv1", "features.conv2.conv1", "features.conv3.conv1", "features.conv3.conv2"),
    *("head.fc6", "head.fc7", "head.fc8"),
)


def start_from_a(deeper: VGG, trained: VGG) -> None:
    """Copy the first four convolutions and the three linear layers of a trained A into B, C, D or E.

    The layers between keep their random weights. The paper trained all deeper configurations so, as random weights
    alone can stall the learning of a deep network.

    Args:
        deeper: a fresh network, changed in place; `init="paper"` gives it the paper's random weights.
        trained: configuration A or A-LRN, with as many classes, input channels and hidden units.

    Raises:
        UsageError: if `trained` is not A, or a layer of it does not fit; nothing is copied then.

    Source: section 3.1.

    Examples:
        >>> a, b = VGG(CONFIGURATIONS["A"], hidden=8), VGG(CONFIGURATIONS["B"], hidden=8, init="paper")
        >>> start_from_a(b, a)
        >>> bool((b.head.fc7.weight == a.head.fc7.weight).all())
        True
    """
    first = [name for name, module in trained.named_modules() if isinstance(module, nn.Conv2d)][:4]
    if tuple(first) != TAKEN_OVER[:4]:
        raise UsageError(
            f"the first four convolutions are {first}; only configuration A can be continued from."
        )
    source, target = trained.state_dict(), deeper.state_dict()
    copies = {
        f"{layer}.{part}": source[f"{layer}.{part}"] for layer in TAKEN_OVER for part in ("weight", "bias")
    }
    for name, tensor in copies.items():
        if tensor.shape != target[name].shape:
            raise UsageError(
                f"{name} is {tuple(tensor.shape)} in the trained network and {tuple(target[name].shape)} in the "
                "deeper one; build both with the same classes, input channels and hidden units."
            )
    deeper.load_state_dict(copies, strict=False)


PAPER = Paper(
    "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    year=2014,
    authors="Simonyan, Zisserman",
    arxiv="1409.1556",
)
# Parameters of table 2, errors at one test scale of table 3.
for name, letter, layers, params, top1, top5 in (
    ("vgg11", "A", 11, "133M", "29.6", "10.4"),
    ("vgg11_lrn", "A", 11, "133M", "29.7", "10.5"),
    ("vgg13", "B", 13, "133M", "28.7", "9.9"),
    ("vgg16_c", "C", 16, "134M", "27.3", "8.8"),
    ("vgg16", "D", 16, "138M", "25.6", "8.1"),
    ("vgg19", "E", 19, "144M", "25.5", "8.0"),
):
    lrn = name == "vgg11_lrn"
    build = partial(VGG, CONFIGURATIONS[letter], lrn=lrn)
    register(
        name,
        build,
        paper=PAPER,
        family="vgg",
        image=224,
        published=Published(
            params=params,
            top1_error_pct=top1,
            top5_error_pct=top5,
            layers=layers,
            test="ILSVRC-2012 val, best single scale",
            source="tables 2 and 3",
        ),
        summary=f"the paper's configuration {letter}{'-LRN' if lrn else ''}",
        peers={} if name in ("vgg11_lrn", "vgg16_c") else dict.fromkeys(("torchvision", "timm"), name),
    )
    if name in ("vgg11", "vgg13", "vgg16", "vgg19"):
        register(
            f"{name}_bn",
            partial(build, batch_norm=True),
            paper=PAPER,
            family="vgg",
            image=224,
            published=Published(layers=layers, source="table 1"),
            summary=f"configuration {letter} with BatchNorm, as torchvision has it",
            peers=dict.fromkeys(("torchvision", "timm"), f"{name}_bn"),
        )
