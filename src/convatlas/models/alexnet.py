"""AlexNet: a large convolutional network, trained on a million photographs (Krizhevsky, Sutskever & Hinton, 2012).

Five convolutions and three linear layers, with ReLU instead of tanh, response normalisation, pooling windows that
overlap, and dropout against the 60 million parameters. It was too large for one graphics card, so two held half of
every layer's maps each, and conv2, conv4 and conv5 saw only the half on their own card: groups=2, in today's words.

`alexnet_2gpu` is that network, `alexnet_paper` the same list of layers without the split, as lectures draw it, and
`alexnet` the single tower of the author's later report (2014), which torchvision has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.init import small_gaussian
from convatlas.layers.lrn import lrn
from convatlas.layers.names import numbered
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

Order = Literal["norm-pool", "pool-norm", "pool"]
ORDERS = ("norm-pool", "pool-norm", "pool")  # what follows conv1 and conv2
REMOVABLE = (3, 4, 6, 7)  # these keep the resolution


class Conv(NamedTuple):
    """One convolution of a layout, and the number that its biases start from."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: float = 0.0


class Layout(NamedTuple):
    """What differs between the networks of this shape.

    `ceil_mode`: pooling counts windows that hang over the border. `drop_inputs`: dropout before, not after, the
    hidden layers. `hidden_bias`: the number that the biases of the hidden layers start from.
    """

    convolutions: tuple[Conv, Conv, Conv, Conv, Conv]
    ceil_mode: bool = False
    drop_inputs: bool = False
    hidden_bias: float = 0.0


# Biases of 1 give the ReLUs positive inputs and speed up the first steps (section 5).
PAPER_LAYOUT = Layout(
    (
        Conv(96, 11, stride=4),
        Conv(256, 5, padding=2, bias=1),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, bias=1),
        Conv(256, 3, padding=1, bias=1),
    ),
    hidden_bias=1,
)
TWO_GPUS = PAPER_LAYOUT._replace(
    convolutions=tuple(
        conv._replace(groups=2 if i in (2, 4, 5) else 1)
        for i, conv in enumerate(PAPER_LAYOUT.convolutions, 1)
    )
)
ONE_TOWER = Layout(
    (
        Conv(64, 11, stride=4, padding=2),
        Conv(192, 5, padding=2),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1),
        Conv(256, 3, padding=1),
    ),
    drop_inputs=True,
)


class AlexNet(Classifier):
    """Five convolutions, pooling after the first, second and last, and three linear layers.

    Images (N, in_channels, H, W) -> logits (N, num_classes). Images of the layout's size give 6x6 maps; others are
    brought to 6x6 by adaptive mean-pooling, as in torchvision.

    Args:
        layout: the convolutions.
        order: what follows conv1 and conv2: "norm-pool" (section 3.5), "pool-norm" (Caffe's variant), or "pool".
        middle: channels of conv3, conv4 and conv5, instead of the layout's.
        removed: numbers of layers to leave out, of 3, 4, 6 and 7 (the ablation of Zeiler & Fergus, table 3).
        hidden: width of layers 6 and 7.
        dropout: probability in each of them (section 4.2).
        init: "paper", N(0, 0.01^2) with the layout's biases (section 5); "torchvision", PyTorch's own.

    Raises:
        UsageError: for another order or init, or a layer that cannot be left out.
    """

    classifier_name: ClassVar[str] = "fc8"

    def __init__(
        self,
        layout: Layout,
        *,
        order: Order = "norm-pool",
        middle: tuple[int, int, int] | None = None,
        removed: Collection[int] = (),
        hidden: int = 4096,
        dropout: float = 0.5,
        init: Literal["paper", "torchvision"] = "paper",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        check(order, removed, init)
        features = OrderedDict[str, nn.Module]()
        last: dict[int, Stage] = {}  # by stride
        channels, stride = in_channels, 1
        for i, conv in enumerate(widened(layout.convolutions, middle), start=1):
            if i in removed:
                continue
            features[f"conv{i}"] = convolution(channels, conv)
            channels, stride = conv.channels, stride * conv.stride
            last[stride] = Stage(f"conv{i}", channels, stride)
            for step in {1: order, 2: order, 5: "pool"}.get(i, "").split("-"):
                if step == "norm":
                    features[f"norm{i}"] = lrn()
                elif step == "pool":
                    features[f"pool{i}"] = nn.MaxPool2d(3, 2, ceil_mode=layout.ceil_mode)
                    stride *= 2
                if step:
                    last[stride] = Stage(f"{step}{i}", channels, stride)
        width = hidden if {6, 7} - set(removed) else channels * 6 * 6
        super().__init__(
            nn.Sequential(features),
            head(channels, [i for i in (6, 7) if i not in removed], hidden, dropout, layout, num_classes),
            list(last.values()),
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=width,
        )
        if init == "paper":
            self.initialise(layout)

    def initialise(self, layout: Layout) -> None:
        """Weights N(0, 0.01^2), biases as in the layout (section 5)."""
        small_gaussian(self, std=0.01)
        biases = {f"features.conv{i}.conv": conv.bias for i, conv in enumerate(layout.convolutions, start=1)}
        biases |= {"head.fc6": layout.hidden_bias, "head.fc7": layout.hidden_bias}
        for name, layer in self.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None and name in biases:
                nn.init.constant_(layer.bias, biases[name])

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """In torchvision, which has the tower without normalisation, numbers for the layers."""
        if origin != "torchvision" or "norm1" in dict(self.features.named_children()):
            return None
        return [
            *numbered(self.features),
            (r"^head\.fc6\.", "classifier.1."),
            (r"^head\.fc7\.", "classifier.4."),
            (r"^head\.fc8\.", "classifier.6."),
        ]


def check(order: str, removed: Collection[int], init: str) -> None:
    """Raise `UsageError` for settings that no network has."""
    if order not in ORDERS:
        raise UsageError(f"order={order!r} is not known; {', '.join(map(repr, ORDERS))} are.")
    if not set(removed) <= set(REMOVABLE):
        raise UsageError(f"removed={removed!r}: of the layers only 3, 4, 6 and 7 can be left out.")
    if init not in ("paper", "torchvision"):
        raise UsageError(f"init={init!r} is not known; 'paper', 'torchvision' and those of create_model are.")


def widened(convolutions: tuple[Conv, ...], middle: tuple[int, int, int] | None) -> list[Conv]:
    """The convolutions with other channels in layers 3 to 5."""
    channels = [conv.channels for conv in convolutions]
    if middle is not None:
        channels[2:] = middle
    return [conv._replace(channels=c) for conv, c in zip(convolutions, channels, strict=True)]


def convolution(c_in: int, conv: Conv) -> nn.Sequential:
    """A convolution with ReLU: (N, c_in, H, W) -> (N, conv.channels, h, w)."""
    layer = nn.Conv2d(c_in, conv.channels, conv.kernel, conv.stride, conv.padding, groups=conv.groups)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=layer, relu=nn.ReLU()))


def head(
    channels: int, layers: list[int], hidden: int, dropout: float, layout: Layout, num_classes: int
) -> nn.Sequential:
    """(N, channels, h, w) -> (N, num_classes), by way of the hidden layers that `layers` numbers."""
    steps = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(6), flatten=nn.Flatten())
    width = channels * 6 * 6
    for i in layers:
        if layout.drop_inputs:
            steps[f"drop{i}"] = nn.Dropout(dropout)
        steps[f"fc{i}"] = nn.Linear(width, hidden)
        steps[f"relu{i}"] = nn.ReLU()
        if not layout.drop_inputs:
            steps[f"drop{i}"] = nn.Dropout(dropout)
        width = hidden
    steps["fc8"] = nn.Linear(width, num_classes)
    return nn.Sequential(steps)


PAPER = Paper(
    "ImageNet Classification with Deep Convolutional Neural Networks",
    year=2012,
    authors="Krizhevsky, Sutskever, Hinton",
    url="https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks",
)
ONE_WEIRD_TRICK = Paper(
    "One weird trick for parallelizing convolutional neural networks",
    year=2014,
    authors="Krizhevsky",
    arxiv="1404.5997",
)
register(
    "alexnet_2gpu",
    partial(AlexNet, TWO_GPUS),
    paper=PAPER,
    family="alexnet",
    image=227,
    smallest=67,
    published=Published(
        params="60M",
        top1_error_pct="40.7",
        top5_error_pct="18.2",
        layers=8,
        test="ILSVRC-2012 val, 10-crop",
        other_errors_pct={
            "ILSVRC-2012 val, 5 networks averaged, top-5": "16.4",
            "ILSVRC-2012 test, 7 networks averaged, top-5": "15.3",
        },
        source="section 1 and table 2",
    ),
    summary="the paper's: conv2, conv4 and conv5 in two groups, one for each graphics card",
)
register(
    "alexnet_paper",
    partial(AlexNet, PAPER_LAYOUT),
    paper=PAPER,
    family="alexnet",
    image=227,
    smallest=67,
    published=Published(layers=8, source="section 3.5"),
    summary="the paper's list of layers without the groups, as lectures draw it",
)
register(
    "alexnet",
    partial(AlexNet, ONE_TOWER, order="pool", init="torchvision"),
    paper=ONE_WEIRD_TRICK,
    family="alexnet",
    image=224,
    smallest=63,
    published=Published(layers=8, source="footnote 1"),
    summary="the later single tower without normalisation; torchvision's alexnet",
    peers={"torchvision": "alexnet"},
)
