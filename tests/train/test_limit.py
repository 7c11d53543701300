"""How close a training came to its machine's limit: by hand, by PyTorch's own counter, and in a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import convatlas
from convatlas.api import _note_limit, resume
from convatlas.errors import BadCheckpoint
from convatlas.layers.winograd import Winograd2d
from convatlas.measure import roof as roofs
from convatlas.measure.machine import machine
from convatlas.measure.roof import KERNELS, Rate, Roof, keep_roof
from convatlas.measure.roofline import roofline
from convatlas.models import create_model
from convatlas.report import write_report
from convatlas.train import Recipe, params
from convatlas.train.arithmetic import step_macs, step_rows
from convatlas.train.computed import by_winograd
from convatlas.train.limit import Limit, epochs_here, least_seconds, limit_of, reached
from convatlas.train.speed import Speed

FREE = 1e30  # a rate at which nothing takes time
IMAGE = (3, 32, 32)
NONE = frozenset[str]()


def roof(macs: float = 1e10, bandwidth: float = 1e10) -> Roof:
    rates = {name: macs if name.startswith(("matmul", "conv")) else bandwidth for name in KERNELS}
    told = {name: Rate(1, rate, rate, rate, 5) for name, rate in rates.items()}
    return Roof(told, machine(), {"torch": torch.__version__}, "2026-11-30T06:00:00+00:00")


def decided(**fields: Any) -> dict[str, Any]:
    """What a run of 100 images in batches of 20 knows of itself."""
    return {
        "model": "resnet20_cifar",
        "options": {"num_classes": 10, "in_channels": 3},
        "preprocessing": {"size": [32, 32]},
        "recipe": Recipe(epochs=3, batch_size=20, **fields).to_json(),
        "data": {"counts": {"train": 100, "val": 10}},
        "machine": machine(),
        "processes": {"world": 1},
        "speed": Speed().to_json(),
    }


def epoch(number: int, seconds: float, images: int = 100, **fields: Any) -> dict[str, Any]:
    here = {name: machine()[name] for name in ("processor", "cores")}
    line = {
        "kind": "epoch",
        "epoch": number,
        "seconds": seconds,
        "images": images,
        "device": "cpu",
        "world": 1,
    }
    return {**line, **here, **fields}


# --- a step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet20_cifar", "densenet121", "mobilenet_v2"])
def test_a_step_that_learns_everything_is_the_roofline_of_bench(name: str) -> None:
    """But for the gradient of the image, which nobody needs."""
    network = create_model(name, num_classes=10)
    step, _ = least_seconds(network, IMAGE, NONE, roof(), batch=4, dtype="fp32")
    whole = roofline(network, roof(), IMAGE, batch=4, train=True)
    first = next(bound for bound in whole.bounds if bound.work.macs)
    assert whole.seconds - step == pytest.approx(first.seconds / 3)


def test_arithmetic_and_memory_by_themselves() -> None:
    network = create_model("resnet20_cifar")
    step, arithmetic = least_seconds(network, IMAGE, NONE, roof(1e9, FREE), batch=8, dtype="fp32")
    assert step == pytest.approx(arithmetic) == pytest.approx(8 * step_macs(network, IMAGE) / 1e9)
    step, arithmetic = least_seconds(network, IMAGE, NONE, roof(FREE, 1e9), batch=8, dtype="bf16")
    rows = [each.passes for each in step_rows(network, IMAGE) if each.row.macs]
    assert rows == [2, *[3] * 19]
    bounds = roofline(network, roof(), IMAGE, batch=8, dtype="bf16").bounds
    moved = sum(bound.work.bytes_moved(8, "bf16") for bound in bounds)
    assert step == pytest.approx((3 * moved - bounds[0].work.bytes_moved(8, "bf16")) / 1e9)
    assert arithmetic < 1e-12


def test_what_is_held_costs_a_forward_pass() -> None:
    network = create_model("resnet20_cifar")
    whole, _ = least_seconds(network, IMAGE, NONE, roof(), batch=8, dtype="fp32")
    forward = roofline(network, roof(), IMAGE, batch=8).seconds
    params.hold(network, Recipe(body_lr=0.0))
    head, _ = least_seconds(network, IMAGE, NONE, roof(), batch=8, dtype="fp32")
    assert forward < head < 1.01 * forward < whole / 2


# --- a run ----------------------------------------------------------------------------------------------


def test_a_run_by_hand() -> None:
    found = reached(decided(), [epoch(1, 2.0), epoch(2, 3.0), epoch(3, 1.0, images=40)], roof())
    step, arithmetic = least_seconds(
        create_model("resnet20_cifar"), IMAGE, NONE, roof(), batch=20, dtype="fp32"
    )
    assert found.images_per_second == pytest.approx(240 / 6)
    assert found.share == pytest.approx(12 * step / 6)
    assert found.arithmetic_share == pytest.approx(12 * arithmetic / 6)
    assert (found.dtype, found.peak_macs, found.bandwidth) == ("fp32", 1e10, 1e10)
    assert Limit.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_images_grow_and_parameters_are_held() -> None:
    run = decided(sizes=((0, 24), (0.5, 32)), hold_from=(("features.conv1.*", 0.8),))
    network = create_model("resnet20_cifar")
    held = frozenset(name for name, _ in network.named_parameters() if name.startswith("features.conv1."))
    assert held

    def step(side: int, held: frozenset[str]) -> float:
        return least_seconds(network, (3, side, side), held, roof(), batch=20, dtype="fp32")[0]

    found = reached(run, [epoch(number, 1.0) for number in (1, 2, 3)], roof())
    assert Recipe.from_json(run["recipe"]).sides() == ((0, 24), (2, 32))
    least = 10 * step(24, NONE) + 2 * step(32, NONE) + 3 * step(32, held)  # the 13th of 15 is at 0.8
    assert found.share == pytest.approx(least / 3)


def test_layers_by_winograd_are_charged_what_that_needs() -> None:
    """Of resnet20's last stage; its layers are convolutions again afterwards, so the next count is as ever."""
    lines, fast = [epoch(1, 2.0)], roof(1e10, FREE)
    direct = reached(decided(), lines, fast)
    network = create_model("resnet20_cifar")
    names = [name for name, each in network.named_modules() if Winograd2d.replaces(each)][-4:]
    found = reached(decided() | {"speed": Speed(winograd=tuple(names)).to_json()}, lines, fast)
    with by_winograd(network, names):
        _, arithmetic = least_seconds(network, IMAGE, NONE, fast, batch=20, dtype="fp32")
    assert found.arithmetic_share == pytest.approx(5 * arithmetic / 2)
    assert 0.8 * direct.arithmetic_share < found.arithmetic_share < 0.95 * direct.arithmetic_share
    assert reached(decided(), lines, fast) == direct


def test_epochs_of_others_do_not_count() -> None:
    mine = epoch(2, 1.0)
    others = [
        epoch(1, 1.0, world=2),
        epoch(1, 1.0, device="cuda"),
        epoch(1, 1.0, processor="abacus"),
        epoch(1, 1.0, cores=10**6),
        epoch(1, 0.0),
        {"kind": "other"},
        {"kind": "epoch", "epoch": 1, "seconds": 1.0, "images_per_second": 100.0},  # of the first version
    ]
    assert epochs_here([*others, mine]) == [mine]


LIMIT = Limit(100.0, 0.5, 0.25, "bf16", 1e12, 1e10, "2026-11-30T06:00:00+00:00")


@pytest.mark.parametrize(
    "change",
    [
        {"share": -1},
        {"share": float("nan")},
        {"share": float("inf")},
        {"share": True},
        {"dtype": "int8"},
        {"dtype": ["fp32"]},
        {"measured": None},
        {"format": 2},
        {"more": 1},
    ],
)
def test_another_limit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="limit of this run"):
        Limit.from_json(LIMIT.to_json() | change)


def test_a_damaged_limit_is_none() -> None:
    """Nothing depends on it, so no verb ends for it."""
    assert limit_of(LIMIT.to_json()) == LIMIT
    assert limit_of(None) is limit_of({}) is limit_of({"format": 2}) is limit_of([]) is None


def test_more_than_the_limit_has_two_reasons() -> None:
    assert LIMIT.words() == "50 % of what this machine can do with this network in bf16"
    above = Limit.from_json(LIMIT.to_json() | {"share": 1.27, "dtype": "fp32"})
    assert above.words() == "1.3 times what this machine can do in float32 where nothing stays in its caches"
    wrong = Limit.from_json(LIMIT.to_json() | {"share": 3.9, "arithmetic_share": 3.0})
    assert "more than this machine was measured to do in bf16: look again" in wrong.words()


def test_nothing_costs_a_run_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))

    def broken(*_: Any) -> Any:
        raise KeyError("counts")

    monkeypatch.setattr(roofs, "free_memory", lambda: 0)
    run = convatlas.train("digits", "lenet5", out=tmp_path / "run", epochs=1, batch_size=128)
    assert run.folder.limit() is None
    assert "its limit" not in run.folder.report_path.read_text()
    monkeypatch.setattr("convatlas.api.roof_here", roof)
    monkeypatch.setattr("convatlas.api.reached", broken)
    run.folder.report_path.unlink()
    resume(run.folder.path)
    assert run.folder.limit() is None
    assert run.folder.report_path.exists()


def test_another_machines_limit_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.api.roof_here", roof)
    run = convatlas.train("digits", "lenet5", out=tmp_path / "run", epochs=1, batch_size=128)
    assert limit_of(run.folder.limit()) is not None
    lines = [line | {"processor": "abacus"} for line in run.folder.timing()]
    run.folder.timing_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _note_limit(run.folder)
    assert run.folder.limit() is None
    run.folder.limit_path.write_text("{")
    write_report(run.folder)
    assert "its limit" not in run.folder.report_path.read_text()


def test_a_real_run_says_it_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    keep_roof(roof())
    run = convatlas.train("digits", "lenet5", out=tmp_path / "run", epochs=2, batch_size=64, val_share=0.1)
    told = run.folder.limit()
    assert told is not None
    seconds = sum(line["seconds"] for line in run.folder.timing())
    network = create_model("lenet5", num_classes=10, in_channels=1)
    with FlopCounterMode(display=False) as counter:
        network.train()(torch.randn(64, 1, 32, 32)).sum().backward()
    steps = 2 * (run.folder.read_run()["data"]["counts"]["train"] // 64)
    counted = steps * counter.get_total_flops() / 2
    assert told["arithmetic_share"] == pytest.approx(
        counted / seconds / 1e10, rel=0.01
    )  # rounded by the clock
    assert told["share"] > told["arithmetic_share"]
    words = Limit.from_json(told).words()
    assert words in run.folder.report_path.read_text()
    assert "10 G multiply-adds/s in fp32, 10 GB/s" in run.folder.report_path.read_text()
    (run.folder.path / "limit.json").unlink()
    write_report(run.folder)
    assert "its limit" not in run.folder.report_path.read_text()
