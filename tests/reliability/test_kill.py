"""R1: `kill -9` at any moment; the run goes on to the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery
from runs import DIGITS, PHOTOS, assert_equal, contents, photos

pytestmark = pytest.mark.reliability

RELEASE = os.environ.get("CONVATLAS_RELIABILITY") == "release"
PER_PLACE = 40 if RELEASE else 4
AT_RANDOM = 37 if RELEASE else 3
CHECKPOINT_STEPS = 7
STEPS = 60  # of DIGITS: 3 epochs of 20


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def begin(nursery: Nursery, out: Path, *, kind: str, where: str, **job: object):
    arguments = {**(DIGITS if kind == "digits" else PHOTOS), "out": str(out)}
    safety = {"checkpoint_steps": CHECKPOINT_STEPS}
    return nursery.start(out.with_suffix(".log"), where=where, arguments=arguments, safety=safety, **job)


def go_on(nursery: Nursery, out: Path, **job: object) -> int:
    safety = {"checkpoint_steps": CHECKPOINT_STEPS}
    return nursery.run(out.with_suffix(".resumed.log"), resume=str(out), safety=safety, **job)


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    child = begin(nursery, out, kind="digits", where="digits")
    assert child.wait() == 0, child.output()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == STEPS
    return contents(out)


@pytest.mark.parametrize("place", ["step", "eval", "save", "epoch_end"])
def test_killed_at_a_place(
    nursery: Nursery, undisturbed: dict[str, bytes], tmp_path: Path, place: str
) -> None:
    reached = {"step": STEPS, "eval": 9, "save": 40, "epoch_end": 3}[place]
    for number in range(PER_PLACE):
        out = tmp_path / f"run-{number}"
        at = random.Random(f"{place} {number}").randint(1, reached)
        child = begin(nursery, out, kind="digits", where="digits", trap=[place, at, signal.SIGKILL])
        assert child.wait() == -signal.SIGKILL, child.output()
        assert go_on(nursery, out) == 0, out.with_suffix(".resumed.log").read_text()
        assert_equal(out, undisturbed)


def test_killed_at_random_moments_and_the_work_that_was_lost(
    nursery: Nursery, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for number in range(AT_RANDOM):
        out = tmp_path / f"run-{number}"
        child = begin(nursery, out, kind="digits", where="digits")
        while not (out / "run.json").exists():
            time.sleep(0.002)
        time.sleep(random.Random(number).uniform(0, 0.3))
        with contextlib.suppress(ProcessLookupError):  # on a fast machine it may have ended
            os.kill(child.pid, signal.SIGKILL)
        assert child.wait() in (-signal.SIGKILL, 0), child.output()
        state = max((out / "checkpoints").glob("step-*/state.json"), default=None)
        done = json.loads(state.read_text())["step"] if state else 0
        logged = (
            len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0
        )
        assert logged - done <= CHECKPOINT_STEPS + 3  # a line a step, a line a validation
        assert go_on(nursery, out) == 0, out.with_suffix(".resumed.log").read_text()
        assert_equal(out, undisturbed)


def test_killed_while_workers_decode(nursery: Nursery, tmp_path: Path) -> None:
    where = str(photos(tmp_path / "photos"))
    reference = tmp_path / "reference"
    child = begin(nursery, reference, kind="photos", where=where, workers=2)
    assert child.wait() == 0, child.output()
    expected = contents(reference)
    for number, (place, at) in enumerate([("step", 4), ("epoch_end", 1)]):
        out = tmp_path / f"run-{number}"
        child = begin(nursery, out, kind="photos", where=where, workers=2, trap=[place, at, signal.SIGKILL])
        assert child.wait() == -signal.SIGKILL, child.output()
        assert go_on(nursery, out, workers=2 * (number == 0)) == 0, out.with_suffix(
            ".resumed.log"
        ).read_text()
        assert_equal(out, expected)
        assert not processes_of(child.pid), "workers outlived the training"


def processes_of(session: int, seconds: float = 15) -> list[int]:
    """Processes of a session that are still there after at most `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == session
        ]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def test_killed_from_a_cold_start_through_the_command_line(tmp_path: Path) -> None:
    """The same with the program that a user starts: once undisturbed, once killed and resumed."""
    command = [sys.executable, "-m", "convatlas"]
    train = [*command, "train", "digits", "--model", "lenet5", "--set", "epochs=3", "--seed", "3", "--out"]
    reference, out = tmp_path / "reference", tmp_path / "run"
    subprocess.run([*train, str(reference)], check=True, capture_output=True, timeout=300)
    process = subprocess.Popen([*train, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any((out / "checkpoints").glob("*-00001/manifest.json")):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    subprocess.run([*command, "train", "--resume", str(out)], check=True, capture_output=True, timeout=300)
    assert_equal(out, contents(reference))
