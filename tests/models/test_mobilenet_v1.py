"""MobileNet: table 1 line by line, where the cost goes (table 2), and the two multipliers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure import Measurement, measure
from convatlas.models import create_model

# Table 1: (type, output channels, side of the output) of all convolutions.
TABLE = [
    ("conv", 32, 112),
    *(("dw", 32, 112), ("1x1", 64, 112)),
    *(("dw", 64, 56), ("1x1", 128, 56), ("dw", 128, 56), ("1x1", 128, 56)),
    *(("dw", 128, 28), ("1x1", 256, 28), ("dw", 256, 28), ("1x1", 256, 28)),
    *(("dw", 256, 14), ("1x1", 512, 14), *[("dw", 512, 14), ("1x1", 512, 14)] * 5),
    *(("dw", 512, 7), ("1x1", 1024, 7), ("dw", 1024, 7), ("1x1", 1024, 7)),
]


def cost(name: str, side: int = 224, **settings: float) -> Measurement:
    with torch.device("meta"):
        return measure(create_model(name, **settings), (3, side, side))


def kind(row_kind: str) -> str:
    return "dw" if "depthwise" in row_kind else "1x1" if "1x1" in row_kind else "conv"


def test_layers_of_table_1() -> None:
    rows = [row for row in cost("mobilenet_v1").rows if "conv" in row.kind]
    assert [(kind(row.kind), *row.output_shape[:2]) for row in rows] == TABLE


@pytest.mark.parametrize(
    ("what", "macs_pct", "params_pct"),
    [("1x1", 94.86, 74.59), ("dw", 3.06, 1.06), ("conv", 1.91, 0.02), ("linear", 0.18, 24.33)],
)
def test_where_the_cost_goes(what: str, macs_pct: float, params_pct: float) -> None:
    """Table 2, but for two digits that changed places: it prints 1.19 % for the first layer, and sums to 99.29 %."""
    rows = [row for row in cost("mobilenet_v1").rows if row.macs]
    chosen = [
        row for row in rows if (row.kind.split()[0] if "linear" in row.kind else kind(row.kind)) == what
    ]
    share = 100 * sum(row.macs for row in chosen) / sum(row.macs for row in rows)
    assert share == pytest.approx(macs_pct, abs=0.01)
    share = 100 * sum(row.params for row in chosen) / sum(row.params for row in rows)
    assert share == pytest.approx(params_pct, abs=0.02)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_the_width_multiplier_thins_every_layer(width: float) -> None:
    """Pointwise and linear weights go with its square or itself, as channels do."""
    for row, thin in zip(cost("mobilenet_v1").rows, cost("mobilenet_v1", width=width).rows, strict=True):
        if "conv" in row.kind:
            assert thin.output_shape[0] == width * row.output_shape[0]
            assert thin.macs == row.macs * (width**2 if "1x1" in row.kind else width)


@pytest.mark.parametrize("side", [192, 160, 128])
def test_the_resolution_multiplier_acts_with_its_square(side: int) -> None:
    classifier = 1024 * 1000
    small, large = cost(f"mobilenet_v1_r{side}", side).macs, cost("mobilenet_v1").macs
    assert (small - classifier) * 224**2 == (large - classifier) * side**2


@pytest.mark.parametrize(("activation", "cls"), [("relu", nn.ReLU), ("relu6", nn.ReLU6)])
def test_both_activations(activation: str, cls: type[nn.Module]) -> None:
    with torch.device("meta"):
        modules = [type(m) for m in create_model("mobilenet_v1", activation=activation).modules()]
    assert modules.count(cls) == 27
    assert modules.count(nn.ReLU) + modules.count(nn.ReLU6) == 27


def test_unknown_activation() -> None:
    with pytest.raises(UsageError, match="'relu' or 'relu6'"):
        create_model("mobilenet_v1", activation="swish")
