"""R8: the same seed in fresh processes, and any number of workers, give the same weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery
from runs import PHOTOS, assert_equal, contents, photos

pytestmark = pytest.mark.reliability

RUNS = 50 if os.environ.get("CONVATLAS_RELIABILITY") == "release" else 10


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def test_weights_depend_on_the_seed_and_not_on_the_workers(nursery: Nursery, tmp_path: Path) -> None:
    where = str(photos(tmp_path / "photos", count=40))
    arguments = {**PHOTOS, "settings": {**PHOTOS["settings"], "epochs": 1, "trivial": True, "flip": True}}
    for number in range(RUNS):
        job = {**arguments, "out": str(tmp_path / f"run-{number}")}
        log = tmp_path / f"{number}.log"
        assert nursery.run(log, where=where, arguments=job, workers=number % 3) == 0, log.read_text()
        assert_equal(tmp_path / f"run-{number}", contents(tmp_path / "run-0"))
    other = {**arguments, "out": str(tmp_path / "other"), "seed": 8}
    assert nursery.run(tmp_path / "other.log", where=where, arguments=other) == 0
    assert contents(tmp_path / "other") != contents(tmp_path / "run-0")
