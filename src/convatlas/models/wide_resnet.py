"""Wide residual networks: few wide layers in place of many thin ones (Zagoruyko & Komodakis, 2016).

A thousand thin layers add little and are slow, one after the other. With k times the channels, 16 layers are as
accurate as 1001, and a graphics processor works on all of them at once. The CIFAR networks "WRN-d-k" have the units of
full pre-activation, 6n + 4 = d layers (the paper counts three projections), and dropout between the convolutions of a
unit, not on the path of shortcuts. On ImageNet only the 3x3 convolutions of ResNet's bottlenecks are widened.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from convatlas.errors import UsageError
from convatlas.models.preact import PLACEMENTS, Unit, activation, first_activation
from convatlas.models.residual import Place, ResidualNet, make_stem
from convatlas.models.resnet import ResNet, basic, make_shortcut
from convatlas.registry import Paper, Published, register

FULL = PLACEMENTS["full_preactivation"]


class WideResNet(ResidualNet):
    """WRN-d-k: three stages of 16k, 32k and 64k channels. Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        layers: d, which is 6n + 4 for n units a stage.
        widening: k, the widening factor.
        unit_dropout: probability between the two convolutions of a unit (section 2.4); where the paper has it, 0.3 on
            CIFAR and 0.4 on SVHN.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        *,
        layers: int,
        widening: int,
        unit_dropout: float = 0.0,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        n, rest = divmod(layers - 4, 6)
        if n < 1 or rest or widening < 1:
            raise UsageError(
                f"a wide ResNet {layers}-{widening} was asked for; 6n + 4 layers and k >= 1 are possible."
            )
        width = 16 * widening

        def unit(place: Place) -> Unit:
            added = make_shortcut("B", place, norm=False) or nn.Identity()
            return Unit(basic(place), added, FULL, first=first_activation(place), dropout=unit_dropout)

        super().__init__(
            make_stem("3x3", in_channels, 16),
            (n, n, n),
            unit,
            width=width,
            end=nn.Sequential(activation(FULL.before, 4 * width)),
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )


PAPER = Paper("Wide Residual Networks", year=2016, authors="Zagoruyko, Komodakis", arxiv="1605.07146")
MEAN_STD = "CIFAR-10 test, augmented"
WHITENED, HUNDRED = "CIFAR-10 test, augmented, whitened images", "CIFAR-100 test, augmented"

# d, k, parameters, CIFAR-10 error, others: tables 4 to 6.
_ROWS: tuple[tuple[int, int, str, str | None, dict[str, str]], ...] = (
    (16, 4, "2.7M", None, {"SVHN test, dropout": "1.64"}),
    (16, 8, "11.0M", "4.27", {HUNDRED: "20.43", WHITENED: "4.81", f"{HUNDRED}, whitened images": "22.07"}),
    (28, 10, "36.5M", "4.00", {HUNDRED: "19.25", WHITENED: "4.17", f"{HUNDRED}, whitened images": "20.50"}),
    (40, 4, "8.9M", None, {}),
)
for layers, widening, params, error, others in _ROWS:
    register(
        f"wide_resnet{layers}_{widening}_cifar",
        partial(WideResNet, layers=layers, widening=widening),
        paper=PAPER,
        family="wide_resnet",
        image=32,
        classes=10,
        published=Published(
            params=params,
            error_pct=error,
            other_errors_pct=others,
            layers=layers,  # with the projections, without the linear layer
            test=MEAN_STD if error else None,
            source="tables 4, 5 and 6",
        ),
        summary=f"WRN-{layers}-{widening}: 3 stages of {(layers - 4) // 6} units, the first {16 * widening} wide",
    )

for layers, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))):
    fifty = layers == 50
    register(
        f"wide_resnet{layers}_2",
        partial(ResNet, depths, bottleneck=True, group_width=128),
        paper=PAPER,
        family="wide_resnet",
        image=224,
        published=Published(
            params="68.9M" if fifty else None,
            top1_error_pct="21.9" if fifty else None,
            top5_error_pct="6.03" if fifty else None,
            other_errors_pct={"ILSVRC-2012 val, one crop, top-5, authors' code": "5.79"} if fifty else {},
            layers=layers,
            test="ILSVRC-2012 val, one crop" if fifty else None,
            source="table 8" if fifty else None,
        ),
        summary=f"ResNet-{layers} with twice the channels inside its bottlenecks",
        peers=dict.fromkeys(("torchvision", "timm"), f"wide_resnet{layers}_2"),
    )
