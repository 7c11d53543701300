"""`make demo` at its promise: the default recipe teaches LeNet-5 to read digits."""

from __future__ import annotations

from pathlib import Path

from convatlas import api
from convatlas.train import Compute


def test_the_default_recipe_reads_digits(tmp_path: Path) -> None:
    run = api.train("digits", "lenet5", out=tmp_path / "run", compute=Compute(accelerator="cpu", workers=0))
    result = api.evaluate(run)
    assert (result.split, result.count) == ("test", 359)
    assert result.top1 >= 0.97
