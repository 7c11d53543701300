"""LeNet-5: learned local features, shared weights and subsampling (LeCun, Bottou, Bengio & Haffner, 1998).

A feature map is one small kernel moved over the image; subsampling halves the maps, so that the exact place
of a feature matters less and less. Two networks carry the name. `lenet5` is the table of today's lectures:
average pooling, dense C3, linear output. `lenet5_1998` is the paper's section II.B: C3 sees only some maps
of S2, subsampling has weights, and each class is a drawing, whose distance to F6 is the output.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

from convatlas.layers.avg_pool import QuickAvgPool2d
from convatlas.layers.init import glorot_uniform
from convatlas.layers.scaled_tanh import ScaledTanh
from convatlas.models.classifier import Classifier, Stage
from convatlas.randomness import generator
from convatlas.registry import Paper, Published, register

# Maps of S2 that each of the 16 maps of C3 is connected to (table I): 60 kernels of the 96 possible ones.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The ten classes drawn in 7x12 pixels, as in figure 3 but by our hand: ink is +1, paper is -1.
DIGITS = """
.#####. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..##... #.....# #.....# ...###. #...... .##.... ......# ##...## ##...##
#.....# .###... ......# ......# ..##.#. #...... ##..... .....## #.....# #.....#
#.....# ...#... ......# ......# .##..#. #...... #...... .....#. #.....# #.....#
#.....# ...#... .....## ......# ##...#. ######. #.####. ....##. ##...## #.....#
#.....# ...#... ....##. ..####. #....#. .....## ##...## ....#.. .#####. ##...##
#.....# ...#... ...##.. ......# #....#. ......# #.....# ...##.. ##...## .####.#
#.....# ...#... ..##... ......# ####### ......# #.....# ...#... #.....# ......#
#.....# ...#... .##.... ......# .....#. ......# #.....# ..##... #.....# ......#
#.....# ...#... ##..... ......# .....#. #.....# #.....# ..#.... #.....# .....##
##...## ...#... #...... #.....# .....#. ##...## ##...## ..#.... ##...## ....##.
.#####. .#####. ####### .#####. .....#. .#####. .#####. ..#.... .#####. .####..
"""


def _uniform_by_fan_in(parameter: Tensor, fan_in: int) -> None:
    """U(-2.4 / fan_in, 2.4 / fan_in): units start where the squashing function bends least."""
    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)


class Subsampling(nn.Module):
    """Sums of 2x2 pixels, times one trained coefficient and plus one trained bias per map.

    (N, C, H, W) -> (N, C, H/2, W/2)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The paper's uniform distribution for units of four inputs."""
        _uniform_by_fan_in(self.weight, 4)
        _uniform_by_fan_in(self.bias, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2)."""
        return 4 * avg_pool2d(x, 2) * self.weight + self.bias


class TableConv2d(nn.Module):
    """Convolution whose output map i sees only the input maps `table[i]`.

    (N, c_in, H, W) -> (N, len(table), H - 4, W - 4) for 5x5 kernels. Only the kernels that exist are stored,
    one after the other: `weight` is (60, 5, 5) in LeNet-5.
    """

    kernels: Tensor

    def __init__(self, c_in: int, table: tuple[tuple[int, ...], ...], kernel: int) -> None:
        super().__init__()
        self.c_in, self.c_out = c_in, len(table)
        places = [row * c_in + column for row, columns in enumerate(table) for column in columns]
        self.weight = nn.Parameter(torch.empty(len(places), kernel, kernel))
        self.bias = nn.Parameter(torch.empty(self.c_out))
        self.register_buffer("kernels", torch.tensor(places), persistent=False)
        self.fan_in = [len(columns) * kernel**2 for columns in table]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The paper's uniform distribution; the fan-in differs from map to map (75, 100 or 150)."""
        start = 0
        for row, fan_in in enumerate(self.fan_in):
            count = fan_in // self.weight[0].numel()
            _uniform_by_fan_in(self.weight[start : start + count], fan_in)
            _uniform_by_fan_in(self.bias[row], fan_in)
            start += count

    def dense_weight(self) -> Tensor:
        """The kernels in their places, zeros elsewhere: (c_out, c_in, 5, 5)."""
        _, height, width = self.weight.shape
        dense = self.weight.new_zeros(self.c_out * self.c_in, height, width)
        return dense.index_copy(0, self.kernels, self.weight).view(self.c_out, self.c_in, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H-4, W-4)."""
        return conv2d(x, self.dense_weight(), self.bias)


def codes(num_classes: int) -> Tensor:
    """Targets of F6, one row a class: (num_classes, 84) of -1 and +1.

    The first ten are the digits. The paper's drawings cover printable ASCII; classes beyond ours get random
    codes, each a function of its number alone: the paper's alternative, "distributed codes" (section II.B).
    """
    rows = [line.split() for line in DIGITS.split("\n") if line]
    drawn = [[1.0 if dot == "#" else -1.0 for row in rows for dot in row[digit]] for digit in range(10)]
    size = len(drawn[0])
    random = [generator(i, "RBF code").integers(0, 2, size) * 2.0 - 1 for i in range(10, num_classes)]
    return torch.tensor((drawn + [code.tolist() for code in random])[:num_classes])


class RBF(nn.Module):
    """Euclidean radial basis functions: (N, 84) -> (N, num_classes), minus the squared distances.

    The paper's output is the squared distance to each code, and its smallest wins; the sign makes it a logit.
    The codes are fixed: a buffer, saved with the weights.
    """

    codes: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 84) -> (N, num_classes)."""
        return -(x[:, None] - self.codes).square().sum(dim=2)


class LeNet5(Classifier):
    """Two rounds of convolution and pooling, then 120, 84 and `num_classes` units, with tanh between them.

    Images (N, 1, 32, 32) -> logits (N, num_classes). Larger images give C5 larger maps, as in section VII;
    their mean goes on. The initialisation is Glorot's, as the paper's belongs to its own units.
    """

    classifier_name: ClassVar[str] = "output"

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, dropout: float = 0.0) -> None:
        features = OrderedDict[str, nn.Module](
            C1=nn.Sequential(OrderedDict(conv=nn.Conv2d(in_channels, 6, 5), tanh=nn.Tanh())),
            S2=QuickAvgPool2d(),
            C3=nn.Sequential(OrderedDict(conv=nn.Conv2d(6, 16, 5), tanh=nn.Tanh())),
            S4=QuickAvgPool2d(),
            C5=nn.Sequential(OrderedDict(conv=nn.Conv2d(16, 120, 5), tanh=nn.Tanh())),
        )
        output = nn.Linear(84, num_classes)
        super().__init__(
            nn.Sequential(features),
            _head(nn.Tanh(), output, dropout),
            STAGES,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=84,
        )
        glorot_uniform(self)


class LeNet5Of1998(Classifier):
    """The paper's figure 2: images (N, 1, 32, 32) -> minus squared distances (N, num_classes).

    Every layer up to F6 ends in the squashing function, also C1, C3 and C5: section II.B says so of all
    units.
    """

    classifier_name: ClassVar[str] = "output"

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, dropout: float = 0.0) -> None:
        features = OrderedDict[str, nn.Module](
            C1=_squashed(conv=nn.Conv2d(in_channels, 6, 5)),
            S2=_squashed(sum=Subsampling(6)),
            C3=_squashed(conv=TableConv2d(6, C3_TABLE, 5)),
            S4=_squashed(sum=Subsampling(16)),
            C5=_squashed(conv=nn.Conv2d(16, 120, 5)),
        )
        super().__init__(
            nn.Sequential(features),
            _head(ScaledTanh(), RBF(num_classes), dropout),
            STAGES,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=84,
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # the other layers have started themselves
                for parameter in module.parameters():
                    _uniform_by_fan_in(parameter, module.weight[0].numel())

    def new_classifier(self, num_classes: int) -> nn.Module:
        """(N, 84) -> (N, num_classes)."""
        return RBF(num_classes)


def _squashed(**layer: nn.Module) -> nn.Sequential:
    """A layer and its squashing function."""
    return nn.Sequential(OrderedDict[str, nn.Module](**layer, squash=ScaledTanh()))


def _head(activation: nn.Module, output: nn.Module, dropout: float) -> nn.Sequential:
    """(N, 120, h, w) -> (N, num_classes). For 32x32 images C5's maps are one pixel, their own mean."""
    layers = OrderedDict[str, nn.Module](
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), F6=nn.Linear(120, 84), squash=activation
    )
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["output"] = output
    return nn.Sequential(layers)


STAGES = (Stage("C1", 6, 1), Stage("C3", 16, 2), Stage("C5", 120, 4))

PAPER = Paper(
    "Gradient-based learning applied to document recognition",
    year=1998,
    authors="LeCun, Bottou, Bengio, Haffner",
    url="https://doi.org/10.1109/5.726791",
)
register(
    "lenet5",
    LeNet5,
    paper=PAPER,
    family="lenet",
    image=32,
    channels=1,
    classes=10,
    summary="the table of today's lectures: average pooling, dense C3, linear output",
)
register(
    "lenet5_1998",
    LeNet5Of1998,
    paper=PAPER,
    family="lenet",
    image=32,
    channels=1,
    classes=10,
    published=Published(
        params="60,000",
        error_pct="0.95",
        layers=7,
        test="MNIST test, no distortions",
        source="section II.B and figure 9",
        params_by_layer={
            "features.C1": "156",
            "features.S2": "12",
            "features.C3": "1,516",
            "features.S4": "32",
            "features.C5": "48,120",
            "head.F6": "10,164",
        },
    ),
    limits={"get_classifier": "the RBF output is neither Linear nor Conv2d, and its codes are not trained"},
    summary="the paper's: C3 connection table, trained subsampling, scaled tanh, RBF output",
)
