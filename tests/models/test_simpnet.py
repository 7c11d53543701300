"""SimpNet: the words of a plan, the tables' conditions, dropout as released, the ResNet-32 that it is compared with."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from canon import counts
from convatlas.errors import UsageError
from convatlas.models import create_model, list_models
from convatlas.models.simpnet import SLIM, SimpNet, layer
from convatlas.models.simpnet_resnet32 import Block

NAMES = list_models(family="simpnet")
PLANNED = [name for name in NAMES if "resnet" not in name]


def kinds(word: str, dropout: float = 0.0) -> list[str]:
    return [name for name, _ in layer(word, 3, dropout=dropout, momentum=0.1).named_children()]


def test_words_of_a_plan() -> None:
    assert kinds("64") == ["conv", "bn", "relu"]
    assert kinds("64p") == ["conv", "pool", "bn", "relu"]
    assert kinds("64-") == kinds("64/2-") == ["conv"]
    assert kinds("64", 0.2) == ["conv", "bn", "relu", "drop"]
    shapes = {
        word: tuple(layer(word, 3, dropout=0, momentum=0.1)(torch.zeros(1, 3, 8, 8)).shape[1:])
        for word in ("64", "64x1", "64/2", "64p", "64/2-")
    }
    assert shapes == {
        "64": (64, 8, 8),
        "64x1": (64, 10, 10),  # padded though 1x1
        "64/2": (64, 4, 4),
        "64p": (64, 4, 4),
        "64/2-": (64, 4, 4),
    }


@pytest.mark.parametrize("word", ["", "x", "64y", "64-/2", "P2"])
def test_words_that_cannot_be_read(word: str) -> None:
    with pytest.raises(UsageError, match="no word of a plan"):
        layer(word, 3, dropout=0, momentum=0.1)


@pytest.mark.parametrize("plan", ["", "P 64", "64 P"])
def test_plans_that_cannot_be_built(plan: str) -> None:
    with pytest.raises(UsageError, match="begins and ends with a layer"):
        SimpNet(plan)


@torch.no_grad()
def test_network_is_its_layers_one_after_another() -> None:
    torch.manual_seed(0)
    network = SimpNet("4 6 P 5", num_classes=3).double().eval()
    x = y = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for number in (1, 2, 3):
        block = network.features.get_submodule(f"conv{number}")
        bn = block.bn
        y = conv2d(y, block.conv.weight, block.conv.bias, padding=1)
        y = torch.relu(batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias))
        y = max_pool2d(y, 2) if number == 2 else y
    torch.testing.assert_close(network(x), network.get_classifier()(y.amax((2, 3))))


def test_thirteen_layers_in_groups_of_five_five_and_three() -> None:
    assert [len(group.split()) for group in SLIM.split("P")] == [5, 5, 3]
    with torch.device("meta"):
        for name in NAMES[:5]:
            network = create_model(name)
            assert [stage.name for stage in network.stages] == ["conv5", "conv10", "conv13"]


@pytest.mark.parametrize("name", PLANNED)
def test_depth_is_the_name_s(name: str) -> None:
    """Convolutions, as the tables count layers."""
    with torch.device("meta"):
        convolutions = [m for m in create_model(name).modules() if isinstance(m, nn.Conv2d)]
    depth = int(name.split("_")[2]) if "_t" in name else 13
    assert len(convolutions) == depth


@pytest.mark.parametrize(
    ("prefix", "tolerance"),
    [("simpnet_t2", 0.002), ("simpnet_t4_10", 0.015), ("simpnet_t4_13", 0.004), ("simpnet_t6_1", 0.002)],
)
def test_tables_compare_networks_of_equal_size(prefix: str, tolerance: float) -> None:
    sizes = [count["params"] for name, count in counts().items() if name.startswith(prefix)]
    assert len(sizes) >= 2
    assert max(sizes) / min(sizes) < 1 + tolerance


def test_equal_size_is_not_equal_cost() -> None:
    """Where width is spent early, it is spent on large maps."""
    cost = {name: count["macs"] for name, count in counts().items() if name in NAMES}
    assert cost["simpnet_t4_10_balanced"] / cost["simpnet_t4_10_wide"] == pytest.approx(1.55, abs=0.005)
    assert cost["simpnet_t4_13_balanced"] / cost["simpnet_t4_13_wide"] == pytest.approx(2.03, abs=0.005)


def dropped(name: str, **settings: object) -> dict[str, float]:
    network = create_model(name, **settings)
    return {
        path.removeprefix("features."): m.p
        for path, m in network.named_modules()
        if isinstance(m, nn.Dropout)
    }


def test_dropout_as_released() -> None:
    assert dropped("simpnet_slim_300k") == {}
    assert dropped("simpnet_slim_1m") == {"pool1.switch": 0.1, "pool2.switch": 0.2, "head.dropout": 0.2}
    five = dropped("simpnet_5m")
    assert five.pop("pool1.switch") == 0.2
    assert five.pop("pool2.switch") == five.pop("head.dropout") == 0.3
    layers = {int(path.split(".")[0].removeprefix("conv")): p for path, p in five.items()}
    assert layers == {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9), 0.2), 11: 0.3, 12: 0.3}


@torch.no_grad()
def test_saf_pooling_is_a_setting() -> None:
    torch.manual_seed(0)
    network = create_model("simpnet_slim_300k", saf="deterministic", saf_rates=(0.1, 0.2)).train()
    x = torch.randn(2, 3, 32, 32)
    outputs = dict(network.run_features(x))
    pooled = max_pool2d(outputs["conv5"], 2)
    off = (outputs["pool1"] == 0) & (pooled > 0)
    assert int(off[0].sum()) == int(0.1 * pooled[0].numel())
    assert float(pooled[0][off[0]].min()) >= float(pooled[0][~off[0]].max())
    assert dropped("simpnet_slim_1m", saf="none", dropout=0.0) == {}


def test_weights_start_as_caffe_s() -> None:
    torch.manual_seed(0)
    for module in create_model("simpnet_5m").modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight[0].numel() > 100:
            bound = (3 / module.weight[0].numel()) ** 0.5
            assert float(module.weight.detach().abs().max()) <= bound
            assert float(module.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
            assert not module.bias.any()


@torch.no_grad()
def test_blocks_of_table_6_add_without_a_relu() -> None:
    torch.manual_seed(0)
    block = Block(4, 4, None).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5  # BatchNorm with its first statistics
    (conv1, conv2) = (m for m in block.modules() if isinstance(m, nn.Conv2d))
    inner = torch.relu(scale * conv2d(x, conv1.weight, conv1.bias, padding=1))
    expected = scale * conv2d(inner, conv2.weight, conv2.bias, padding=1) + x
    torch.testing.assert_close(block(x), expected)
    assert (block(x) < 0).any()


def test_projections_are_2x2_and_pools_come_before_the_norm() -> None:
    def transition(name: str, group: int) -> dict[str, list[str]]:
        block = create_model(name).features.get_submodule(f"group{group}.0")
        return {
            part: [
                str(tuple(m.stride)) if isinstance(m, nn.Conv2d) else n
                for n, m in getattr(block, part).named_children()
            ]
            for part in ("conv1", "shortcut")
        }

    strided = {"conv1": ["(2, 2)", "bn", "relu"], "shortcut": ["(2, 2)", "bn"]}
    assert (
        transition("simpnet_t6_resnet32_strided", 2)
        == transition("simpnet_t6_resnet32_strided", 3)
        == strided
    )
    pooled = {"conv1": ["(1, 1)", "pool", "bn", "relu"], "shortcut": ["(1, 1)", "pool", "bn"]}
    assert transition("simpnet_t6_resnet32_pool", 2) == pooled
    assert transition("simpnet_t6_resnet32_pool", 3) == {**pooled, "shortcut": strided["shortcut"]}


def test_unknown_choices() -> None:
    with pytest.raises(UsageError, match="is not known"):
        create_model("simpnet_slim_300k", saf="often")
    with pytest.raises(UsageError, match="is not known"):
        create_model("simpnet_t6_resnet32_pool", downsampling="mean")
