"""The public names: lazy, and right whatever was imported before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convatlas
import convatlas.errors
from convatlas import api


@pytest.mark.parametrize(
    "before",
    [
        "import convatlas",
        "import convatlas.train",
        "import convatlas.measure.cost, convatlas.train.recipe",
        "from convatlas import train, measure",
        "import convatlas.api",
    ],
)
def test_a_name_is_the_function_and_the_package(before: str) -> None:
    code = f"""{before}
import convatlas, convatlas.train.recipe as recipe, convatlas.measure.cost as cost
from torch import nn
assert convatlas.measure(nn.Linear(3, 4), (3,)).params == 16
assert convatlas.measure.cost is cost and convatlas.train.recipe is recipe
try: convatlas.train("nowhere")
except TypeError: raise
except convatlas.errors.ConvAtlasError as error: assert error.exit_code in (2, 3)
else: raise SystemExit("trained on nothing")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in convatlas.__all__:
        assert callable(getattr(convatlas, name)), name
        assert name in dir(convatlas)
        assert name in api.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = convatlas.trian


# --- a run and its images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty squares and forty bars of 16 px on noise, in one folder per class."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, box in (("bar", np.s_[2:14, 7:9]), ("square", np.s_[4:12, 4:12])):
        (folder / name).mkdir()
        for number in range(40):
            image = rng.integers(0, 80, (16, 16), np.uint8)
            image[box] = 220
            Image.fromarray(image).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> convatlas.Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return convatlas.train(images, "lenet5", out=out, epochs=4, batch_size=8, lr=0.005)


def test_training_leaves_a_run_that_is_evaluated_and_reported(run: convatlas.Run, images: Path) -> None:
    assert run.folder.report_path.is_file()
    val = run.folder.evaluation("val")
    assert val is not None
    assert val["top1"] == pytest.approx(run.spec.score["top1"]), "the weights are those that val chose"
    assert run.predict(images / "bar" / "00.png")[0].label == "bar"


def test_own_images_keep_their_split_wherever_they_lie(
    run: convatlas.Run, images: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(images, tmp_path / "moved")
    here, there = api.evaluate(run), api.evaluate(run, moved)
    assert here.split == there.split == "test"
    assert here.keys == there.keys
    assert here.count == 8, "a tenth of each class"
    assert here.top1 >= 0.75
    assert "test" in run.folder.report_path.read_text()


def test_other_images_are_taken_as_they_are_given(run: convatlas.Run, images: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    for name in ("bar", "square"):
        shutil.copytree(images / name, some / name, ignore=shutil.ignore_patterns("[1-3]*"))
    before = run.folder.evaluation("test")
    evaluation = api.evaluate(run, some)
    assert (evaluation.split, evaluation.count) == ("all", 20)
    assert list(evaluation.keys) == sorted(evaluation.keys)
    assert run.folder.evaluation("test") == before, "what its own test gave stays"
    seen = api.images_for(run, some).seen(api.samples_of(run.folder))
    assert sum(map(len, seen.values())) == 20

    (some / "bar").rename(some / "beam")
    with pytest.raises(convatlas.errors.DataError, match="beam"):
        api.evaluate(run, some)


def test_a_split_without_images_is_refused(run: convatlas.Run, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "given" / "train")
    with pytest.raises(convatlas.errors.DataError, match="no test images"):
        api.evaluate(run, tmp_path / "given", "test")


def test_a_run_is_not_overwritten(run: convatlas.Run, images: Path) -> None:
    with pytest.raises(convatlas.errors.UsageError, match="holds a run already"):
        convatlas.train(images, "lenet5", out=run.folder.path)
