"""What is borrowed is given back, also when an error passes through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.hooks import capture, eval_mode, train_mode, watched


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def model() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.ReLU(), nn.Flatten()))
    model[1].eval()  # a frozen layer inside a training network: each module has its own mode
    return model


def test_eval_mode_restores_every_modules_own_mode(model: nn.Sequential) -> None:
    before = [module.training for module in model.modules()]
    seen: list[bool] = []
    model[0].register_forward_pre_hook(lambda *_: seen.extend(module.training for module in model.modules()))
    with pytest.raises(RuntimeError, match="channels"), eval_mode(model):
        model(torch.ones(1, 3, 5, 5))
    assert len(seen) == 6
    assert not any(seen)
    assert [module.training for module in model.modules()] == before
    assert before.count(False) == 1


def test_train_mode_restores_every_modules_own_mode(model: nn.Sequential) -> None:
    seen: list[bool] = []
    model[0].register_forward_pre_hook(lambda *_: seen.extend(module.training for module in model.modules()))
    with pytest.raises(RuntimeError, match="channels"), train_mode(model):
        model(torch.ones(1, 3, 5, 5))
    assert len(seen) == 6
    assert all(seen)
    assert [module.training for module in model.modules()].count(False) == 1
    assert not model[1].training


def test_capture_holds_outputs_and_leaves_no_hook(model: nn.Sequential) -> None:
    x = torch.ones(1, 1, 5, 5)
    with capture(model, ["0", "2.0"]) as outputs:
        final = model(x)
    assert torch.equal(outputs["0"], model[0](x))
    assert torch.equal(outputs["2.0"].flatten(1), final)
    assert hooks_of(model) == 0
    with pytest.raises(KeyError, match="nowhere"), capture(model, ["0", "nowhere"]):
        pass
    assert hooks_of(model) == 0


def test_watched_sees_calls_in_order_and_leaves_no_hook(model: nn.Sequential) -> None:
    seen: list[str] = []

    def enter(name: str, *_: object) -> None:
        seen.append(f"+{name}")

    def leave(name: str, *_: object) -> None:
        seen.append(f"-{name}")

    with watched(model, enter, leave):
        model(torch.ones(1, 1, 5, 5))
    assert seen == ["+", "+0", "-0", "+1", "-1", "+2", "+2.0", "-2.0", "+2.1", "-2.1", "-2", "-"]
    assert hooks_of(model) == 0
    with pytest.raises(RuntimeError, match="channels"), watched(model, enter, leave):
        model(torch.ones(1, 3, 5, 5))
    assert hooks_of(model) == 0
