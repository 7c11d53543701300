"""Max-pooling against PyTorch's, bit for bit, also where numbers are equal, without end, or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.kernels.max_pool import max_pool2d
from convatlas.train.computed import pooling

WINDOWS = [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 3, 0), (2, 1, 0), (2, 2, 1), (5, 3, 2), (3, 1, 1), (2, 3, 0)]
MAPS = [(2, 3, 8, 8), (1, 65, 7, 11), (3, 1, 5, 5), (5, 16, 31, 31), (2, 4, 3, 6)]


def drawn(shape: tuple[int, ...]) -> Tensor:
    """A map in bf16, channels last, with many equal numbers: half are 0 or -0, and the others have few digits."""
    torch.manual_seed(0)
    x = torch.randn(shape).mul(4).round().div(4) * torch.randint(0, 2, shape)
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def both(x: Tensor, window: tuple[int, int, int]) -> list[tuple[Tensor, Tensor]]:
    """Output and gradient of ours and of PyTorch's."""
    seen = []
    for pool in (max_pool2d, torch.max_pool2d):
        leaf = x.clone().requires_grad_()
        y = pool(leaf, *window)
        torch.manual_seed(1)
        (dx,) = torch.autograd.grad(y, leaf, torch.randn(y.shape).bfloat16())
        seen.append((y.detach(), dx))
    return seen


def same_bits(one: Tensor, other: Tensor) -> bool:
    return bool((one.view(torch.int16) == other.view(torch.int16)).all())


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", MAPS)
def test_bits_are_those_of_pytorch(shape: tuple[int, ...], window: tuple[int, int, int]) -> None:
    (y, dx), (expected, expected_dx) = both(drawn(shape), window)
    assert same_bits(y, expected)
    assert same_bits(dx, expected_dx)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan"), -float("nan")])
def test_numbers_that_are_not_finite_go_through(number: float) -> None:
    x = drawn((2, 5, 9, 9))
    x[torch.rand(x.shape) < 0.2] = number
    x[0, 0] = number
    for window in WINDOWS:
        (y, dx), (expected, expected_dx) = both(x, window)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    x, before = drawn((5, 16, 9, 9)), torch.get_num_threads()
    expected = both(x, (3, 2, 1))[1]
    torch.set_num_threads(threads)
    try:
        y, dx = both(x, (3, 2, 1))[0]
    finally:
        torch.set_num_threads(before)
    assert same_bits(y, expected[0])
    assert same_bits(dx, expected[1])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3),
        nn.MaxPool2d((2, 2)),
        nn.MaxPool2d(2, 1, ceil_mode=True),
        nn.MaxPool2d((1, 2), dilation=2),
        nn.Flatten(),
    )


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().sum().backward()
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def test_a_network_learns_the_same_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from convatlas.kernels import max_pool

    calls: list[tuple[int, ...]] = []
    kernel = max_pool.max_pool2d

    def counted(x: Tensor, *window: int) -> Tensor:
        calls.append(window)
        return kernel(x, *window)

    monkeypatch.setattr(max_pool, "max_pool2d", counted)
    model = network().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(4, 3, 30, 30).contiguous(memory_format=torch.channels_last)
    expected = gradients(model, x)
    with pooling(model):
        found = gradients(model, x)
        assert calls == [(3, 2, 1), (2, 2, 0)]  # the others are no square windows of the plain kind
        with torch.no_grad():
            model(x)
        model.float()(x)  # float32
        assert len(calls) == 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_window_larger_than_the_map_is_pytorch_s_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(8)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    with (
        pooling(model),
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RuntimeError, match="too small"),
    ):
        model(torch.randn(2, 3, 7, 7))
