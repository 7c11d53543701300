"""Equal to torchvision and timm: the same weights give the same outputs, in float64, at every stage.

Their network is filled with weights that keep its signal alive, and with BatchNorm statistics of a batch: with
default weights the logits of some networks are 1e-14, and any network would agree. Ours takes the weights by
`load_weights`, from a file. Each of our stages must then occur among the outputs of their operations.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from canon import CLASSIFIERS, heavy, sides
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.registry import Spec
from convatlas.weights import load_weights, save_weights

TOLERANCE = 1e-9  # of the largest value, in float64
BATCH = (
    8  # images for statistics: of four, maps of one pixel give so small variances that deep networks explode
)
PAIRS = [(spec, library) for spec in CLASSIFIERS for library in sorted(spec.peers)]
COMPARED = {"torchvision": 46, "timm": 57}  # committed: it may only grow
LATE = {
    name
    for library in COMPARED
    for name in heavy((spec for spec, other in PAIRS if other == library), most=7e8)
}
pairs = pytest.mark.parametrize(
    ("spec", "library"),
    [
        pytest.param(
            spec, library, id=f"{spec.name}-{library}", marks=[pytest.mark.slow] if spec.name in LATE else []
        )
        for spec, library in PAIRS
    ],
)


def images(side: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=generator)


def peer(spec: Spec, library: str) -> nn.Module:
    """The other library's network, without weights and without dropping anything at random."""
    name = spec.peers[library]
    with torch.device("meta"):
        if library == "timm":
            network = timm.create_model(name, pretrained=False, drop_rate=0.0)  # some drop without a module
        else:
            extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            network = torchvision.models.get_model(name, weights=None, **extra)
    return without_chance(network.double().to_empty(device="cpu"))


def without_chance(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if "Drop" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            for field in ("p", "drop_prob"):
                if hasattr(module, field):
                    setattr(module, field, 0.0)
    return network


@contextmanager
def hooks(network: nn.Module, kinds: tuple[type[nn.Module], ...], hook: Any) -> Iterator[None]:
    handles = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def lively(network: nn.Module, side: int) -> nn.Module:
    """Random weights, scaled so that each convolution and linear layer gives unit deviation; statistics of a batch."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.reset_running_stats()
            module.momentum = None  # the statistics of the one batch that follows
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.uniform_(module.weight, -1, 1)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)

    def rescale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale = output.std().clamp(min=1e-3)
        for parameter in module.parameters():
            parameter.div_(scale)
        return output / scale

    with torch.no_grad(), hooks(network, (nn.Conv2d, nn.Linear), rescale):
        network.train()(images(side, BATCH))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.float())  # what a float32 file can hold
    return network.eval()


@torch.no_grad()
def settle(network: nn.Module, side: int) -> None:
    """Give BatchNorm the statistics of images of that size.

    Those of another size do not fit where every pixel is near the border: an error of a few percent in each of fifty
    layers makes logits of 1e7.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images(side, BATCH))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class _Nearest(TorchDispatchMode):
    """Keeps, for each wanted tensor, how far the nearest output of any operation was from it."""

    def __init__(self, wanted: list[Tensor]) -> None:
        super().__init__()
        self.wanted, self.distance = wanted, [torch.inf] * len(wanted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            for i, wanted in enumerate(self.wanted):
                if isinstance(tensor, Tensor) and tensor.shape == wanted.shape and self.distance[i]:
                    apart = (tensor - wanted).abs().max() / wanted.abs().max()
                    self.distance[i] = min(self.distance[i], float(apart))
        return output


def share(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    if ours.shape != theirs.shape:
        return torch.inf
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300))


@torch.no_grad()
def difference(ours: Classifier, theirs: nn.Module, side: int) -> float:
    """The largest difference at any stage and in the logits, in evaluation mode."""
    last, stages = ours.eval().forward_intermediates(images(side))
    nearest = _Nearest(stages)
    with nearest:
        logits = theirs.eval()(images(side))
    assert 0.05 < logits.std() < 20
    return max(*nearest.distance, share(ours.forward_head(last), logits))


def training_difference(ours: Classifier, theirs: nn.Module, library: str, side: int) -> float:
    """The largest difference of any output and any gradient, in training mode."""
    shares: list[float] = []
    for network in (ours, theirs):
        network.train().zero_grad()
    mine, others = (tree_leaves(tuple(tree_leaves(net(images(side, 4))))) for net in (ours, theirs))
    mine, others = ([t for t in found if isinstance(t, Tensor)] for found in (mine, others))
    assert len(mine) == len(others)
    if len(mine) > 2:  # torchvision names the second head first
        order = [min(range(len(others)), key=lambda j: share(tensor, others[j])) for tensor in mine]
        assert sorted(order) == list(range(len(others)))
        others = [others[j] for j in order]
    shares += map(share, mine, others)
    for found in (mine, others):
        weights = torch.linspace(-1, 1, found[0].numel(), dtype=torch.float64).view_as(found[0])
        torch.stack([(tensor * weights).sum() for tensor in found]).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    # Of a bias before BatchNorm the true gradient is 0; what rounding leaves there is small beside the largest one.
    floor = 1e-4 * max(float(gradient.abs().max()) for gradient in gradients.values())
    compared = 0
    for name, parameter in ours.named_parameters():
        other = renamed(ours, name, library)
        if parameter.grad is not None and other in gradients:
            largest = max(float(gradients[other].abs().max()), floor)
            gradient = gradients[other].view_as(parameter)  # of a convolution, where ours is linear
            shares.append(float((parameter.grad - gradient).abs().max()) / largest)
            compared += 1
    assert compared == len(gradients)
    return max(shares)


def renamed(network: Classifier, name: str, library: str) -> str:
    for pattern, replacement in network.key_rules(library) or []:
        name = re.sub(pattern, replacement, name)
    return name


def ours_from(spec: Spec, theirs: nn.Module, library: str, folder: Path) -> Classifier:
    """Our network with their weights, by way of a file."""
    file = folder / "theirs.safetensors"
    state = {k: v.float() if v.is_floating_point() else v for k, v in theirs.state_dict().items()}
    file.write_bytes(save_weights(state))
    with torch.device("meta"):
        network = create_model(spec.name)
    network = network.to_empty(device="cpu").double()
    assert isinstance(network, Classifier)
    load_weights(network, file, origin=library)
    file.unlink()
    return without_chance(network)


@pairs
def test_equal(spec: Spec, library: str, tmp_path: Path) -> None:
    small, large = sides(spec)
    theirs = lively(peer(spec, library), small)
    ours = ours_from(spec, theirs, library, tmp_path)
    assert difference(ours, theirs, small) <= TOLERANCE
    settle(ours, large)
    settle(theirs, large)
    assert difference(ours, theirs, large) <= TOLERANCE
    assert training_difference(ours, theirs, library, small) <= TOLERANCE


def test_as_many_are_compared_as_ever() -> None:
    assert {library: sum(other == library for _, other in PAIRS) for library in COMPARED} == COMPARED


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, nn.Module]:
    spec = next(spec for spec in CLASSIFIERS if spec.name == "resnet50")
    theirs = lively(peer(spec, "torchvision"), 64)
    return ours_from(spec, theirs, "torchvision", tmp_path_factory.mktemp("weights")), theirs


def test_controls_are_seen(resnet50: tuple[Classifier, nn.Module]) -> None:
    """Each small fault makes a difference far above the tolerance: the test above can fail."""
    right, theirs = resnet50
    assert difference(right, theirs, 64) <= TOLERANCE

    eps = copy.deepcopy(right)
    for module in eps.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps *= 10
    assert difference(eps, theirs, 64) > 1000 * TOLERANCE
    assert training_difference(eps, copy.deepcopy(theirs), "torchvision", 64) > 1000 * TOLERANCE

    padding = copy.deepcopy(right)
    padding.features.conv1.conv.padding = (2, 2)
    assert difference(padding, theirs, 64) > 1000 * TOLERANCE

    state = theirs.state_dict()
    first, second = "layer1.0.conv3.weight", "layer1.0.downsample.0.weight"
    assert state[first].shape == state[second].shape
    state[first], state[second] = state[second], state[first]
    swapped = copy.deepcopy(right)
    load_weights(swapped, state)
    assert difference(swapped, theirs, 64) > 1000 * TOLERANCE


def test_the_stride_of_v1_is_seen(resnet50: tuple[Classifier, nn.Module], tmp_path: Path) -> None:
    spec = next(spec for spec in CLASSIFIERS if spec.name == "resnet50_v1")
    ours = ours_from(spec, resnet50[1], "torchvision", tmp_path)
    assert difference(ours, resnet50[1], 64) > 1000 * TOLERANCE
