"""Muon against the slow, obvious polar factor, its laws, and SGD for what is no matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.train import Recipe, params
from convatlas.train.muon import Muon, as_filters, as_matrix, orthogonalised

SETTINGS = {"optimizer": "muon", "lr": 0.1, "nesterov": True, "muon_momentum": 0.6, "momentum": 0.85}


def polar(matrix: Tensor) -> Tensor:
    """U V^T by the singular value decomposition."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalised_turns_towards_the_polar_factor(shape: tuple[int, int]) -> None:
    """The singular vectors are those of the polar factor; its values lie near 1, whatever they were."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    if shape == (16, 16):  # spread over two decades
        u, _, v = torch.linalg.svd(matrix)
        matrix = u @ torch.diag(torch.logspace(0, -2, 16, dtype=torch.float64)) @ v
    ours, exact = orthogonalised(matrix), polar(matrix)
    values = torch.linalg.svdvals(ours)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ ours @ v.T  # diagonal, if the vectors are the same
    assert float((inner - torch.diag(inner.diagonal())).abs().max()) < 1e-9
    assert float((ours * exact).sum() / (ours.norm() * exact.norm())) > 0.98


def test_the_scale_of_a_gradient_does_not_matter_and_half_precision_is_enough() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(32, 100)
    whole = orthogonalised(matrix)
    torch.testing.assert_close(orthogonalised(1e-3 * matrix), whole, rtol=1e-3, atol=1e-4)
    half = orthogonalised(matrix.bfloat16()).float()
    assert float((half - whole).norm() / whole.norm()) < 0.05
    assert torch.linalg.svdvals(half).min() > 0.5


def test_zero_stays_zero() -> None:
    assert not orthogonalised(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_filters_and_matrices_are_the_same_numbers(layout: torch.memory_format) -> None:
    filters = torch.arange(48.0).view(2, 6, 2, 2).to(memory_format=layout)
    matrix = as_matrix(filters)
    assert matrix.shape == (2, 24)
    assert matrix.data_ptr() == filters.data_ptr()  # no copy
    assert torch.equal(as_filters(matrix, filters), filters)


def network(layout: torch.memory_format = torch.contiguous_format) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 3))
    return net.to(memory_format=layout)


def stepped(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        net(torch.randn(4, 2, 8, 8)).square().mean().backward()
        optimiser.step()


def test_three_steps_are_those_of_the_obvious_loop() -> None:
    """Momentum, look-ahead, direction, decay: written out once more for a matrix and a vector."""
    recipe = Recipe(**SETTINGS, weight_decay=0.02, rates=(("*.bias", 4.0),))
    net, other = network().double(), network().double()
    optimiser = params.optimizer(net, recipe)
    params.set_rates(optimiser, recipe, 0.0)
    running = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    for step in range(3):
        for model in (net, other):
            torch.manual_seed(step)
            model.zero_grad()
            model(torch.randn(4, 2, 8, 8, dtype=torch.float64)).square().mean().backward()
        optimiser.step()
        with torch.no_grad():
            for name, p in other.named_parameters():
                factor = 4.0 if name.endswith("bias") else 1.0
                matrix, momentum = p.ndim > 1, 0.6 if p.ndim > 1 else 0.85
                gradient = p.grad if matrix else p.grad + 0.02 / factor * p
                running[name] = momentum * running[name] + gradient
                direction = gradient + momentum * running[name]
                if matrix:
                    flat = direction.flatten(1).float()
                    a, b, c = 3.4445, -4.7750, 2.0315
                    x = (flat if flat.shape[0] <= flat.shape[1] else flat.T).double()
                    x = (x / x.norm()).float()
                    for _ in range(5):
                        g = x @ x.T
                        x = a * x + (b * g + c * g @ g) @ x
                    x = x if flat.shape[0] <= flat.shape[1] else x.T
                    p.mul_(1 - 0.1 * 0.02)
                    p.sub_(0.1 * max(1, p.shape[0] / p[0].numel()) ** 0.5 * x.view_as(p))
                else:
                    p.sub_(0.1 * factor * direction)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, dict(other.named_parameters())[name], rtol=1e-4, atol=1e-5)


def test_vectors_move_as_by_torchs_sgd() -> None:
    recipe = Recipe(**SETTINGS, weight_decay=0.01)
    ours, theirs = network(), network()
    for net in (ours, theirs):
        net[0].weight.requires_grad_(False)
        net[3].weight.requires_grad_(False)
    sgd = torch.optim.SGD(
        [p for p in theirs.parameters() if p.requires_grad], 0.1, 0.85, weight_decay=0.01, nesterov=True
    )
    stepped(ours, params.optimizer(ours, recipe), 4)
    stepped(theirs, sgd, 4)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, dict(theirs.named_parameters())[name])


def test_filters_keep_their_norm_and_turn_by_the_rate() -> None:
    recipe = Recipe(**{**SETTINGS, "lr": 0.01}, muon_keeps_norm=True)
    net = network()
    optimiser = params.optimizer(net, recipe)
    stepped(net, optimiser, 1)
    before = net[0].weight.detach().clone()
    stepped(net, optimiser, 1)
    after = net[0].weight.detach()
    unit = before * (8**0.5 / before.norm())
    moved = (after - unit).flatten(1)
    assert torch.linalg.svdvals(moved).max() < 0.0125
    assert torch.linalg.svdvals(moved).min() > 0.006


def test_channels_last_takes_the_same_steps() -> None:
    nets = [network(), network(torch.channels_last)]
    for net in nets:
        stepped(net, params.optimizer(net, Recipe(**SETTINGS)), 3)
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_the_classifier_and_vectors_are_left_to_sgd() -> None:
    net = create_model("resnet20_cifar")
    groups = params.groups(net, Recipe(**SETTINGS))
    of = {id(p): group["matrix"] for group in groups for p in group["params"]}
    for name, p in net.named_parameters():
        assert of[id(p)] == (p.ndim == 4), name


# --- rates by name, and parts that are held early ---------------------------------------------------------------


def test_rates_by_name_and_their_schedule_in_their_own_time() -> None:
    recipe = Recipe(
        lr=0.2, schedule="linear", rates=(("0.bias", 3.0), ("*.bias", 5.0)), hold_from=(("0.*", 0.5),)
    )
    net = network()
    optimiser = params.optimizer(net, recipe)
    name_of = {id(p): name for name, p in net.named_parameters()}

    def rates(progress: float) -> dict[str, float]:
        assert params.set_rates(optimiser, recipe, progress) == pytest.approx(0.2 * (1 - progress))
        return {name_of[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}

    start, quarter, half = rates(0.0), rates(0.25), rates(0.5)
    assert start == pytest.approx(
        {"0.weight": 0.2, "0.bias": 0.6, "1.weight": 0.2, "1.bias": 1.0, "3.weight": 0.2, "3.bias": 1.0}
    )
    assert quarter["0.weight"] == pytest.approx(0.1)  # half of its time is over
    assert quarter["3.weight"] == pytest.approx(0.15)
    assert (half["0.weight"], half["0.bias"]) == (0, 0)


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_what_is_held_gets_no_gradient_and_does_not_move(optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, lr=0.01, hold_from=(("0.*", 0.5),), weight_decay=0.1)
    net = network()
    optimiser = params.optimizer(net, recipe)
    stepped(net, optimiser, 2)
    params.set_rates(optimiser, recipe, 0.5)
    params.hold_over(optimiser, 0.5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    stepped(net, optimiser, 2)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert net[0].weight.grad is None
    params.hold_over(optimiser, 0.25)  # after a rollback
    assert net[0].weight.requires_grad


def test_a_rate_of_zero_holds_as_well() -> None:
    """Several processes wait for every gradient: there the rate alone holds."""
    recipe = Recipe(**SETTINGS, hold_from=(("0.*", 0.5),), weight_decay=0.1, muon_keeps_norm=True)
    net = network()
    optimiser = params.optimizer(net, recipe)
    params.set_rates(optimiser, recipe, 0.75)
    before = net[0].weight.detach().clone()
    stepped(net, optimiser, 2)
    assert net[0].weight.grad is not None
    assert torch.equal(net[0].weight, before)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rates: no parameter that learns is called 'blok\*'"):
        params.optimizer(network(), Recipe(rates=(("blok*", 2.0),)))
    with pytest.raises(UsageError, match="hold_from"):
        params.optimizer(network(), Recipe(hold_from=(("9.*", 0.5),)))
    with pytest.raises(UsageError, match="outside"):
        Recipe(hold_from=(("0.*", 1.5),))


def test_a_closure_is_called() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimiser = Muon([{"params": [p], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "matrix": True}])

    def closure() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 4.0
    assert not torch.equal(p, torch.ones(2, 2))
