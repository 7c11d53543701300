"""A small real run, trained once for all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convatlas.data import Data, open_data
from convatlas.infer import Run
from convatlas.train import begin


@pytest.fixture(scope="session")
def digits() -> Data:
    return open_data("digits")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    """A run folder: LeNet-5 on the digits, 4 epochs."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    begin(digits, model="lenet5", settings={"epochs": 4}, out=out)
    return out


@pytest.fixture(scope="session")
def run(trained: Path) -> Run:
    return Run.load(trained)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))
