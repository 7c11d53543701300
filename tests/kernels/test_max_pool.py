"""Max-pooling against PyTorch's, number for number, also where numbers are equal, without end, or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convatlas.kernels.max_pool import max_pool2d
from convatlas.layers.max_pool import QuickMaxPool2d

SIZES = (2, 3, 5)
MAPS = [(2, 3, 8, 8), (1, 65, 7, 11), (3, 2, 5, 5), (5, 16, 31, 31), (2, 300, 6, 9)]


def drawn(shape: tuple[int, ...]) -> Tensor:
    """A map in bf16, channels last, with many equal numbers: half are 0 or -0, and the others have few digits."""
    torch.manual_seed(0)
    x = torch.randn(shape).mul(4).round().div(4) * torch.randint(0, 2, shape)
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def both(x: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Output and gradient of ours and of PyTorch's."""
    seen = []
    for pool in (max_pool2d, torch.max_pool2d):
        leaf = x.clone().requires_grad_()
        y = pool(leaf, size)
        torch.manual_seed(1)
        (dx,) = torch.autograd.grad(y, leaf, torch.randn(y.shape).bfloat16())
        seen.append((y.detach(), dx))
    return seen


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", MAPS)
def test_numbers_are_those_of_pytorch(shape: tuple[int, ...], size: int) -> None:
    (y, dx), (expected, expected_dx) = both(drawn(shape), size)
    assert torch.equal(y, expected)
    assert torch.equal(dx, expected_dx)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan"), -float("nan")])
def test_numbers_that_are_not_finite_go_through(number: float) -> None:
    x = drawn((2, 5, 9, 9))
    x[torch.rand(x.shape) < 0.2] = number
    x[0, 0] = number
    for size in SIZES:
        (y, dx), (expected, expected_dx) = both(x, size)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    x, before = drawn((5, 16, 9, 9)), torch.get_num_threads()
    expected = both(x, 2)[1]
    torch.set_num_threads(threads)
    try:
        y, dx = both(x, 2)[0]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, expected[0])
    assert torch.equal(dx, expected[1])


def test_the_layer_takes_the_kernel_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from convatlas.kernels import max_pool

    calls: list[int] = []
    kernel = max_pool.max_pool2d

    def counted(x: Tensor, size: int) -> Tensor:
        calls.append(size)
        return kernel(x, size)

    monkeypatch.setattr(max_pool, "max_pool2d", counted)
    layer = QuickMaxPool2d(2)
    x = drawn((2, 4, 8, 8)).requires_grad_()
    assert torch.equal(layer(x), torch.max_pool2d(x, 2))
    assert calls == [2]
    for other in (x.detach(), x.float(), x.contiguous(), drawn((2, 1, 8, 8)).requires_grad_(), x[0]):
        assert torch.equal(layer(other), torch.max_pool2d(other, 2))
    assert torch.equal(layer.eval()(x), torch.max_pool2d(x, 2))
    assert calls == [2]
    for empty in ((2, 4, 1, 8), (2, 0, 8, 8)):
        with pytest.raises(RuntimeError):
            layer.train()(torch.zeros(empty).bfloat16().requires_grad_())


def test_a_window_with_more_places_than_a_byte_counts_is_pytorch_s() -> None:
    x = drawn((2, 3, 17, 17)).requires_grad_()
    gradients = []
    for pool in (QuickMaxPool2d(17), torch.nn.MaxPool2d(17)):
        gradients += torch.autograd.grad(pool(x).float().sum(), x)
    assert torch.equal(*gradients)


def test_another_default_device_is_not_asked() -> None:
    x = drawn((2, 4, 8, 8)).requires_grad_()
    with torch.device("meta"):
        max_pool2d(x, 2).backward(torch.ones(2, 4, 4, 4, dtype=torch.bfloat16, device="cpu"))
    assert x.grad is not None
    assert x.grad.device.type == "cpu"
