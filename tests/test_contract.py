"""What every classifier of the registry promises, clause by clause.

A clause that cannot hold for a network is declared in its spec's `limits`, with the reason. Here a declared limit
must really fail, is printed at the end of the session, and their number is committed. Clauses about shapes run on
the meta device for every network; those about values wait for `make test-release` where a network is heavy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from canon import CLASSIFIERS, build, by_weight, cost, gradients, images, logits_of, sides
from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.models.classifier import Classifier
from convatlas.registry import Spec
from convatlas.weights import load_weights, save_weights

COMMITTED_LIMITS = 1

# --- the clauses --------------------------------------------------------------------------------------------


def image_size(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    for side in sides(spec):
        logits = network.eval()(images(spec, side=side))
        assert logits.shape == (2, spec.classes)
        assert torch.isfinite(logits).all()


def every_parameter_learns(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    network = copy.deepcopy(network).train()
    found = gradients(network, images(spec, 4), torch.arange(4) % spec.classes)
    silent = [name for name, _ in network.named_parameters() if name not in found or not found[name].any()]
    dropped = [name for name in silent if any(re.search(pattern, name) for pattern in spec.silent)]
    assert [name for name in silent if name not in dropped] == []
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def repeatable(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    network.eval()
    assert torch.equal(network(images(spec)), network(images(spec)))


def seeded(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = dict(build(spec).named_parameters())
    assert all(torch.equal(parameter, again[name]) for name, parameter in network.named_parameters())


def state_round_trip(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    torch.manual_seed(99)
    other = build(spec).eval()
    network.eval()
    assert not torch.equal(network(images(spec)), other(images(spec)))
    (tmp_path / "w.safetensors").write_bytes(save_weights(network.state_dict()))
    load_weights(other, tmp_path / "w.safetensors", origin="ours")
    assert torch.equal(network(images(spec)), other(images(spec)))


def in_channels(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    with torch.device("meta"):
        for channels in {1, 3, 4} - {network.in_channels}:
            other = build(spec, in_channels=channels).eval()
            assert other.in_channels == channels
            assert other(images(spec, channels=channels)).shape == (2, spec.classes)


def num_classes(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    with torch.device("meta"):
        for classes in {1, 10, 1000} - {network.num_classes}:
            other = build(spec, num_classes=classes).eval()
            assert other.num_classes == classes
            assert other(images(spec)).shape == (2, classes)


def meta_device(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    """Nothing is allocated, and the images of the paper go through, in training mode too."""
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    x = torch.empty(2, spec.channels, spec.image, spec.image, device="meta")
    assert network.eval()(x).shape == (2, spec.classes)
    for logits in logits_of(copy.deepcopy(network).train()(x)):
        assert logits.shape == (2, spec.classes)


def same_on_meta(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    with torch.device("meta"):
        ghost = build(spec)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ghost.state_dict().items()} == shapes


def get_classifier(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    layer = network.get_classifier()
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    assert [module for module in network.modules() if next(module.parameters(False), None) is not None][
        -1
    ] is layer
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert width == network.head_hidden_size


def reset_classifier(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    network, x = copy.deepcopy(network).train(), images(spec)
    auxiliary = len(network.auxiliary)
    features = network.eval().forward_features(x)
    received = network.forward_head(features, pre_logits=True)
    assert received.shape[:2] == (2, network.head_hidden_size)
    network.train().reset_classifier(7)
    assert network.num_classes == 7
    spoken = logits_of(network(images(spec, 4)))
    assert len(spoken) == 1 + auxiliary
    assert {logits.shape for logits in spoken} == {(4, 7)}
    network.eval().reset_classifier(0)
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network(x).shape[:2] == received.shape[:2]
    assert len(logits_of(network.train()(images(spec, 4)))) == 1
    network.eval().double().reset_classifier(5)
    assert network(x.double()).shape == (2, 5)
    with pytest.raises(UsageError):
        network.reset_classifier(-1)


def without_classifier(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    """With 0 classes the network gives, bit for bit, what the classifier received."""
    network, x = copy.deepcopy(network).eval(), images(spec)
    received = network.forward_head(network.forward_features(x), pre_logits=True)
    network.reset_classifier(0)
    given = network(x)
    if given.shape != received.shape:  # a head that pools after its classifier pools what that received
        received = received.mean((2, 3))
    assert torch.equal(given, received)


def stages(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    """A stage of stride s gives 32 / s more pixels for 32 more input pixels, whatever the borders cost."""
    network.eval()
    small, large = sides(spec)
    last, outputs = network.forward_intermediates(images(spec, 1, side=small))
    _, wider = network.forward_intermediates(images(spec, 1, side=large))
    assert len(outputs) == len(network.stages)
    for stage, output, wide in zip(network.stages, outputs, wider, strict=True):
        assert output.shape[1] == stage.channels, stage
        assert (wide.shape[2] - output.shape[2]) * stage.stride == large - small, stage
        network.features.get_submodule(stage.name)
    strides = [stage.stride for stage in network.stages]
    assert strides == sorted(strides)
    assert last.shape == outputs[-1].shape
    assert last.shape[1] == network.num_features


def intermediates(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    x = images(spec, 1)
    last, every = network.eval().forward_intermediates(x)
    assert torch.equal(last, every[-1])
    assert torch.equal(last, network.forward_features(x))
    picked = network.forward_intermediates(x, indices=[-1, 0], intermediates_only=True)
    assert torch.equal(picked[0], every[-1])
    assert torch.equal(picked[1], every[0])
    tail = network.forward_intermediates(x, indices=2, intermediates_only=True)
    assert all(map(torch.equal, tail, every[-2:]))
    stopped, (first,) = network.forward_intermediates(x, indices=[0], stop_early=True)
    assert torch.equal(stopped, first)
    assert torch.equal(first, every[0])
    for wrong in ({"indices": [len(every)]}, {"indices": len(every) + 1}, {"output_fmt": "NLC"}):
        with pytest.raises(UsageError):
            network.forward_intermediates(x, **wrong)


def channels_last(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    network, x = copy.deepcopy(network).double().eval(), images(spec).double()
    contiguous = network(x)
    network = network.to(memory_format=torch.channels_last)
    apart = (network(x.to(memory_format=torch.channels_last)) - contiguous).abs().max()
    assert apart <= 1e-9 * contiguous.abs().max()


def grad_checkpointing(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    """Fewer tensors are kept for the backward pass; gradients and running statistics are the same bits."""
    plain, x, targets = copy.deepcopy(network).train(), images(spec, 4), torch.arange(4) % spec.classes
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    kept: dict[str, int] = {}
    for name, model in (("plain", plain), ("saving", saving)):
        kept[name] = 0

        def count(tensor: Tensor, name: str = name) -> Tensor:
            kept[name] += tensor.numel()
            return tensor.detach()  # an output itself would be held by its own graph, for ever

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.forward_features(copy.deepcopy(x))
    assert kept["saving"] < kept["plain"]
    expected, found = gradients(plain, x, targets), gradients(saving, x, targets)
    assert all(torch.equal(gradient, found[name]) for name, gradient in expected.items())
    assert all(map(torch.equal, plain.buffers(), saving.buffers()))


def relus_apart(spec: Spec, network: Classifier, tmp_path: Path) -> None:
    """One module per use, and never in place: what a hook has captured stays as it was."""
    calls: dict[str, int] = {}
    outputs: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[name] = (output, output.clone())

        return hook

    leaves = {
        name: module
        for name, module in network.named_modules()
        if not (list(module.children()) or name.startswith("auxiliary"))
    }
    handles = [module.register_forward_hook(remember(name)) for name, module in leaves.items()]
    with torch.no_grad():
        network.eval()(images(spec))
    for handle in handles:
        handle.remove()
    changed = [name for name, (output, before) in outputs.items() if not torch.equal(output, before)]
    assert changed == []
    assert calls == dict.fromkeys(leaves, 1)


SHAPES = (in_channels, num_classes, meta_device, get_classifier, reset_classifier, stages)
VALUES = (
    *(
        image_size,
        every_parameter_learns,
        repeatable,
        seeded,
        state_round_trip,
        same_on_meta,
        without_classifier,
    ),
    *(intermediates, channels_last, grad_checkpointing, relus_apart),
)


# --- every clause for every network ------------------------------------------------------------------------


class Limits:
    """Prints the declared limits at the end of the session."""

    @staticmethod
    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("declared limits of the common contract")
        for spec in CLASSIFIERS:
            for clause, reason in spec.limits.items():
                terminalreporter.write_line(f"{spec.name}: {clause}: {reason}")
            for pattern, reason in spec.silent.items():
                terminalreporter.write_line(f"{spec.name}: no gradient at times: {pattern}: {reason}")


@pytest.fixture(scope="module", autouse=True)
def _printed_limits(request: pytest.FixtureRequest) -> None:
    request.config.pluginmanager.register(Limits(), "declared-limits")


Clause = Callable[[Spec, Classifier, Path], None]


def hold(clause: Clause, spec: Spec, network: Classifier, tmp_path: Path) -> None:
    if clause.__name__ in spec.limits:
        with pytest.raises((AssertionError, RuntimeError, UsageError)):
            clause(spec, network, tmp_path)
    else:
        clause(spec, network, tmp_path)


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in CLASSIFIERS])
def test_contract_of_shapes(spec: Spec, tmp_path: Path) -> None:
    with blueprint():
        network = build(spec)
    for clause in SHAPES:
        with blueprint():
            hold(clause, spec, network, tmp_path)


@pytest.fixture(scope="module", params=by_weight(CLASSIFIERS))
def spec(request: pytest.FixtureRequest) -> Spec:
    return request.param


@pytest.fixture(scope="module")
def network(spec: Spec) -> Iterator[Classifier]:
    """One network for all clauses; a clause that changes it takes a copy.

    BatchNorm's statistics come from a batch: with its first ones the signal of a thousand layers overflows.
    """
    torch.manual_seed(0)
    network = build(spec)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images(spec, 4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network


@pytest.mark.parametrize("clause", VALUES, ids=lambda clause: clause.__name__)
def test_contract(spec: Spec, network: Classifier, clause: Clause, tmp_path: Path) -> None:
    hold(clause, spec, network, tmp_path)


def test_limits_are_clauses_and_do_not_grow_unseen() -> None:
    declared = [(spec.name, clause) for spec in CLASSIFIERS for clause in spec.limits]
    known = {clause.__name__ for clause in (*SHAPES, *VALUES)}
    assert [pair for pair in declared if pair[1] not in known] == []
    assert len(declared) == COMMITTED_LIMITS


# --- compilers: a network per family, and those with a flow of their own -----------------------------------

FAMILIES = {spec.family for spec in CLASSIFIERS}
COMPILED = [
    *(min((spec for spec in CLASSIFIERS if spec.family == family), key=cost) for family in sorted(FAMILIES)),
    *(spec for spec in CLASSIFIERS if spec.name in ("lenet5_1998", "vgg11_lrn", "resnet18")),
]
SLOW_TO_COMPILE: set[str] = set()
compiled_names = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=spec.name, marks=[pytest.mark.slow] if spec.family in SLOW_TO_COMPILE else [])
        for spec in {spec.name: spec for spec in COMPILED}.values()
    ],
)


@compiled_names
def test_compiles_whole(spec: Spec) -> None:
    network, x = build(spec).eval(), images(spec)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x))
    torch._dynamo.reset()


@compiled_names
def test_exports(spec: Spec) -> None:
    network, x = build(spec).eval(), images(spec)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},))
    more = images(spec, 5, seed=3)
    torch.testing.assert_close(program.module()(more), network(more))
