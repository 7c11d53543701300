"""Stochastic depth: what survives and how often, what a block that is left out leaves untouched, the test rule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.resnet import Block, Conv
from convatlas.models.stochastic_depth import StochasticDepthNet, SurvivingBlock, survival


def block(probability: float) -> SurvivingBlock:
    torch.manual_seed(0)
    return SurvivingBlock([Conv(4, 4, 3), Conv(4, 4, 3)], nn.Identity(), probability).double()


def shallow(**settings: float) -> StochasticDepthNet:
    return StochasticDepthNet((1, 1, 1), width=4, **settings)


def test_survival_falls_linearly() -> None:
    """Figure 2 of the paper: 54 blocks, on average 40 of them alive."""
    probabilities = [
        module.survival
        for module in create_model("resnet110_stochastic_depth_cifar").modules()
        if isinstance(module, SurvivingBlock)
    ]
    assert probabilities == pytest.approx([1 - number / 54 * 0.5 for number in range(1, 55)])
    assert sum(probabilities) == pytest.approx(40.25)
    assert survival(7, 7, 0.3) == pytest.approx(0.3)


def test_a_block_is_kept_or_left_out_for_the_whole_batch() -> None:
    kept = block(0.5).train()
    x = torch.rand(8, 4, 6, 6, dtype=torch.float64)
    whole = torch.relu(copy.deepcopy(kept).residual(x) + x)
    outcomes = {"kept": 0, "left out": 0}
    for _ in range(400):
        y = kept(x)
        assert torch.equal(y, whole) or torch.equal(y, x)
        outcomes["kept" if torch.equal(y, whole) else "left out"] += 1
    assert abs(outcomes["kept"] - 200) < 4 * 10  # four deviations of a fair coin


@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_how_often_a_block_survives(probability: float) -> None:
    kept = block(probability).train()
    x = torch.rand(2, 4, 2, 2, dtype=torch.float64)
    alive = sum(not torch.equal(kept(x), x) for _ in range(1000))
    assert abs(alive - 1000 * probability) < 4 * (1000 * 0.09) ** 0.5


def test_in_evaluation_the_residual_has_its_expected_size() -> None:
    tested = block(0.3).eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(tested(x), torch.relu(0.3 * tested.residual(x) + x))
    assert torch.equal(tested(x), tested(x))


def test_what_is_left_out_stays_as_it_was() -> None:
    """No BatchNorm statistics move, the input gets the gradient of the shortcut, the parameters one of zero."""
    dropped = block(1e-12).train()
    before = {name: buffer.clone() for name, buffer in dropped.named_buffers()}
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    dropped(x).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in dropped.named_buffers())
    assert torch.equal(x.grad, torch.ones_like(x))
    for parameter in dropped.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_nothing_is_computed_for_a_block_that_is_left_out() -> None:
    dropped = block(1e-12).train()
    calls: list[nn.Module] = []
    for module in dropped.residual.modules():
        module.register_forward_hook(lambda module, inputs, output: calls.append(module))
    dropped(torch.rand(2, 4, 6, 6, dtype=torch.float64))
    assert calls == []


def test_certain_survival_is_an_ordinary_resnet() -> None:
    torch.manual_seed(0)
    ours, theirs = create_model("resnet110_stochastic_depth_cifar", last=1.0), create_model("resnet110_cifar")
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.train()(x), theirs.train()(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert not any(type(module) is Block for module in ours.modules())


def test_the_seed_decides_and_evaluation_draws_nothing() -> None:
    network, x = shallow(last=0.2), torch.randn(4, 3, 16, 16)
    outputs = []
    for seed in (1, 1, *range(2, 12)):
        torch.manual_seed(seed)
        outputs.append(network.train()(x))
    assert torch.equal(outputs[0], outputs[1])
    assert any(not torch.equal(outputs[0], other) for other in outputs[2:])
    state = torch.get_rng_state()
    network.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("last", [0.0, -0.5, 1.5])
def test_probabilities_that_cannot_be(last: float) -> None:
    with pytest.raises(UsageError, match=r"\(0, 1\]"):
        shallow(last=last)
