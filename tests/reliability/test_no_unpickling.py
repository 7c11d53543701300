"""R13: a training, its resume, evaluation, prediction and report unpickle nothing in this process."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from convatlas import api
from convatlas.errors import Interrupted
from convatlas.train import Compute, Observer

pytestmark = pytest.mark.reliability


class StopAtOnce(Observer):
    def stepped(self, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def trap(*_: object, **__: object) -> NoReturn:
    raise AssertionError("something was unpickled")


def test_train_resume_eval_predict_with_every_unpickler_trapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "digit.png"
    Image.fromarray((load_digits().images[0] * 15).astype("uint8")).save(picture)
    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, trap)
    cpu = Compute(accelerator="cpu", workers=0)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        api.train("digits", "lenet5", out=run, epochs=1, compute=cpu, observer=StopAtOnce())
    finished = api.resume(run, compute=cpu)
    assert api.evaluate(finished).count == 359
    assert finished.predict(picture)[0].label in finished.classes
    assert (run / "report.html").stat().st_size > 10_000
    with pytest.raises(AssertionError, match="unpickled"):  # the trap does spring
        torch.load(picture)
