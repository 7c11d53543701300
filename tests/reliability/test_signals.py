"""R5: SIGTERM and SIGINT at random moments, also twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery
from runs import DIGITS, assert_equal, contents

from convatlas.files import newest

pytestmark = pytest.mark.reliability

COUNT = 100 if os.environ.get("CONVATLAS_RELIABILITY") == "release" else 18
LONG = {**DIGITS, "settings": {**DIGITS["settings"], "epochs": 15}}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert nursery.run(out.with_suffix(".log"), where="digits", arguments={**LONG, "out": str(out)}) == 0
    return contents(out)


@pytest.mark.parametrize("number", range(COUNT))
def test_a_signal_commits_a_checkpoint_and_leaves_with_its_code(
    nursery: Nursery, undisturbed: dict[str, bytes], tmp_path: Path, number: int
) -> None:
    which, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[number % 2]
    out = tmp_path / "run"
    child = nursery.start(tmp_path / "log", where="digits", arguments={**LONG, "out": str(out)})
    while not any((out / "checkpoints").glob("*/manifest.json")):
        time.sleep(0.002)
    time.sleep(random.Random(number).uniform(0, 0.5))
    os.kill(child.pid, which)
    asked = time.monotonic()
    assert child.wait() == code, child.output()
    assert time.monotonic() - asked < 50  # five times the goal of 10 s
    assert newest(out / "checkpoints")[0] is not None
    assert "train --resume" in child.output()
    assert nursery.run(tmp_path / "log", resume=str(out)) == 0
    assert_equal(out, undisturbed)


def test_a_step_that_does_not_end_is_given_up(
    nursery: Nursery, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """One signal, from inside a step that takes for ever: the checkpoint before it is what remains."""
    out = tmp_path / "run"
    begun = time.monotonic()
    child = nursery.start(
        tmp_path / "log",
        where="digits",
        arguments={**LONG, "out": str(out)},
        trap=["step", 30, signal.SIGTERM],
        hang=True,
    )
    assert child.wait() == 143
    assert time.monotonic() - begun < 50  # five times the goal of 10 s
    assert "given up" in child.output()
    assert nursery.run(tmp_path / "log", resume=str(out)) == 0
    assert_equal(out, undisturbed)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    nursery: Nursery, undisturbed: dict[str, bytes], tmp_path: Path, which: signal.Signals
) -> None:
    out = tmp_path / "run"
    # the first signal comes from inside a step, which then never returns
    child = nursery.start(
        tmp_path / "log",
        where="digits",
        arguments={**LONG, "out": str(out)},
        trap=["step", 30, which],
        hang=True,
    )
    time.sleep(0.1)
    while "hanging" not in child.output():
        time.sleep(0.01)
    os.kill(child.pid, which)
    asked = time.monotonic()
    assert child.wait() == {signal.SIGTERM: 143, signal.SIGINT: 130}[which]
    assert time.monotonic() - asked < 5
    assert nursery.run(tmp_path / "log", resume=str(out)) == 0
    assert_equal(out, undisturbed)
