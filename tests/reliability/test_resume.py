"""R2: stopped and resumed at every step of a run; the bytes are those of the run that never stopped."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import DIGITS, assert_equal, contents

from convatlas.data import Data, open_data
from convatlas.errors import BadCheckpoint, Interrupted
from convatlas.train import Compute, Observer, begin, resume

pytestmark = pytest.mark.reliability

CPU = Compute(accelerator="cpu", workers=0)
RELEASE = os.environ.get("CONVATLAS_RELIABILITY") == "release"
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd, ema, mixup": {},
    "adamw, cutmix, bf16, accumulation": {
        "optimizer": "adamw", "lr": 2e-3, "mixup": 0.0, "cutmix": 1.0, "accumulate": 2,
    },
    "adam, balanced, dropout, affine": {
        "optimizer": "adam", "lr": 1e-3, "balance": "sampling", "affine": [10.0, 0.1, 5.0], "erasing": 0.3,
    },
    "muon, bf16, parts that are held early, smaller images, rare validation": {
        "optimizer": "muon", "lr": 0.05, "muon_momentum": 0.6, "nesterov": True, "mixup": 0.0,
        "rates": [["*.bias", 4.0]], "hold_from": [["features.C1.*", 0.4], ["*.bias", 0.7]], "schedule": "linear",
        "init": "whitening", "crop": "shift", "edge": "reflect", "flip": True, "alternate_flip": True,
        "image_size": 34, "sizes": [[0.0, 32], [0.6, 33]], "shrink": "resample", "validate_every": 2,
    },
}  # fmt: skip


class StopAfter(Observer):
    """Asks for the end, as a user's Ctrl-C does, after so many steps of this process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stepped(self, **_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits", seed=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_after_every_single_step(digits: Data, tmp_path: Path, variant: str) -> None:
    epochs = 15 if RELEASE else 3
    arguments = {
        **DIGITS,
        "settings": {**DIGITS["settings"], **VARIANTS[variant], "epochs": epochs},
        "compute": replace(CPU, precision="bf16" if "bf16" in variant else "32"),  # on any processor
    }
    begin(digits, out=tmp_path / "whole", **arguments)
    hopping, hops = tmp_path / "hopping", 0
    with pytest.raises(Interrupted):
        begin(digits, out=hopping, observer=StopAfter(1), **arguments)
    codes: set[int] = set()
    while True:
        hops += 1
        try:
            resume(hopping, where=digits, compute=CPU, observer=StopAfter(1))
            break
        except Interrupted as stop:
            codes.add(stop.exit_code)
    assert codes == {130}
    assert hops == 20 * epochs  # every step ended in its own process-like session
    assert_equal(hopping, contents(tmp_path / "whole"))


def test_a_run_without_any_checkpoint_draws_the_same_start_again(digits: Data, tmp_path: Path) -> None:
    """It was stopped after run.json and before the first checkpoint; the start looks at images."""
    settings = {"epochs": 1, "batch_size": 256, "init": "lsuv", "optimizer": "muon", "lr": 0.05}
    begin(digits, model="lenet5", settings=settings, seed=7, out=tmp_path / "run", compute=CPU)
    before = contents(tmp_path / "run")
    for name in ("checkpoints", "best"):
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "timing.jsonl").unlink()
    resume(tmp_path / "run", where=digits, compute=CPU)
    assert_equal(tmp_path / "run", before)


def test_resuming_a_finished_run_changes_nothing(digits: Data, tmp_path: Path) -> None:
    arguments = {**DIGITS, "settings": {**DIGITS["settings"], "epochs": 1}, "compute": CPU}
    begin(digits, out=tmp_path / "run", **arguments)
    before = contents(tmp_path / "run")
    resume(tmp_path / "run", where=digits, compute=CPU)
    assert_equal(tmp_path / "run", before)


def test_a_damaged_checkpoint_is_passed_over(digits: Data, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = {**DIGITS, "settings": {**DIGITS["settings"], "epochs": 2}, "compute": CPU}
    begin(digits, out=run, **arguments)
    before = contents(run)
    newest = max((run / "checkpoints").iterdir())
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    heard: list[str] = []

    class Listener(Observer):
        def noted(self, message: str) -> None:
            heard.append(message)

    resume(run, where=digits, compute=CPU, observer=Listener())
    assert any(newest.name in message and "damaged" in message for message in heard)
    assert_equal(run, before)


def test_other_images_are_refused(digits: Data, tmp_path: Path) -> None:
    begin(
        digits,
        out=tmp_path / "run",
        **{**DIGITS, "settings": {"epochs": 1, "batch_size": 256}, "compute": CPU},
    )
    with pytest.raises(BadCheckpoint, match="not those"):
        resume(tmp_path / "run", where=open_data("digits", seed=8), compute=CPU)


def test_handlers_and_generators_are_given_back(digits: Data, tmp_path: Path) -> None:
    import random

    import numpy as np
    import torch

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # noqa: NPY002
    with pytest.raises(Interrupted):
        begin(digits, out=tmp_path / "run", observer=StopAfter(3), **{**DIGITS, "compute": CPU})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
