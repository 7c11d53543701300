"""`load_weights`: equal to torchvision in float64 at every stage, and refusals that name the first offending pair."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.weights import load_weights, save_weights

SLOW = pytest.mark.slow
NETWORKS = [
    "vgg11",
    pytest.param("vgg11_bn", marks=SLOW),
    pytest.param("vgg13", marks=SLOW),
    pytest.param("vgg13_bn", marks=SLOW),
    "vgg16",
    "vgg16_bn",
    pytest.param("vgg19", marks=SLOW),
    pytest.param("vgg19_bn", marks=SLOW),
    "resnet18",
    pytest.param("resnet34", marks=SLOW),
    "resnet50",
    pytest.param("resnet101", marks=SLOW),
    pytest.param("resnet152", marks=SLOW),
]
TOLERANCE = 1e-9  # of the largest value, in float64


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def lively_torchvision(name: str) -> nn.Module:
    """torchvision's network with logits of about unit deviation and BatchNorm statistics from a batch.

    With default weights the logits of some networks are so small that any network would agree.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.get_model(name).double()
    network = network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.reset_running_stats()
            module.momentum = None  # the statistics of the one batch that follows

    def rescale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale = output.std()
        for parameter in module.parameters():
            parameter.div_(scale)
        return output / scale

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.uniform_(module.weight, -1, 1)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
            handles.append(module.register_forward_hook(rescale))
    with torch.no_grad():
        network.train()(images())
    for handle in handles:
        handle.remove()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.float())  # what a float32 file can hold
    return network.eval()


def stage_modules(theirs: nn.Module, ours: Classifier) -> list[nn.Module]:
    """torchvision's modules whose outputs our stages are."""
    if isinstance(theirs, torchvision.models.ResNet):
        return [theirs.relu, *(getattr(theirs, f"layer{i}") for i in range(1, len(ours.stages)))]
    layers = list(theirs.get_submodule("features"))
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return [layers[i - 1] for i in pools] + [layers[-1]]


@torch.no_grad()
def difference(ours: Classifier, theirs: nn.Module) -> float:
    """The largest difference at any stage and in the logits, as a share of the largest value there."""
    captured: dict[nn.Module, Tensor] = {}

    def capture(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        captured[module] = output.clone()

    wanted = stage_modules(theirs, ours)
    handles = [module.register_forward_hook(capture) for module in wanted]
    logits = theirs(images())
    for handle in handles:
        handle.remove()
    assert 0.1 < logits.std() < 10
    last, outputs = ours.eval().forward_intermediates(images())
    pairs = [
        *zip(outputs, (captured[module] for module in wanted), strict=True),
        (ours.forward_head(last), logits),
    ]
    shares = [
        (mine - other).abs().max() / other.abs().max()
        if mine.shape == other.shape
        else torch.tensor(torch.inf)
        for mine, other in pairs
    ]
    return float(max(shares))


def ours_from(name: str, file: Path) -> Classifier:
    with torch.device("meta"):
        network = create_model(name)
    network = network.to_empty(device="cpu").double()
    assert isinstance(network, Classifier)
    load_weights(network, file)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_torchvision(name: str, tmp_path: Path) -> None:
    theirs = lively_torchvision(name)
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(
        save_weights({k: v.float() if v.is_floating_point() else v for k, v in theirs.state_dict().items()})
    )
    ours = ours_from(name, file)
    file.unlink()
    assert difference(ours, theirs) <= TOLERANCE


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    theirs = lively_torchvision("resnet50")
    file = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    file.write_bytes(save_weights(theirs.state_dict()))
    return file, theirs


def test_controls_are_seen(resnet50: tuple[Path, nn.Module]) -> None:
    """Each small fault makes a difference far above the tolerance: the parity test can fail."""
    file, theirs = resnet50
    right = ours_from("resnet50", file)
    assert difference(right, theirs) <= TOLERANCE

    eps = copy.deepcopy(right)
    for module in eps.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps *= 10
    assert difference(eps, theirs) > 1000 * TOLERANCE

    padding = copy.deepcopy(right)
    padding.features.conv1.conv.padding = (2, 2)
    assert difference(padding, theirs) > 1000 * TOLERANCE

    state = theirs.state_dict()
    first, second = "layer1.0.conv3.weight", "layer1.0.downsample.0.weight"
    assert state[first].shape == state[second].shape
    state[first], state[second] = state[second], state[first]
    swapped = copy.deepcopy(right)
    load_weights(swapped, state)
    assert difference(swapped, theirs) > 1000 * TOLERANCE


def test_the_stride_of_v1_is_seen(resnet50: tuple[Path, nn.Module]) -> None:
    file, theirs = resnet50
    assert difference(ours_from("resnet50_v1", file), theirs) > 1000 * TOLERANCE


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
