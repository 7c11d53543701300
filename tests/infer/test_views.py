"""Views: weights sum to 1, shifts move pixels, and the average is the one that is stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.infer.predict import probabilities
from convatlas.infer.views import VIEWS, kind_of, moved


@pytest.mark.parametrize(("kind", "passes"), [("one", 1), ("mirror", 2), ("shift", 6), ("grid", 18)])
def test_every_view_is_one_forward_pass_and_weights_sum_to_one(kind: str, passes: int) -> None:
    calls: list[Tensor] = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return x.mean((2, 3))

    found = probabilities(Counted(), torch.randn(2, 3, 8, 8), tta=kind)
    assert VIEWS[kind].passes == len(calls) == passes
    assert all(call.shape == (2, 3, 8, 8) for call in calls)
    assert sum(weight for weight, _ in VIEWS[kind].of(torch.zeros(1, 1, 4, 4))) == pytest.approx(1)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    distinct = {tuple(call.flatten().tolist()) for call in calls}
    assert len(distinct) == passes


def test_moved_is_a_roll_but_for_the_border_which_is_reflected() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    for right, down in ((1, 0), (0, -1), (1, 1), (-1, 1)):
        rolled = torch.roll(x, (down, right), (2, 3))
        inner = slice(1, -1)
        assert torch.equal(moved(x, right, down)[..., inner, inner], rolled[..., inner, inner])
    assert torch.equal(moved(x, 1, 0)[..., 0], x[..., 1])  # reflected about the first pixel
    assert moved(x, 0, 0) is x


def test_shift_is_the_stated_mean_of_six() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 4)), torch.randn(3, 3, 8, 8)

    def both(images: Tensor) -> Tensor:
        return (net(images).softmax(1) + net(images.flip(3)).softmax(1)) / 2

    with torch.no_grad():
        expected = both(x) / 2 + both(moved(x, 1, 1)) / 4 + both(moved(x, -1, -1)) / 4
        torch.testing.assert_close(probabilities(net, x, tta="shift"), expected)
        torch.testing.assert_close(probabilities(net, x, tta=True), both(x))
        assert torch.equal(probabilities(net, x), net(x).softmax(1))


def test_names() -> None:
    assert [kind_of(wish) for wish in (False, True, "grid")] == ["one", "mirror", "grid"]
    with pytest.raises(UsageError, match=r"no views 'shfit'.*shift"):
        kind_of("shfit")
