"""Measured settings and repeated runs, from the command to the bytes of the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas import api
from convatlas.data import Data, open_data
from convatlas.errors import UsageError
from convatlas.files import newest
from convatlas.models import create_model
from convatlas.train import Compute, Observer, Safety, begin, resume, tune
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Device, Speed, depthwise

CPU = Compute(accelerator="cpu", workers=0)
BF16 = Device("cpu", bf16=True)
OFTEN = Safety(checkpoint_steps=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Two classes of coloured noise, 40 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = random.integers(low, low + 128, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return open_data(folder, seed=1, workers=0)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bf16, whatever this one is: without it the same arithmetic is only slower."""
    monkeypatch.setattr(Device, "here", staticmethod(lambda accelerator="auto": BF16))


def kept(run: Path) -> dict[str, bytes]:
    best, _ = newest(run / "best")
    checkpoint, _ = newest(run / "checkpoints")
    assert best is not None
    assert checkpoint is not None
    return {
        "best": (best / "model.safetensors").read_bytes(),
        "last": (checkpoint / "model.safetensors").read_bytes(),
        "optimizer": (checkpoint / "optimizer.safetensors").read_bytes(),
        "metrics": (run / "metrics.jsonl").read_bytes(),
    }


def speed_of(run: Path) -> Speed:
    return Speed.of_run(json.loads((run / "run.json").read_text()))


class StopAfter(Observer):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def stepped(self, **_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


MOBILE: dict[str, Any] = {
    "model": "mobilenet_v2",
    "recipe": Recipe(name="short", epochs=2, batch_size=8, lr=0.01, image_size=32, mixup=0.2),
    "seed": 3,
}


@pytest.mark.usefixtures("bf16")
def test_a_run_by_rule_is_repeated_and_resumed_to_the_same_bytes(pictures: Data, tmp_path: Path) -> None:
    begin(pictures, out=tmp_path / "one", compute=CPU, **MOBILE)
    speed = speed_of(tmp_path / "one")
    assert speed.precision == "bf16"
    assert speed.float32
    begin(pictures, out=tmp_path / "two", compute=CPU, **MOBILE)
    assert kept(tmp_path / "one") == kept(tmp_path / "two")
    with pytest.raises(KeyboardInterrupt):
        begin(pictures, out=tmp_path / "three", compute=CPU, observer=StopAfter(6), safety=OFTEN, **MOBILE)
    resume(tmp_path / "three", where=pictures, compute=CPU)
    assert kept(tmp_path / "one") == kept(tmp_path / "three")
    begin(pictures, out=tmp_path / "plain", compute=replace(CPU, precision="32"), **MOBILE)
    assert kept(tmp_path / "one") != kept(tmp_path / "plain")
    short = replace(MOBILE["recipe"], epochs=1)
    begin(
        pictures,
        model="resnet20_cifar",
        recipe=short,
        out=tmp_path / "other",
        compute=CPU,
        like=tmp_path / "one",
    )
    assert (
        speed_of(tmp_path / "other").float32 == ()
    )  # layers are those of the network that they were chosen for


def test_a_run_goes_on_as_it_began_where_the_rule_is_another(
    pictures: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "here", staticmethod(lambda accelerator="auto": BF16))
    begin(pictures, out=tmp_path / "whole", compute=CPU, **MOBILE)
    with pytest.raises(KeyboardInterrupt):
        begin(pictures, out=tmp_path / "run", compute=CPU, observer=StopAfter(3), safety=OFTEN, **MOBILE)
    monkeypatch.setattr(Device, "here", staticmethod(lambda accelerator="auto": Device("cpu", bf16=False)))
    resume(tmp_path / "run", where=pictures, compute=CPU)
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")


def test_recomputed_activations_leave_the_bytes_as_they_are(pictures: Data, tmp_path: Path) -> None:
    short = {**MOBILE, "recipe": replace(MOBILE["recipe"], epochs=1)}
    begin(pictures, out=tmp_path / "plain", compute=replace(CPU, precision="32"), **short)
    begin(
        pictures,
        out=tmp_path / "again",
        compute=replace(CPU, precision="32", checkpoint_activations=True),
        **short,
    )
    assert speed_of(tmp_path / "again").recompute
    assert kept(tmp_path / "plain") == kept(tmp_path / "again")


# --- measured -----------------------------------------------------------------------------------------------


def test_candidates_begin_with_the_rules_choice_and_differ() -> None:
    network = create_model("mobilenet_v2")
    first = Speed(precision="bf16")
    found = tune.candidates(network, first, BF16)
    assert found[0] == first
    assert len(set(found)) == len(found)
    assert {(each.precision, each.channels_last) for each in found} == {
        ("32", True), ("32", False), ("bf16", True), ("bf16", False),
    }  # fmt: skip
    assert {len(each.float32) for each in found} >= {0, len(depthwise(network))}
    assert [each.compile for each in found] == [False] * (len(found) - 1) + [True]
    plain = tune.candidates(network, Speed(), Device("cpu", bf16=False))
    assert {each.precision for each in plain} == {"32"}
    network = create_model("resnet18")
    by_rule = Speed(winograd=("features.conv5_x.1.residual.conv1",))
    plain = tune.candidates(network, by_rule, Device("cpu", bf16=False))
    assert {len(each.winograd) for each in plain} == {0, 1, 13}
    assert plain[-1].compile
    assert not plain[-1].winograd


def trial(rate: float, loss: float = 2.0, problem: str = "", **settings: Any) -> tune.Trial:
    return tune.Trial(Speed(**settings), (rate, rate, 0.9 * rate), loss, problem)


def test_only_what_is_clearly_faster_and_the_same_arithmetic_is_chosen() -> None:
    first = trial(100, threads=1)
    assert tune._choice([first, trial(102)]).threads == 1
    assert tune._choice([first, trial(110)]).threads == 0
    assert "1.10 times the rule's choice, 100" in tune._choice([first, trial(110)]).reason
    moody = tune.Trial(Speed(), (90.0, 120.0, 120.0, 85.0), 2.0)  # faster in the median, and not for certain
    steady = tune.Trial(Speed(threads=1), (100.0,) * 4, 2.0)
    assert tune._choice([steady, moody]).threads == 1
    assert tune._choice([first, tune.Trial(Speed(compile=True), (120.0,), 2.0)]).compile
    assert (
        tune._choice([first, trial(500, problem="broke"), trial(120, precision="bf16")]).precision == "bf16"
    )
    assert tune._checked(trial(1, loss=2.05), 2.0).problem == ""
    assert "in float32 2" in tune._checked(trial(1, loss=2.2), 2.0).problem


def test_measuring_chooses_and_the_choice_is_repeated(
    pictures: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "SECONDS", 1.0)
    eager = tune.candidates

    def without_compiler(*given: Any) -> list[Speed]:
        return [each for each in eager(*given) if not each.compile]

    monkeypatch.setattr("convatlas.train.compute.candidates", without_compiler)
    recipe = Recipe(name="short", epochs=1, batch_size=16, lr=0.01, image_size=32)
    begin(
        pictures,
        model="resnet20_cifar",
        recipe=recipe,
        out=tmp_path / "run",
        compute=replace(CPU, tune="full"),
        seed=3,
    )
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    trials = written["tuning"]["trials"]
    assert len(trials) >= 4
    assert all(each["images_per_second"] > 0 for each in trials)
    assert all(each["problem"] == "" for each in trials)
    assert max(each["loss"] for each in trials) < 1.05 * min(each["loss"] for each in trials)
    assert "measured here" in written["speed"]["reason"]
    assert written["command"][-2:] == ["--from-run", str(tmp_path / "run")]
    again = api.train(pictures, from_run=tmp_path / "run", out=tmp_path / "again", compute=CPU)
    assert kept(tmp_path / "again") == kept(tmp_path / "run")
    repeated = speed_of(tmp_path / "again")
    assert replace(repeated, reason="") == replace(speed_of(tmp_path / "run"), reason="")
    assert "measured here" in (again.folder.path / "report.html").read_text()


def test_a_candidate_that_breaks_is_left_out(pictures: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "SECONDS", 1.0)
    job = {
        "model": "lenet5", "options": {"num_classes": 2, "in_channels": 1}, "task": "classification", "seed": 0,
        "recipe": Recipe().to_json(), "shape": (8, 1, 32, 32), "classes": ["a", "b"], "accelerator": "cpu",
    }  # fmt: skip
    found = tune.measured([Speed(), Speed(float32=("nowhere",))], job)
    assert "nowhere" in found.trials[1].problem
    assert found.chosen.float32 == ()


def test_several_processes_do_not_measure() -> None:
    with pytest.raises(UsageError, match="--from-run"):
        begin("digits", model="lenet5", compute=replace(CPU, tune="full", devices=2))


def test_repeating_takes_what_is_not_given(pictures: Data, tmp_path: Path) -> None:
    begin(
        pictures,
        model="resnet20_cifar",
        options={"shortcut": "B"},
        recipe=Recipe(name="mine", epochs=1, batch_size=16, image_size=32, lr=0.01),
        out=tmp_path / "run",
        seed=5,
        compute=CPU,
        reading={"val_share": 0.25},
    )
    other = api.train(
        pictures, from_run=tmp_path / "run", out=tmp_path / "other", lr=0.02, seed=6, compute=CPU
    )
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "other"))
    assert (second["seed"], second["recipe"]["lr"]) == (6, 0.02)
    assert {**second["recipe"], "lr": 0.01} == first["recipe"]
    assert second["options"] == first["options"]
    assert other.spec.model == "resnet20_cifar"
    assert torch.is_tensor(next(other.model.parameters()))
