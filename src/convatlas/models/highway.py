"""Highway networks: layers that learn how much of their input to let through (Srivastava, Greff & Schmidhuber, 2015).

y = H(x) T(x) + x (1 - T(x)): a gate T between 0 and 1 decides, for every number by itself, between a transformation H
and the input as it is. Gates start almost closed, by a negative bias, so a deep network starts as a short one, and
gradients pass through its many layers. ResNet, half a year later, is the same with gates that are always open.

The networks are the convolutional ones of the second paper, as the authors' files have them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.init import glorot_uniform
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

Gates = Literal["coupled", "uncoupled"]


class HighwayLayer(nn.Module):
    """y = H(x) T(x) + x C(x), with 3x3 convolutions: (N, channels, H, W) -> (N, channels, H, W).

    H is a convolution with ReLU, T and C are convolutions with sigmoid (equations 2 and 3). With coupled gates
    C = 1 - T, which is what the paper uses; uncoupled ones have weights of their own.

    Args:
        channels: of the input and of the output, which must be equal.
        gates: "coupled" or "uncoupled".
        gate_bias: where the bias of T starts; C starts at 1 - T in either form.
    """

    def __init__(self, channels: int, *, gates: Gates = "coupled", gate_bias: float = -2.0) -> None:
        super().__init__()
        self.gate_bias = gate_bias
        conv = partial(nn.Conv2d, channels, channels, 3, padding=1)
        self.transform = nn.Sequential(OrderedDict(conv=conv(), relu=nn.ReLU()))
        self.gate = nn.Sequential(OrderedDict(conv=conv(), sigmoid=nn.Sigmoid()))
        self.carry = None
        if gates == "uncoupled":
            self.carry = nn.Sequential(OrderedDict(conv=conv(), sigmoid=nn.Sigmoid()))
        elif gates != "coupled":
            raise UsageError(f"gates={gates!r} are not known; 'coupled' and 'uncoupled' are.")
        self.own_start()

    def own_start(self) -> None:
        """Start the gates almost closed; every initialisation of `layers.init` asks for this at its end."""
        nn.init.constant_(self.gate.get_submodule("conv").bias, self.gate_bias)  # pyright: ignore[reportArgumentType]
        if self.carry is not None:  # sigmoid(-b) = 1 - sigmoid(b)
            nn.init.constant_(self.carry.get_submodule("conv").bias, -self.gate_bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        gate = self.gate(x)
        carry = 1 - gate if self.carry is None else self.carry(x)
        return self.transform(x) * gate + x * carry


class Highway(Classifier):
    """Stages of highway layers, each led by a plain convolution where widths change, with max-pooling between them.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        widths: channels of each stage.
        depths: highway layers of each stage.
        stem: size of the first convolution's kernel; 5 is not padded, and pools then overlap (the MNIST form).
        hidden: maps of a last 1x1 convolution with ReLU, whose means go to the linear layer; 0: the linear layer
            sees all 3x3 pixels of a last pooling (the MNIST form).
        gates, gate_bias: see `HighwayLayer`.
        stage_dropout: probability before each stage, the image first.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        stem: Literal[3, 5] = 3,
        hidden: int = 100,
        gates: Gates = "coupled",
        gate_bias: float = -2.0,
        stage_dropout: Sequence[float] = (0.2, 0.2, 0.2),
        dropout: float = 0.2,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if not len(widths) == len(depths) == len(stage_dropout):
            raise UsageError(f"{widths=}, {depths=} and {stage_dropout=} need one number per stage.")
        features = OrderedDict[str, nn.Module]()
        stages: list[Stage] = []
        c_in = in_channels
        for i, (width, depth, rate) in enumerate(zip(widths, depths, stage_dropout, strict=True), start=1):
            if i > 1:
                features[f"pool{i - 1}"] = (
                    nn.MaxPool2d(2) if stem == 3 else nn.MaxPool2d(3, 2, ceil_mode=True)
                )
            layers = OrderedDict[str, nn.Module]()
            if rate:
                layers["drop"] = nn.Dropout(rate)
            if c_in != width:
                kernel = stem if i == 1 else 3
                layers["conv"] = nn.Conv2d(c_in, width, kernel, padding=1 if kernel == 3 else 0)
                layers["relu"] = nn.ReLU()
            for j in range(1, depth + 1):
                layers[f"highway{j}"] = HighwayLayer(width, gates=gates, gate_bias=gate_bias)
            features[f"stage{i}"] = nn.Sequential(layers)
            stages.append(Stage(f"stage{i}", width, 2 ** (i - 1)))
            c_in = width
        head = OrderedDict[str, nn.Module]()
        if hidden:
            head["conv"], head["relu"] = nn.Conv2d(c_in, hidden, 1), nn.ReLU()
            head["pool"] = nn.AdaptiveAvgPool2d(1)
        else:
            head["pool"], head["resize"] = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3)
        if dropout:
            head["dropout"] = nn.Dropout(dropout)
        width = hidden or 9 * c_in
        head["flatten"], head["fc"] = nn.Flatten(), nn.Linear(width, num_classes)
        super().__init__(
            nn.Sequential(features),
            nn.Sequential(head),
            stages,
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=width,
        )
        glorot_uniform(self)


PAPER = Paper(
    "Training Very Deep Networks",
    year=2015,
    authors="Srivastava, Greff, Schmidhuber",
    arxiv="1507.06228",
)
_register = partial(register, paper=PAPER, family="highway", classes=10)
_register(
    "highway19_cifar",
    partial(Highway, (32, 80, 128), (4, 5, 5)),
    image=32,
    published=Published(
        params="2.3M",
        error_pct="7.72",
        other_errors_pct={
            "CIFAR-10 test, augmented, best of five": "7.54",
            "CIFAR-100 test, augmented": "32.39",
        },
        layers=19,
        test="CIFAR-10 test, augmented",
        source="tables 2 and 3",
    ),
    summary="19 layers of 32, 80 and 128 channels, after FitNet 4; gates start at a bias of -2",
)
# On 28 pixels: 24 after the first convolution, then 12, 6 and 3.
for width, params, error in ((16, "39K", "0.60"), (32, "151K", "0.46")):
    _register(
        "highway10_mnist" if width == 32 else f"highway10_{width}_mnist",
        partial(
            Highway,
            (width,) * 3,
            (2, 3, 3),
            stem=5,
            hidden=0,
            gate_bias=-1.0,
            stage_dropout=(0.2, 0.3, 0.4),
            dropout=0.5,
        ),
        image=28,
        channels=1,
        published=Published(params=params, error_pct=error, layers=10, test="MNIST test", source="table 1"),
        summary=f"10 layers of {width} channels; gates start at a bias of -1",
    )
