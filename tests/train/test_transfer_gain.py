"""Learnt weights help: a network of our own, moved to five images a class of what it has seen under other names."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from convatlas import api
from convatlas.train import Compute, RunFolder

CPU = Compute(accelerator="cpu", workers=0)
FEW = {"epochs": 20, "batch_size": 10}


def write(folder: Path, names: str, split: str, each: slice) -> Path:
    found = load_digits()
    for digit, name in enumerate(names):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(found.target == digit)[each]:
            pixels = (found.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / name / f"{index:04}.png")
    return folder


@pytest.mark.slow
def test_it_beats_the_start_from_scratch(tmp_path: Path) -> None:
    source = api.train(
        write(tmp_path / "digits", "0123456789", "train", slice(110)), "lenet5",
        out=tmp_path / "source", epochs=10, batch_size=32, compute=CPU,
    )  # fmt: skip
    assert source.spec.score["top1"] > 0.9
    target = tmp_path / "letters"
    for split, part in (("train", slice(110, 115)), ("val", slice(115, 125)), ("test", slice(125, None))):
        write(target, "abcdefghij", split, part)
    gains = []
    for seed in range(3):
        tops = []
        for name, weights in (("scratch", None), ("moved", tmp_path / "source")):
            run = api.train(target, "lenet5", out=tmp_path / f"{name}-{seed}", seed=seed, weights=weights,
                            settings=FEW, compute=CPU)  # fmt: skip
            tops.append(api.evaluate(run, split="test").top1)
        gains.append(tops[1] - tops[0])
        assert RunFolder.open(tmp_path / f"moved-{seed}").read_run()["start"]["head"] == "new"
    assert min(gains) > 0, gains
    assert mean(gains) > 0.05, gains
