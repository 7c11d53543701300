"""A run's folder: what run.json may hold, and the command that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convatlas.cli import main
from convatlas.errors import BadCheckpoint
from convatlas.train import Compute, Recipe, RunFolder, begin, resume

CPU = Compute(accelerator="cpu", workers=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"epochs": 1, "batch_size": 256, "flip": True, "milestones": (0.5,)}
    return begin("digits", model="lenet5", settings=settings, seed=3, out=out, compute=CPU)


def changed(run: RunFolder, folder: Path, change: Any) -> RunFolder:
    value = json.loads((run.path / "run.json").read_text())
    change(value)
    (folder / "run.json").write_text(json.dumps(value))
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.clear(), "format"),
        (lambda value: value.pop("where"), "lacks 'where'"),
        (lambda value: value.update(seed="x"), "seed is 'x'"),
        (lambda value: value.update(seed=True), "seed is True"),
        (lambda value: value.update(reading=3), "reading is 3"),
        (lambda value: value.update(safety={"zz": 1}), "'zz' is not known"),
        (lambda value: value.update(safety={"on_nan": 1}), "on_nan is 1"),
        (lambda value: value["reading"].update(val_share="much"), "val_share"),
    ],
)
def test_a_changed_run_json_is_refused(run: RunFolder, tmp_path: Path, change: Any, says: str) -> None:
    other = changed(run, tmp_path, change)
    with pytest.raises(BadCheckpoint, match=says):
        other.read_run()
    with pytest.raises(BadCheckpoint):
        resume(tmp_path, compute=CPU)


def test_the_command_does_the_same_again(run: RunFolder, tmp_path: Path) -> None:
    command = run.read_run()["command"]
    assert command[:3] == ["convatlas", "train", "digits"]
    with pytest.raises(SystemExit) as left:
        main.run(
            [*command[1:], "--out", str(tmp_path / "again"), "--accelerator", "cpu", "--workers", "0", "-q"]
        )
    assert left.value.code == 0
    again = RunFolder(tmp_path / "again")
    assert again.read_run()["recipe"] == run.read_run()["recipe"]
    assert again.metrics_path.read_bytes() == run.metrics_path.read_bytes()


def test_a_recipe_of_ones_own_is_named_by_its_settings(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=512, resize="pad", levels=((0, 1.0), (0.5, 0.1)), schedule="levels")
    run = begin("digits", model="lenet5", recipe=recipe, out=tmp_path / "run", compute=CPU)
    command = run.read_run()["command"]
    assert "--set" in command
    assert "levels=[[0, 1.0], [0.5, 0.1]]" in command
    assert "schedule=levels" in command
