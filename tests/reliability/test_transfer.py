"""A run that starts from learnt weights and holds a part: resumed to the same bytes, and alike in two processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from runs import assert_equal, contents
from safetensors.torch import load_file

from convatlas.data import Data, open_data
from convatlas.errors import Interrupted
from convatlas.train import Compute, Observer, RunFolder, begin, resume
from ranks import Ranks

pytestmark = pytest.mark.reliability

CPU = Compute(accelerator="cpu", workers=0)
SETTINGS = {"epochs": 2, "batch_size": 256, "image_size": 16, "optimizer": "sgd", "lr": 0.05, "ema": 0.9}


class StopAfter(Observer):
    """Asks for the end after so many steps of this process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stepped(self, **_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits", seed=7)


@pytest.fixture(scope="module")
def source(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("source") / "run"
    settings = {**SETTINGS, "epochs": 1}
    return begin(digits, model="resnet20_cifar", settings=settings, out=out, seed=7, compute=CPU)


def held_bytes(file: Path, held: list[str]) -> dict[str, bytes]:
    state = load_file(file)
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in state.items()
        if name.startswith(tuple(f"{part}." for part in held))
    }


@pytest.mark.parametrize(
    "hold", [{"freeze": "conv2_x", "body_lr": 0.1}, {"body_lr": 0.0}], ids=["freeze", "probe"]
)
def test_resumed_after_every_step(
    digits: Data, source: RunFolder, tmp_path: Path, hold: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {"weights": str(source.path), "seed": 7, "compute": CPU,
                                 "settings": {**SETTINGS, **hold, "dropout": 0.3}}  # fmt: skip
    whole = begin(digits, out=tmp_path / "whole", **arguments)
    with pytest.raises(Interrupted):
        begin(digits, out=tmp_path / "hopping", observer=StopAfter(1), **arguments)
    hops = 1
    while True:
        try:
            resume(tmp_path / "hopping", where=digits, compute=CPU, observer=StopAfter(1))
            break
        except Interrupted:
            hops += 1
    assert hops == 2 * (1294 // 256)
    assert_equal(tmp_path / "hopping", contents(whole.path))
    held = whole.read_run()["start"]["held"]
    assert len(held) == (2 if "freeze" in hold else 4)
    theirs = held_bytes(source.best / "model.safetensors", held)
    assert theirs
    assert held_bytes(whole.best / "model.safetensors", held) == theirs


def test_two_processes_hold_the_same_bytes(ranks: Ranks, source: RunFolder, tmp_path: Path) -> None:
    words = (
        f"train digits --weights {source.path} --seed 7 --accelerator cpu --workers 0 -q --devices 2".split()
    )
    for name, value in {**SETTINGS, "freeze": "conv3_x"}.items():
        words += ["--set", f"{name}={value}"]
    words += ["--out", str(tmp_path / "run")]
    assert ranks.run("reliability.group_work:command", 2, words=words) == [0, 0]
    run = RunFolder.open(tmp_path / "run")
    held = run.read_run()["start"]["held"]
    assert held == ["features.conv1", "features.conv2_x", "features.conv3_x"]
    theirs = held_bytes(source.best / "model.safetensors", held)
    own = {
        name: tensor.numpy().tobytes() for name, tensor in load_file(run.best / "model.safetensors").items()
    }
    assert {name: own[name] for name in theirs} == theirs
    before = {name: t.numpy().tobytes() for name, t in load_file(source.best / "model.safetensors").items()}
    assert (
        own["features.conv4_x.0.residual.bn1.running_mean"]
        != before["features.conv4_x.0.residual.bn1.running_mean"]
    )
