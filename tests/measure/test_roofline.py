"""Intensity and roofline: rows counted by hand, another way of counting whole networks, and the laws of the bound."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.roof import Rate, Roof
from convatlas.measure.roofline import Work, beside, roofline, work
from convatlas.measure.trace import trace
from convatlas.models import create_model


def roof(macs: float = 1e9, bytes_: float = 1e9, bf16: float = 2.0) -> Roof:
    """A machine with these peaks; its other kernels are slower."""
    rates = {
        "matmul fp32": macs / 2, "conv fp32": macs, "matmul bf16": macs * bf16, "conv bf16": macs,
        "copy": bytes_ / 2, "triad": bytes_,
    }  # fmt: skip
    return Roof({name: Rate(1, rate, rate, rate, 3) for name, rate in rates.items()}, {}, {}, "")


def rows(network: nn.Module, shape: tuple[int, ...]) -> list[tuple[str, int, int, int]]:
    return [(row.name, row.macs, row.per_image, row.per_batch) for row in work(trace(network, shape))]


class Branches(nn.Module):
    """A residual sum, views, a concatenation and a weight that is made anew at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8 * 36, 5)
        self.register_buffer("mask", torch.ones(4, 4, 1, 1))
        self.weight = nn.Parameter(torch.ones(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        x = self.relu(x)
        x = F.conv2d(x, self.weight * self.mask)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, right, left, right], dim=1)
        return self.fc(x.flatten(1))


def test_rows_by_hand() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    assert rows(plain, (3, 4, 4)) == [
        ("0", 8 * 16 * 3, 3 * 16 + 8 * 16, 8 * 3 + 8),
        ("1", 0, 2 * 8 * 16, 0),
        ("2", 0, 8 * 16 + 8 * 4, 0),  # its indices are not counted
        ("4", 32 * 10, 32 + 10, 32 * 10 + 10),  # Flatten moves nothing, and has no row
    ]
    image = 4 * 36
    assert rows(Branches(), (4, 6, 6)) == [
        ("conv", image * 2 * 9, 2 * image, 4 * 2 * 9),
        ("(add)", 0, 3 * image, 0),
        ("relu", 0, 2 * image, 0),  # in place: read and written all the same
        ("(multiply)", 0, 0, 3 * 16),  # weights, whatever the batch
        ("(convolution)", image * 4, 2 * image, 16),
        ("(concat)", 0, image + 2 * image, 0),  # the same two halves are read once
        ("fc", 2 * image * 5, 2 * image + 5, 2 * image * 5 + 5),
    ]


def test_a_layer_used_twice_moves_its_weights_twice() -> None:
    layer = nn.Linear(10, 10, bias=False)
    assert [row[3] for row in rows(nn.Sequential(layer, layer), (10,))] == [100, 100]


def test_intensity_by_hand() -> None:
    row = Work("conv", "conv", macs=1000, per_image=50, per_batch=200)
    assert row.bytes_moved() == 4 * 250
    assert row.intensity() == 2 * 1000 / 1000
    assert row.bytes_moved(8, "bf16") == 2 * (8 * 50 + 200)
    assert row.intensity(8, "bf16") == 2 * 8 * 1000 / (2 * 600)
    assert Work("", "", 0, 0, 0).intensity() == 0


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2", "squeezenet1_1"])
def test_whole_networks_against_hooks_on_a_real_pass(name: str) -> None:
    """Inputs, outputs and weights of every leaf, added up by hooks while three images go through."""
    torch.manual_seed(0)
    network = create_model(name, 7).eval()
    batch, seen = 3, list[tuple[str, int, int]]()

    def look(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            own = [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
            seen.append((path, args[0].numel() + output.numel(), sum(tensor.numel() for tensor in own)))

        return hook

    for path, module in network.named_modules():
        if not list(module.children()) and not isinstance(module, (nn.Flatten, nn.Dropout, nn.Identity)):
            module.register_forward_hook(look(path))
    with torch.no_grad():
        network(torch.rand(batch, 3, 64, 64))
    ours = [row for row in work(trace(create_model(name, 7), (3, 64, 64))) if not row.name.endswith(")")]
    assert [(row.name, row.per_image * batch, row.per_batch) for row in ours] == seen


@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "efficientnet_b0", "shufflenet_v2_x1_0", "googlenet"]
)
def test_every_row_of_a_measurement_finds_its_bound(name: str) -> None:
    with blueprint():
        network = create_model(name)
    cost = measure(network, (3, 96, 96))
    line = roofline(network, roof(), (3, 96, 96))
    assert sum(bound.work.macs for bound in line.bounds) == cost.macs
    found = beside(cost.rows, line)
    assert len(found) == len(cost.rows)
    for row, bound in zip(cost.rows, found, strict=True):
        assert (bound.work.macs if bound else 0) == row.macs, row.name
        if row.params and row.output_shape:
            assert bound is not None
            assert bound.work.per_batch >= row.params, row.name
    assert found[0] is None  # the image


# --- the laws of the bound ------------------------------------------------------------------------------

counts = st.integers(0, 10**9)
works = st.lists(st.builds(Work, st.just("a"), st.just("b"), counts, counts, counts), min_size=1, max_size=6)
machines = st.builds(roof, st.floats(1e6, 1e13), st.floats(1e6, 1e13))


@given(works, machines, st.integers(1, 64), st.sampled_from(["fp32", "bf16"]))
def test_laws(rows: list[Work], machine: Roof, batch: int, dtype: str) -> None:
    line = roofline(rows, machine, batch=batch, dtype=dtype)
    for bound in line.bounds:
        assert bound.seconds >= bound.arithmetic_seconds
        assert bound.seconds >= bound.memory_seconds
        assert bound.seconds in (bound.arithmetic_seconds, bound.memory_seconds)
        if (
            bound.work.bytes_moved(batch, dtype) and bound.work.macs
        ):  # the ridge point says the same as the times
            side = bound.intensity / machine.ridge(dtype)
            assert side == pytest.approx(bound.arithmetic_seconds / bound.memory_seconds)
            assert abs(side - 1) < 1e-9 or (bound.by == "arithmetic") == (side > 1)
    assert max(line.arithmetic_seconds, line.memory_seconds) <= line.seconds * (1 + 1e-12)
    assert line.seconds <= (line.arithmetic_seconds + line.memory_seconds) * (1 + 1e-12)
    twice = roofline(rows, machine, batch=2 * batch, dtype=dtype)
    assert line.seconds <= twice.seconds * (1 + 1e-12)
    assert twice.seconds <= 2 * line.seconds * (1 + 1e-12)  # the weights are moved once
    assert twice.arithmetic_seconds == pytest.approx(2 * line.arithmetic_seconds)
    weights = sum(row.per_batch for row in rows) * (4 if dtype == "fp32" else 2) / machine.bandwidth
    assert 2 * line.memory_seconds - twice.memory_seconds == pytest.approx(weights, rel=1e-6, abs=1e-12)
    step = roofline(rows, machine, batch=batch, dtype=dtype, train=True)
    assert step.seconds == pytest.approx(3 * line.seconds)


@given(works, machines, st.floats(1.5, 10))
def test_a_machine_that_is_better_at_both_is_quicker_by_as_much(
    rows: list[Work], machine: Roof, times: float
) -> None:
    faster = roof(machine.peak_macs("fp32") * times, machine.bandwidth * times)
    assert roofline(rows, faster).seconds == pytest.approx(roofline(rows, machine).seconds / times)


def test_the_better_kernel_is_the_peak() -> None:
    machine = roof(1e9, 4e9, bf16=3)
    assert (machine.peak_macs("fp32"), machine.peak_macs("bf16"), machine.bandwidth) == (1e9, 3e9, 4e9)
    assert machine.ridge("fp32") == 2 * 1e9 / 4e9
    half = roofline([Work("a", "b", 0, 100, 0)], machine, dtype="bf16").seconds
    assert half == roofline([Work("a", "b", 0, 100, 0)], machine).seconds / 2


def test_the_order_of_the_rows_does_not_matter_to_the_sum() -> None:
    with blueprint():
        parts = work(trace(create_model("resnet18"), (3, 64, 64)))
    shuffled = random.Random(0).sample(parts, len(parts))
    assert roofline(parts, roof()).seconds == pytest.approx(roofline(shuffled, roof()).seconds)


def test_json_says_the_same() -> None:
    line = roofline([Work("a", "conv", 1000, 10, 10)], roof(1e3, 1e3), batch=2)
    told = line.to_json()
    assert told["seconds"] == line.seconds == 2.0
    assert told["rows"][0] == {
        "name": "a", "kind": "conv", "macs": 2000, "bytes_moved": 120,
        "intensity_flop_per_byte": 4000 / 120, "bound_by": "arithmetic", "seconds": 2.0,
    }  # fmt: skip


def test_bad_wishes() -> None:
    with pytest.raises(UsageError, match=r"no dtype 'fp23'\. Did you mean 'fp32'"):
        roofline([], roof(), dtype="fp23")
    with pytest.raises(UsageError, match="at least one image, not 0"):
        roofline([], roof(), batch=0)
