"""Timing by a clock of our own; and that what is timed is given back as it was. How fast it is, no test says."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure.timing import Timing, alternate, latency, prepared, threads_set
from convatlas.models import create_model


class Clock:
    """Time that passes only where a call lets it pass."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, *seconds: float) -> Callable[[], None]:
        left = list(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_calls_take_turns() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", 1), "b": clock.call("b", 2), "c": clock.call("c", 3)}
    taken = alternate(calls, seconds=100, rounds=4, clock=clock)
    assert clock.log == [*"abc", *"bca", *"cab", *"abc"]
    assert taken == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}


def test_time_is_a_limit_after_the_first_round() -> None:
    clock = Clock()
    assert alternate({"a": clock.call("a", 3)}, seconds=10, rounds=99, clock=clock) == {"a": [3.0] * 3}
    assert clock.now <= 10
    clock = Clock()
    assert alternate({"a": clock.call("a", 50)}, seconds=10, rounds=99, clock=clock) == {"a": [50.0]}
    clock = Clock()  # the longest round so far is what the next one may take
    taken = alternate({"a": clock.call("a", 1, 6, 1)}, seconds=12, rounds=99, clock=clock)
    assert taken == {"a": [1.0, 6.0]}
    clock = Clock()
    assert alternate({"a": clock.call("a", 1)}, seconds=-1, rounds=9, clock=clock) == {"a": [1.0]}


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=20))
def test_summary(seconds: list[float]) -> None:
    timing = Timing.of(seconds)
    assert timing.median == statistics.median(seconds)
    assert min(seconds) <= timing.low <= timing.median <= timing.high <= max(seconds)
    assert timing.runs == len(seconds)
    assert timing.spread == (timing.high - timing.low) / timing.median
    assert Timing(**timing.to_json()) == timing


class Watcher(nn.Module):
    """Remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.norm.eval()  # a mode of its own
        self.seen: list[tuple[bool, bool, torch.dtype, tuple[int, ...], bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        layout = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append(
            (self.training, torch.is_grad_enabled(), x.dtype, tuple(x.shape), layout, torch.get_num_threads())
        )
        return self.drop(self.norm(self.conv(x)))


def states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_everything_is_given_back(train: bool, dtype: str, channels_last: bool) -> None:
    network = Watcher()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    random_states, threads = states(), torch.get_num_threads()
    with torch.enable_grad():
        latency(
            network,
            (3, 8, 8),
            batch=2,
            train=train,
            dtype=dtype,
            channels_last=channels_last,
            seconds=0.2,
            runs=3,
        )
        assert torch.is_grad_enabled()
    assert states() == random_states
    assert torch.get_num_threads() == threads
    assert {name: module.training for name, module in network.named_modules()} == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == before[name].dtype
        assert tensor.is_contiguous()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_inference_is_what_it_says() -> None:
    network = Watcher()
    latency(network, (3, 8, 8), batch=5, threads=1, seconds=0.1, runs=2)
    assert set(network.seen) == {(False, False, torch.float32, (5, 3, 8, 8), False, 1)}


def test_a_step_really_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate above 0 the copy's weights move and its gradients are those of the mean square of the output."""
    sgd = torch.optim.SGD
    made: list[list[nn.Parameter]] = []

    def keep(parameters: list[nn.Parameter], lr: float, momentum: float) -> torch.optim.SGD:
        made.append(parameters)
        return sgd(parameters, lr=1.0, momentum=momentum)

    monkeypatch.setattr(torch.optim, "SGD", keep)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    frozen = nn.Linear(3, 3).requires_grad_(False)
    with prepared(nn.Sequential(network, frozen), (3, 2, 2), batch=4, train=True) as step:
        step()
    (parameters,) = made
    assert [tuple(parameter.shape) for parameter in parameters] == [
        (3, 12),
        (3,),
    ]  # the frozen ones are left out
    for parameter, original in zip(parameters, network.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter, original - parameter.grad)
        assert not torch.equal(parameter, original)


def test_every_output_is_trained() -> None:
    with prepared(create_model("googlenet", 5), (3, 96, 96), batch=2, train=True) as step:  # auxiliary heads
        step()


def test_failures_are_given_back_too() -> None:
    network = Watcher()
    modes = {name: module.training for name, module in network.named_modules()}
    with pytest.raises(UsageError, match=r"Watcher cannot take an image of shape \(1, 8, 8\)"):
        latency(network, (1, 8, 8))
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_no_memory_is_not_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    network = Watcher()
    monkeypatch.setattr(network, "forward", fail)
    with pytest.raises(RuntimeError, match="can't allocate"):
        latency(network, (3, 8, 8))


def test_bad_wishes() -> None:
    network = nn.Conv2d(3, 4, 3)
    with pytest.raises(UsageError, match="at least one image"):
        latency(network, (3, 8, 8), batch=0)
    with pytest.raises(UsageError, match="Did you mean 'bf16'"):
        latency(network, (3, 8, 8), dtype="fp16")
    with pytest.raises(UsageError, match="at least one thread"):
        latency(network, (3, 8, 8), threads=0)
    with pytest.raises(UsageError, match="no parameter to train"):
        latency(nn.ReLU(), (3, 8, 8), train=True)
    with blueprint():
        ghost = nn.Conv2d(3, 4, 3)
    with pytest.raises(UsageError, match="blueprint without weights"):
        latency(ghost, (3, 8, 8))


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads_set(before + 1):
        raise KeyError({before + 1: "inside"}[torch.get_num_threads()])
    assert torch.get_num_threads() == before
