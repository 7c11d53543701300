"""R7: a loss or a gradient that is not finite, from images, rate, weights or the gradient itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import DIGITS

from convatlas.data import Data, open_data
from convatlas.errors import NumericError
from convatlas.files import newest
from convatlas.train import Compute, Observer, Safety, begin
from convatlas.train.loop import Loop
from convatlas.train.step import Step
from convatlas.train.task import Classification
from convatlas.weights import read_weights

pytestmark = pytest.mark.reliability

CPU = Compute(accelerator="cpu", workers=0)
SETTINGS = {**DIGITS["settings"], "epochs": 2, "mixup": 0.0}
# Of 40 steps in two epochs: one in each epoch, the first of all, the last of the first epoch, the first of the second.
AT = (27, 9, 0, 19, 20, 25) if os.environ.get("CONVATLAS_RELIABILITY") == "release" else (27,)


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits", seed=7)


def inject(kind: str, at: int, monkeypatch: pytest.MonkeyPatch, always: bool = False) -> None:
    """Break step `at` (and, with `always`, all from there on)."""

    def now(loop: Loop) -> bool:
        return loop.state.step >= at if always else loop.state.step == at

    if kind == "gradient":
        original, original_step = Step.gradients, Loop._step
        loops: list[Loop] = []

        def noted(self: Loop, batch: Any, epoch: int) -> None:
            loops.append(self)
            original_step(self, batch, epoch)

        def spoiled(self: Step, batch: Any) -> Any:
            handle = None
            if now(loops[-1]):
                parameter = next(self.plain.parameters())
                handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
            try:
                return original(self, batch)
            finally:
                if handle is not None:
                    handle.remove()

        monkeypatch.setattr(Loop, "_step", noted)
        monkeypatch.setattr(Step, "gradients", spoiled)
        return
    original_step = Loop._step
    broken: list[int] = []

    def step(self: Loop, batch: Any, epoch: int) -> None:
        if now(self) and (always or not broken):
            broken.append(self.state.step)
            if kind == "images":
                batch.images[0, 0, 0, 0] = float("nan")
            elif kind == "weights":
                with torch.no_grad():
                    next(self.plain.parameters())[0] = float("nan")
        original_step(self, batch, epoch)

    monkeypatch.setattr(Loop, "_step", step)


class Ears(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def noted(self, message: str) -> None:
        self.heard.append(message)


def train(data: Data, out: Path, policy: str, **settings: Any) -> tuple[Path, Ears]:
    ears = Ears()
    begin(
        data,
        model="lenet5",
        settings={**SETTINGS, **settings},
        seed=7,
        out=out,
        compute=CPU,
        safety=Safety(on_nan=policy),  # pyright: ignore[reportArgumentType]
        observer=ears,
    )
    return out, ears


def all_finite(run: Path) -> bool:
    """Every weight that the run keeps."""
    kept = [*(run / "checkpoints").rglob("*.safetensors"), *(run / "best").rglob("*.safetensors")]
    assert kept
    return all(
        bool(torch.isfinite(value.float()).all()) for path in kept for value in read_weights(path).values()
    )


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("images", "cross-entropy loss is nan"),
        ("weights", "cross-entropy loss is nan"),
        ("gradient", "gradient of"),
    ],
)
def test_stop_names_step_part_and_files(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, kind: str, part: str
) -> None:
    inject(kind, at, monkeypatch)
    with pytest.raises(NumericError) as caught:
        train(digits, tmp_path / "run", "stop")
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert f"step {at + 1}" in message  # in the same step
    assert part in message
    assert any(key in message for key in digits.train.keys)
    assert all_finite(tmp_path / "run")


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("kind", ["images", "gradient"])
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_skip_and_rollback_reach_the_end(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, kind: str, policy: str
) -> None:
    inject(kind, at, monkeypatch)
    run, ears = train(digits, tmp_path / "run", policy)
    assert any(f"step {at + 1}" in message for message in ears.heard)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] in ("skipped", "rollback")] == [at + 1]
    assert max(record.get("epoch", 0) for record in records) == 2
    assert all_finite(run)
    folder, _ = newest(run / "checkpoints")
    assert folder is not None
    state = json.loads((folder / "state.json").read_text())
    assert state["skipped"] == [at]
    assert state["lr_scale"] == (0.5 if policy == "rollback" else 1.0)


@pytest.mark.parametrize("at", AT)
def test_rollback_repairs_spoiled_weights(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    inject("weights", at, monkeypatch)
    run, _ = train(digits, tmp_path / "run", "rollback")
    assert all_finite(run)


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_what_does_not_help_ends_with_an_error(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, policy: str
) -> None:
    inject("images", at, monkeypatch, always=True)
    with pytest.raises(NumericError, match=r"in a row|did not help"):
        train(digits, tmp_path / "run", policy)
    assert all_finite(tmp_path / "run")


def test_a_rate_that_explodes(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match=r"not finite|loss is"):
        train(digits, tmp_path / "run", "stop", lr=1e3, weight_decay=10.0, clip_norm=0.0)
    assert all_finite(tmp_path / "run")


def test_a_validation_that_is_not_finite_is_never_the_best(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classification.measure

    def spoiled(self: Classification, model: Any, batch: Any, metrics: Any) -> None:
        batch.images[:] = float("nan")
        original(self, model, batch, metrics)

    monkeypatch.setattr(Classification, "measure", spoiled)
    with pytest.raises(NumericError, match="validation loss is nan"):
        train(digits, tmp_path / "run", "stop")
    with pytest.raises(NumericError, match="no weights to keep"):
        train(digits, tmp_path / "skipping", "skip")
    assert newest(tmp_path / "run" / "best")[0] is None
