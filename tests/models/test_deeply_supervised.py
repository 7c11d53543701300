"""Deeply supervised nets: what the companions read, how they fade, and that the network without them is an NIN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.hooks import capture
from convatlas.models import create_model
from convatlas.models.classifier import WithAuxiliary
from convatlas.models.deeply_supervised import DeeplySupervisedNet


def network(**settings: float) -> DeeplySupervisedNet:
    torch.manual_seed(0)
    made = create_model("dsn_cifar10", **settings)
    assert isinstance(made, DeeplySupervisedNet)
    return made


def test_companions_read_convolutions_before_their_relu() -> None:
    made, x = network(dropout=0.0).train(), torch.randn(2, 3, 32, 32)
    with capture(made, ["features.conv1", "features.conv2", "features.conv3"]) as seen:
        output = made(x)
    assert isinstance(output, WithAuxiliary)
    assert output.logits.shape == (2, 10)
    sides = (32, 16, 8)
    for i, (logits, side) in enumerate(zip(output.auxiliary, sides, strict=True), start=1):
        maps = seen[f"features.conv{i}"]
        assert maps.shape == (2, 192, side, side)
        assert maps.min() < 0
        linear = made.auxiliary[f"conv{i}"].get_submodule("classifier")
        torch.testing.assert_close(logits, maps.flatten(1) @ linear.weight.T + linear.bias)


def test_it_predicts_as_a_network_in_network_without_the_last_relu() -> None:
    made, nin = network().eval(), create_model("nin_cifar10").eval()
    ours = {k: v for k, v in made.state_dict().items() if not k.startswith("auxiliary")}
    theirs = {}
    for name, value in ours.items():
        name = name.replace("features.conv", "features.mlpconv").replace("features.mlp", "features.mlpconv")
        name = name.replace("mlpconvconv", "mlpconv")
        for i in (1, 2, 3):
            name = name.replace(f"mlpconv{i}.weight", f"mlpconv{i}.conv1.weight")
            name = name.replace(f"mlpconv{i}.bias", f"mlpconv{i}.conv1.bias")
        theirs[name] = value
    nin.load_state_dict(theirs)
    nin.head.set_submodule("relu", nn.Identity())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(made(x), nin(x))


def test_companions_teach_the_layer_that_they_read_and_those_before_it() -> None:
    made = network().train()
    output = made(torch.randn(2, 3, 32, 32))
    assert isinstance(output, WithAuxiliary)
    output.auxiliary[1].square().sum().backward()
    taught = {
        name
        for name in ("conv1", "mlp1", "conv2", "mlp2", "conv3", "mlp3")
        if any(p.grad is not None and p.grad.any() for p in made.features.get_submodule(name).parameters())
    }
    assert taught == {"conv1", "mlp1", "conv2"}


def test_companions_fade_linearly_to_nothing() -> None:
    made = network(alpha=0.5)
    assert made.auxiliary_weight == pytest.approx(0.05)
    weights = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        made.set_progress(progress)
        weights.append(made.auxiliary_weight)
    assert weights == pytest.approx([0.05, 0.0375, 0.025, 0.0])
    assert weights[-1] == 0


def test_without_companions_it_gives_plain_logits_in_training_too() -> None:
    made = network(alpha=0.0).train()
    assert made(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_companions_take_other_image_sizes() -> None:
    output = network().train()(torch.randn(1, 3, 48, 48))
    assert isinstance(output, WithAuxiliary)
    assert [tuple(logits.shape) for logits in output.auxiliary] == [(1, 10)] * 3


def test_filters_start_with_the_deviation_of_the_authors_file() -> None:
    for module in network().modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            assert float(module.weight.detach().std()) == pytest.approx(0.05, rel=0.05)
