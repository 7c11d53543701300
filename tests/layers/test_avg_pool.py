"""Average pooling as a product, beside PyTorch's, bit for bit; and where PyTorch's is left to do it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.layers import avg_pool as module
from convatlas.layers.avg_pool import QuickAvgPool2d
from convatlas.models import create_model


def maps(*shape: int, dtype: torch.dtype = torch.bfloat16, last: bool = True) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def both(pool: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Its output, and the gradient of the input where that of the output is noise."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = pool(x)
    wanted = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(wanted.contiguous(memory_format=torch.channels_last))
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("shape", [(256, 6, 28, 28), (3, 8, 4, 32), (1, 2, 2, 2), (5, 6, 14, 6)])
def test_the_same_numbers_and_gradients(shape: tuple[int, ...]) -> None:
    x = maps(*shape)
    assert module._pays(x)
    for ours, theirs in zip(both(QuickAvgPool2d(), x), both(nn.AvgPool2d(2), x), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_extremes_stay_in_their_own_window() -> None:
    x = maps(2, 6, 8, 8)
    x[0, 3, 2, 2] = 3e38
    ours, theirs = both(QuickAvgPool2d(), x)[0], both(nn.AvgPool2d(2), x)[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "x",
    [
        maps(2, 6, 9, 8),
        maps(2, 6, 8, 7),
        maps(2, 16, 8, 8),
        maps(2, 1, 8, 8),
        maps(2, 6, 8, 64),
        maps(2, 6, 8, 8, last=False),
        maps(2, 6, 8, 8, dtype=torch.float32),
        maps(2, 6, 8, 8)[0],
        maps(0, 6, 8, 8),
    ],
)
def test_everything_else_is_pytorchs(x: Tensor) -> None:
    assert not module._pays(x)
    assert torch.equal(QuickAvgPool2d()(x), nn.AvgPool2d(2)(x))


def test_what_is_not_finite_is_noticed() -> None:
    """Zeros of the matrix carry it into its row: the loss is not finite either way, and training stops."""
    x = maps(2, 6, 8, 8)
    x[0, 3, 2, 2] = float("inf")
    assert not QuickAvgPool2d()(x).isfinite().all()


def test_lenet_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        network = create_model("lenet5").to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        with torch.autocast("cpu", torch.bfloat16):
            network(maps(8, 1, 32, 32, dtype=torch.float32)).sum().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    ours = gradients()
    monkeypatch.setattr(module, "_pays", lambda _: False)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(), strict=True))
