"""Pre-activation ResNet: units against the five equations of figure 4, what the first and last unit do, timm's head."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from convatlas.errors import UsageError
from convatlas.models import create_model, find, list_models
from convatlas.models.preact import PLACEMENTS, Unit
from convatlas.models.resnet import Conv

EPS = 1 / (1 + 1e-5) ** 0.5  # BatchNorm with its first statistics


def bn(x: Tensor) -> Tensor:
    return x * EPS


FIGURE_4: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], Tensor]] = {
    "original": lambda x, f, g: torch.relu(x + bn(g(torch.relu(bn(f(x)))))),
    "bn_after_addition": lambda x, f, g: torch.relu(bn(x + g(torch.relu(bn(f(x)))))),
    "relu_before_addition": lambda x, f, g: x + torch.relu(bn(g(torch.relu(bn(f(x)))))),
    "relu_only_preactivation": lambda x, f, g: x + bn(g(torch.relu(bn(f(torch.relu(x)))))),
    "full_preactivation": lambda x, f, g: x + g(torch.relu(bn(f(torch.relu(bn(x)))))),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_units_of_figure_4(name: str) -> None:
    torch.manual_seed(0)
    unit = Unit([Conv(6, 6, 3), Conv(6, 6, 3)], nn.Identity(), PLACEMENTS[name]).double().eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    first, second = unit.residual.conv1.weight, unit.residual.conv2.weight
    expected = FIGURE_4[name](
        x, lambda y: conv2d(y, first, padding=1), lambda y: conv2d(y, second, padding=1)
    )
    torch.testing.assert_close(unit(x), expected)


def test_original_units_make_resnet_110() -> None:
    """The same network as in the paper of 2015, weight by weight."""
    torch.manual_seed(0)
    ours = create_model("resnet110_preact_cifar", placement="original").eval()
    theirs = create_model("resnet110_cifar").eval()
    state = theirs.state_dict()
    assert set(state) == set(ours.state_dict())
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_an_identity_path_from_the_first_unit_to_the_last_addition() -> None:
    """With residuals that are zero, full pre-activation adds nothing to what `conv1` and the projections give."""
    network = create_model("resnet164_preact_cifar").eval()
    units = [module for module in network.modules() if isinstance(module, Unit)]
    for unit in units:
        nn.init.zeros_(unit.residual.conv3.weight)
    x = torch.rand(1, 16, 8, 8)
    projection = units[0].shortcut.weight
    assert torch.equal(network.features.conv2_x(x), conv2d(x, projection))


@pytest.mark.parametrize(
    ("name", "shared"), [("resnet110_preact_cifar", 2), ("resnet164_preact_cifar", 2), ("resnetv2_50", 3)]
)
def test_units_that_change_shape_share_their_activation(name: str, shared: int) -> None:
    """The first unit has its own in `conv1`; the last activation follows the last addition."""
    with torch.device("meta"):
        network = create_model(name)
    units = [module for module in network.modules() if isinstance(module, Unit)]
    assert sum(len(unit.before) > 0 for unit in units) == shared
    assert not hasattr(units[0].residual, "bn1")
    assert [type(layer) for layer in network.features.end] == [nn.BatchNorm2d, nn.ReLU]
    assert network.stages[-1].name == "end"


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("layers", [110, 164])
def test_every_placement_counts_its_layers_once(layers: int, placement: str) -> None:
    """One BatchNorm and one ReLU a convolution, whatever the order, the projections left out."""
    with torch.device("meta"):
        network = create_model(f"resnet{layers}_preact_cifar", placement=placement)
    modules = {name: m for name, m in network.named_modules() if ".shortcut" not in name}
    convs, norms, relus = (
        sum(isinstance(m, kind) for m in modules.values()) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
    )
    assert convs == norms == relus == layers - 1


@pytest.mark.parametrize("name", [n for n in list_models(family="preact") if n.endswith("_cifar")])
def test_depth_is_in_the_name(name: str) -> None:
    layers = int(re.findall(r"\d+", name)[0])
    build = find(name).build
    depths = build.args[0]
    assert sum(depths) * (3 if build.keywords.get("bottleneck") else 2) + 2 == layers


def test_the_conv_classifier_is_the_linear_one() -> None:
    torch.manual_seed(0)
    settings = {"width": 4, "stem": "3x3"}
    conv = create_model("resnetv2_50", **settings).double().eval()
    linear = create_model("resnetv2_50", classifier="linear", **settings).double().eval()
    state = conv.state_dict()
    state["head.fc.weight"] = state["head.fc.weight"].flatten(1)
    linear.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(conv(x), linear(x))
    assert isinstance(linear.get_classifier(), nn.Linear)


def test_the_first_activation_before_or_after_the_pool() -> None:
    """Max-pooling commutes with an activation that does not fall; both forms then agree."""
    torch.manual_seed(0)
    early = create_model("resnetv2_50", activate="conv1", width=4).double().eval()
    late = create_model("resnetv2_50", width=4).double().eval()
    late.load_state_dict({k.replace("conv1.bn", "act1.bn"): v for k, v in early.state_dict().items()})
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(early(x), late(x))
    with torch.no_grad():
        early.features.conv1.bn.weight.neg_()
        late.features.act1.bn.weight.neg_()
    assert (early(x) - late(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"placement": "sideways"}, {"shortcut": "C"}, {"activate": "conv2"}, {"classifier": "svm"}]
)
def test_unknown_settings(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is not known"):
        create_model("resnet110_preact_cifar", **wrong)
