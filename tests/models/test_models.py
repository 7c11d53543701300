"""`create_model`: names, settings, weights left out, and answers to what cannot be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model, find, list_models, overrides
from convatlas.models.classifier import Classifier
from convatlas.models.efficientnet import efficientnet


def test_names_by_pattern_and_family() -> None:
    assert list_models("vgg1?") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert set(list_models("*", family="lenet")) == {"lenet5", "lenet5_1998"}


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "vgg11", "resnet18", "resnet20_cifar"])
def test_dropout_is_a_setting_of_every_family(name: str) -> None:
    assert "dropout" in overrides(find(name))
    with torch.device("meta"):
        plain, dropping = create_model(name, dropout=0.0), create_model(name, dropout=0.3)
    rates = [module.p for module in dropping.modules() if isinstance(module, nn.Dropout)]
    assert rates
    assert set(rates) == {0.3}
    assert list(plain.state_dict()) == list(dropping.state_dict())


def test_no_classes_leave_the_classifier_out() -> None:
    network = create_model("resnet20_cifar", num_classes=0)
    assert isinstance(network, Classifier)
    assert network.num_classes == 0
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet17", {}, "Did you mean"),
        (
            "resnet18",
            {"shortcuts": "A"},
            r"no setting 'shortcuts'. Did you mean 'shortcut'\? It has: .*stride_at",
        ),
        ("resnet18", {"num_classes": -1}, "cannot be built"),
        ("resnet18", {"in_channels": 0}, "cannot be built"),
        ("lenet5", {"dropout": 1.5}, "between 0 and 1"),
        ("lenet5", {"dropout": "much"}, "cannot be built with"),
    ],
)
def test_what_cannot_be_built(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(name, **settings)  # pyright: ignore[reportArgumentType]


def test_settings_change_one_network_only() -> None:
    with torch.device("meta"):
        narrow = create_model("resnet18", width=16)
        usual = create_model("resnet18")
    assert sum(p.numel() for p in usual.parameters()) == 11_689_512
    assert narrow.num_features == usual.num_features // 4


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {"width": 0}),
        ("resnet18", {"width": -8}),
        ("vgg16", {"hidden": -5}),
        ("vgg16", {"hidden": 0}),
        ("lenet5", {"num_classes": "10"}),
        ("lenet5", {"num_classes": 2.5}),
        ("lenet5", {"num_classes": True}),
        ("lenet5", {"in_channels": "3"}),
        ("lenet5", {"in_channels": 0}),
        ("resnet18", {"dropout": float("nan")}),
        ("highway19_cifar", {"stage_dropout": (0.1, float("nan"), 0.1)}),
        ("efficientnet_b0", {"width": 1e9}),
    ],
)
def test_settings_of_which_nothing_can_be_built(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=name), torch.device("meta"):
        create_model(name, **settings)


@pytest.mark.parametrize("factor", [0, -1, 1e9, float("nan")])
@pytest.mark.parametrize("dimension", ["width", "depth", "resolution"])
def test_scalings_that_cannot_be(dimension: str, factor: float) -> None:
    with pytest.raises(UsageError, match=dimension):
        efficientnet(**{dimension: factor})


@pytest.mark.parametrize("classes", [True, 2.5, "a", None, -1])
@pytest.mark.parametrize("name", ["lenet5", "mcdnn_column"])
def test_a_classifier_for_what_is_no_number_of_classes(name: str, classes: Any) -> None:
    with torch.device("meta"):
        network = create_model(name)
    before = network.get_classifier()
    with pytest.raises(UsageError, match="whole number is expected"):
        network.reset_classifier(classes)
    assert network.get_classifier() is before
