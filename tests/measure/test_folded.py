"""Rows summed by stage and block: nothing is lost at any depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.cli.target import resolve
from convatlas.errors import UsageError
from convatlas.measure import measure
from convatlas.measure.cost import UNUSED, Measurement, Row
from convatlas.measure.folded import Group, fold, levels, read_depth, tree

NETWORKS = ["vgg16", "googlenet", "resnet50", "torchvision:swin_t", "timm:dla34"]
SUMS = (
    "params",
    "trainable",
    "macs",
    "operations",
    "activations",
    "activation_bytes",
    "unused_params",
    "unknown",
)


@pytest.fixture(scope="module", params=NETWORKS)
def measured(request: pytest.FixtureRequest) -> tuple[nn.Module, Measurement]:
    found = resolve(request.param)
    return found.model, measure(found.model, found.input_shape)


def test_sums_are_the_same_at_every_depth(measured: tuple[nn.Module, Measurement]) -> None:
    model, cost = measured
    counts = []
    for depth in (1, 2, 3, 4, 9):
        folded = fold(cost, depth, model)
        for name in SUMS:
            assert getattr(folded, name) == getattr(cost, name)
        counts.append(len(folded.rows))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] <= counts[-1] <= len(cost.rows)
    assert fold(cost, None) is cost


def test_a_deep_enough_fold_is_the_measurement(measured: tuple[nn.Module, Measurement]) -> None:
    _, cost = measured

    def flat(members: tuple[Row | Group, ...]) -> list[Row]:
        return [row for each in members for row in ([each] if isinstance(each, Row) else flat(each.members))]

    assert flat(tree(cost)) == list(cost.rows)


def test_a_group_is_its_module() -> None:
    with torch.device("meta"):
        model = resolve("resnet18").model
    cost = measure(model, (3, 224, 224))
    (stage,) = [row for row in fold(cost, 1, model).rows if row.name == "features.conv3_x"]
    module = model.get_submodule("features.conv3_x")
    assert stage.kind == "Sequential"
    assert stage.params == sum(parameter.numel() for parameter in module.parameters())
    assert stage.output_shape == (128, 28, 28)
    last = [row for row in cost.rows if row.name.startswith("features.conv3_x")][-1]
    assert stage.field == last.field


def test_weights_that_evaluation_does_not_use_stay_apart() -> None:
    found = resolve("googlenet")
    rows = fold(measure(found.model, found.input_shape), 1, found.model).rows
    (auxiliary,) = [row for row in rows if row.kind == UNUSED]
    assert auxiliary.name == "auxiliary"
    assert auxiliary.params == sum(p.numel() for p in found.model.get_submodule("auxiliary").parameters())


def test_a_module_that_is_called_again_has_a_row_again() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
            self.between = nn.MaxPool2d(2)

        def forward(self, image: Tensor) -> Tensor:
            return self.shared(self.between(self.shared(image)))

    rows = fold(measure(Twice(), (3, 16, 16)), 1).rows
    assert [row.name for row in rows] == ["input", "shared", "between", "shared"]
    assert [row.params for row in rows] == [0, 84, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ()),
        ("layer1.0.conv1", ("layer1", "0", "conv1")),
        ("features.conv1.conv", ("features.conv1", "conv")),
        ("stages.2.blocks.3.attn.qkv", ("stages.2", "blocks.3", "attn", "qkv")),
        ("features", ("features",)),
        ("cls.x", ("cls.x",)),
        ("class.x", ("class", "x")),
    ],
)
def test_levels_are_read_from_names(name: str, expected: tuple[str, ...]) -> None:
    assert levels(name) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "blocks", "1.5"])
def test_depths_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="stage, block, layer"):
        read_depth(text)
