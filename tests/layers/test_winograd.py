"""Winograd's convolution against the direct one: outputs, gradients, rounding, and where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convatlas.kernels import compiled
from convatlas.layers.winograd import SIDES, Winograd2d, constants, multiplications, tile, winograd

MAPS = [(2, 2), (3, 3), (4, 6), (5, 5), (6, 6), (7, 7), (7, 4), (11, 13), (2, 9)]


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_outputs_and_gradients_are_those_of_the_direct_sum(height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, height, width, dtype=torch.float64)
    weight, dy = torch.randn(4, 5, 3, 3, dtype=torch.float64), torch.randn(3, 4, height, width).double()
    seen = []
    for convolution in (winograd, lambda x, w: torch.conv2d(x, w, padding=1)):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = convolution(*leaves)
        seen.append((y, *torch.autograd.grad(y, leaves, dy)))
    torch.testing.assert_close(seen[0], seen[1])


@pytest.mark.parametrize("with_numba", [True, False])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (11, 13), (56, 30)])
def test_in_float32_it_errs_as_little_as_it_says(
    height: int, width: int, with_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the images are more than one part, and the filters lie as a network with channels last has them."""
    monkeypatch.setattr(compiled, "installed", lambda: with_numba)
    monkeypatch.setattr(
        "convatlas.layers.winograd.PART", 3 * 36 * 70 * 4 * multiplications(height, width, 4) // 36
    )
    torch.manual_seed(0)
    weight = (torch.randn(48, 70, 3, 3) * 0.05).contiguous(memory_format=torch.channels_last)
    x, dy = torch.randn(5, 70, height, width).relu(), torch.randn(5, 48, height, width)
    x = x.contiguous(memory_format=torch.channels_last)
    seen = []
    for kind in (torch.float32, torch.float64):
        leaves = x.to(kind).requires_grad_(), weight.to(kind).requires_grad_()
        y = winograd(*leaves) if kind == torch.float32 else torch.conv2d(*leaves, padding=1)
        seen.append((y, *torch.autograd.grad(y, leaves, dy.to(kind))))
    assert seen[0][0].is_contiguous(memory_format=torch.channels_last)
    for found, exact in zip(*seen, strict=True):
        assert float((found - exact).detach().norm() / exact.detach().norm()) < 5e-6


@pytest.mark.parametrize("with_numba", [True, False])
def test_autocast_around_it_changes_nothing(with_numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither around the call of the function nor around the backward pass."""
    monkeypatch.setattr(compiled, "installed", lambda: with_numba)
    x = torch.randn(2, 8, 7, 7).contiguous(memory_format=torch.channels_last)
    seen = []
    for enabled in (False, True):
        leaves = x.clone().requires_grad_(), torch.ones(6, 8, 3, 3, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = winograd(*leaves)
            seen.append((y, *torch.autograd.grad(y, leaves, torch.ones_like(y))))
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_half_numbers_take_filters_of_float32() -> None:
    x, weight = torch.randn(2, 8, 7, 7), torch.randn(6, 8, 3, 3, requires_grad=True)
    y = winograd(x.half(), weight)
    assert y.dtype == torch.float16
    y.float().sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(y.float(), torch.conv2d(x, weight, padding=1), atol=0.2, rtol=0.05)


def test_a_bias_is_added_and_learns() -> None:
    layer, plain = Winograd2d(8, 6, bias=True).train(), nn.Conv2d(8, 6, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 7, 7)
    for each in (layer, plain):
        each(x).square().sum().backward()
    for found, expected in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True), ({"bias": False}, True), ({"padding": "same"}, False), ({"stride": 2}, False),
        ({"padding": 0}, False), ({"dilation": 2}, False), ({"groups": 4}, False), ({"padding_mode": "reflect"}, False),
    ],
)  # fmt: skip
def test_what_it_could_stand_for(options: dict[str, Any], fits: bool) -> None:
    assert Winograd2d.replaces(nn.Conv2d(8, 4, 3, **{"padding": 1, **options})) == fits
    assert not Winograd2d.replaces(nn.Conv2d(8, 4, 5, padding=1))
    assert not Winograd2d.replaces(Winograd2d(8, 4))


@pytest.mark.parametrize("side", SIDES)
def test_one_tile_of_a_line_by_the_definition(side: int) -> None:
    """F(m, 3): A^T [(G g) * (B^T d)]."""
    inputs, filters, outputs = (torch.from_numpy(each) for each in constants(side))
    torch.manual_seed(0)
    line, taps = torch.randn(side + 2).double(), torch.randn(3).double()
    expected = torch.stack([(line[i : i + 3] * taps).sum() for i in range(side)])
    torch.testing.assert_close(outputs @ ((filters @ taps) * (inputs @ line)), expected)


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight = torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3, requires_grad=True)
    winograd(x, weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.shape == weight.shape
    wanted = x.clone().requires_grad_()
    winograd(wanted, weight.detach()).sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.shape == x.shape


@pytest.mark.parametrize("with_numba", [True, False])
@pytest.mark.parametrize(("side", "limit"), [(2, 0.006), (3, 0.019), (4, 0.021)])
def test_rounding_in_bf16(side: int, limit: float, with_numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module says of its error; the direct sum errs by 0.002."""
    monkeypatch.setattr(compiled, "installed", lambda: with_numba)
    torch.manual_seed(0)
    map_side = {2: 2, 3: 6, 4: 8}[side]
    assert tile(map_side, map_side) == side
    x = torch.randn(16, 128, map_side, map_side).relu().bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3) * 0.03
    exact = torch.conv2d(x.float(), weight, padding=1)
    error = (winograd(x, weight).float() - exact).norm() / exact.norm()
    assert 0.001 < float(error) < limit


@pytest.mark.parametrize(
    ("height", "width", "side", "needed"),
    [(7, 7, 4, 144), (6, 6, 3, 100), (3, 3, 3, 25), (2, 2, 2, 16), (15, 15, 4, 576)],
)
def test_the_tile_that_needs_the_fewest_multiplications(
    height: int, width: int, side: int, needed: int
) -> None:
    assert tile(height, width) == side
    assert multiplications(height, width, side) == needed < 9 * height * width


def test_a_single_number_is_summed_directly() -> None:
    assert tile(1, 1) == 0
    layer = Winograd2d(3, 4).train()
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, padding=1))


def test_the_layer_is_a_convolution_but_for_learning() -> None:
    layer, plain = Winograd2d(8, 6), nn.Conv2d(8, 6, 3, padding=1, bias=False)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 7, 7)
    assert torch.equal(layer.eval()(x), plain(x))
    learning = layer.train()(x)
    assert not torch.equal(learning, plain(x))
    torch.testing.assert_close(learning, plain(x), atol=1e-5, rtol=1e-5)


def test_autocast_and_memory_order() -> None:
    layer = Winograd2d(8, 6).train()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 8, 7, 7))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("map_side", [6, 7, 8])
def test_a_relu_behind_it_may_overwrite(map_side: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, map_side, map_side)
    networks = [
        nn.Sequential(Winograd2d(5, 4), nn.ReLU(inplace=inplace)).train() for inplace in (True, False)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    seen = []
    for network in networks:
        y = network(x)
        y.sum().backward()
        seen.append((y, network[0].weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_one_picture_without_a_batch() -> None:
    layer, x = Winograd2d(5, 4), torch.randn(5, 7, 7)
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_what_is_built_without_memory_does_not_spoil_later_ones() -> None:
    constants.cache_clear()
    with torch.device("meta"):
        Winograd2d(5, 4).train()(torch.randn(2, 5, 7, 7))
        constants(4)
        there = Winograd2d(5, 4).to_empty(device="cpu").train()
        assert there(torch.zeros(2, 5, 7, 7, device="cpu")).device.type == "cpu"
    layer = Winograd2d(5, 4).train()
    assert layer(torch.randn(2, 5, 7, 7)).device.type == "cpu"
