"""`load_weights`: whose names are recognised, and refusals that name the first offending pair."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.weights import load_weights, save_weights

# --- what does not align ------------------------------------------------------------------------------------


@pytest.fixture
def network() -> nn.Module:
    return create_model("resnet20_cifar")


def torchvision_names(network: Classifier) -> dict[str, Tensor]:
    rules = network.key_rules("torchvision") or []
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.clone()
    return state


def refused(network: nn.Module, state: dict[str, Tensor], message: str, **origin: str) -> None:
    """Refused with that message, and not one weight has changed."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(BadCheckpoint, match=message):
        load_weights(network, state, **origin)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_missing_name(network: nn.Module) -> None:
    state = network.state_dict()
    del state["head.fc.bias"]
    refused(network, state, r"no 'head\.fc\.bias'.*Did you mean 'head\.fc\.weight'")


@pytest.mark.parametrize("source", [3, None, [torch.zeros(1)]], ids=["number", "none", "list"])
def test_what_is_no_source_of_weights(network: nn.Module, source: Any) -> None:
    with pytest.raises(UsageError, match=f"weights came as {type(source).__name__}.*path is expected"):
        load_weights(network, source)


def test_a_state_dict_is_tensors_by_name(network: nn.Module) -> None:
    wrong: list[tuple[Any, str]] = [
        ({1: torch.zeros(1)}, "the name 1; names are text"),
        (dict.fromkeys(network.state_dict(), 3), r"'\S+' as int 3; a tensor is expected"),
    ]
    for state, message in wrong:
        refused(network, state, message)


def test_a_surplus_name(network: nn.Module) -> None:
    refused(
        network, {**network.state_dict(), "more": torch.zeros(2, 3)}, r"'more' of shape \(2, 3\).*no place"
    )


def test_another_shape(network: nn.Module) -> None:
    state = {**network.state_dict(), "head.fc.bias": torch.zeros(7)}
    refused(network, state, r"'head\.fc\.bias' of shape \(7,\).*\(10,\)")


def test_another_kind_of_number(network: nn.Module) -> None:
    refused(network, {**network.state_dict(), "head.fc.bias": torch.zeros(10, dtype=torch.int64)}, "int64")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(network: nn.Module, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["features.conv2_x.0.residual.bn1.running_var"][3] = value
    refused(network, state, r"bn1\.running_var' with values that are not finite")


def test_a_convolution_over_the_whole_map_stands_for_a_linear_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 4)
    linear, conv = nn.Linear(3 * 5 * 4, 7), nn.Conv2d(3, 7, (5, 4))
    load_weights(linear, conv.state_dict())
    torch.testing.assert_close(linear(x.flatten(1)), conv(x).flatten(1))
    other = nn.Conv2d(3, 7, (5, 4))
    load_weights(other, linear.state_dict())
    assert torch.equal(other.weight, conv.weight)


@pytest.mark.parametrize("shape", [(7, 3, 5, 5), (6, 3, 5, 4), (60, 7, 1, 1), (7, 60, 1), (14, 3, 5, 2)])
def test_a_convolution_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(3 * 5 * 4, 7)
    refused(linear, {"weight": torch.zeros(shape), "bias": torch.zeros(7)}, re.escape(str(shape)))


@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]
)
def test_timms_vgg_has_each_of_our_tensors_once(name: str) -> None:
    """The deep ones are too heavy to run in both libraries; names and sizes of all agree."""
    with torch.device("meta"):
        network, theirs = create_model(name), timm.create_model(name).state_dict()
    assert isinstance(network, Classifier)
    sizes: dict[str, torch.Size] = {}
    for ours, tensor in network.state_dict().items():
        for pattern, replacement in network.key_rules("timm") or []:
            ours = re.sub(pattern, replacement, ours)
        assert ours not in sizes
        sizes[ours] = tensor.flatten(1).shape if tensor.dim() > 1 else tensor.shape
    assert sizes == {k: t.flatten(1).shape if t.dim() > 1 else t.shape for k, t in theirs.items()}


def test_numbers_too_large_for_the_networks_precision(network: nn.Module) -> None:
    state = {**network.state_dict(), "head.fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    refused(network, state, "not finite")


def test_torchvisions_names_are_recognised() -> None:
    torch.manual_seed(0)
    source, target = create_model("resnet18"), create_model("resnet18")
    assert isinstance(source, Classifier)
    state = torchvision_names(source)
    assert set(state) == set(torchvision.models.resnet18().state_dict())
    load_weights(target, state)
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))
    refused(target, state, "has no 'features", origin="ours")


def test_old_checkpoints_lack_the_batch_counters() -> None:
    source, target = create_model("resnet18"), create_model("resnet18")
    assert isinstance(source, Classifier)
    state = {name: t for name, t in torchvision_names(source).items() if "num_batches" not in name}
    load_weights(target, state, origin="torchvision")
    assert torch.equal(target.head.fc.weight, source.head.fc.weight)


def test_weights_of_another_network(network: nn.Module) -> None:
    refused(network, create_model("lenet5").state_dict(), "has no 'features")
    refused(network, create_model("resnet32_cifar").state_dict(), "no place")
    refused(network, {}, "has no")


def test_weights_for_other_classes(network: nn.Module) -> None:
    refused(network, create_model("resnet20_cifar", num_classes=3).state_dict(), r"shape \(3, 64\)")


def test_a_network_without_counterpart() -> None:
    with pytest.raises(UsageError, match="no counterpart in torchvision"):
        load_weights(create_model("lenet5"), {}, origin="torchvision")
    with pytest.raises(UsageError, match="is not known"):
        load_weights(create_model("lenet5"), {}, origin="keras")  # pyright: ignore[reportArgumentType]


def test_any_module_takes_weights_of_its_own_names() -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(target, source.state_dict())
    assert torch.equal(source.weight, target.weight)


def test_the_networks_precision_stays(network: nn.Module) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    load_weights(network, state)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["weights.onnx", "weights", "weights.h5", "weights.pt2"])
def test_files_of_other_kinds(network: nn.Module, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 100)
    with pytest.raises(BadCheckpoint, match=r"read from \.safetensors, \.pt and \.pth"):
        load_weights(network, tmp_path / name)


def test_create_model_takes_a_file(tmp_path: Path) -> None:
    source = create_model("lenet5", num_classes=4)
    (tmp_path / "w.safetensors").write_bytes(save_weights(source.state_dict()))
    target = create_model("lenet5", num_classes=4, weights=tmp_path / "w.safetensors")
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))
    with pytest.raises(BadCheckpoint, match=r"\(4, 84\)"):
        create_model("lenet5", weights=tmp_path / "w.safetensors")
