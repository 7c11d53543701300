"""A small real run to report on, trained once for all tests of this folder."""

from __future__ import annotations

import pytest

from convatlas.data import Data, open_data
from convatlas.infer import Run
from convatlas.train import RunFolder, begin


@pytest.fixture(scope="session")
def digits() -> Data:
    return open_data("digits")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> RunFolder:
    """LeNet-5 on the digits, 2 epochs with mixup, evaluated on val and test."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    folder = begin(
        digits,
        model="lenet5",
        settings={"epochs": 2, "mixup": 0.5},
        out=out,
        command=["convatlas", "train", "digits"],
    )
    run = Run.load(folder.path)
    for split in (digits.val, digits.test):
        folder.write_evaluation(split.name, run.evaluate(split, fingerprint=digits.fingerprint).to_json())
    return folder
