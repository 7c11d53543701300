"""Processes that are really started: by `--devices`, by torchrun, on two hosts; killed, stopped, started again.

Every run is compared, byte for byte, with one that two processes made undisturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import two_hosts
from runs import assert_equal, contents

from convatlas.files import newest
from ranks import Ranks

pytestmark = pytest.mark.reliability

CONVATLAS = [sys.executable, "-m", "convatlas"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "-m",
    "convatlas",
]
TRAIN = "train digits --model lenet5 --epochs 3 --batch-size 64 --set ema=0.9 --seed 7 --checkpoint-steps 4"
HERE = "--accelerator cpu --workers 0"
DEADLINE = 240


@pytest.fixture(scope="module")
def undisturbed(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    trained(ranks, f"{TRAIN} --out {out}")
    return contents(out)


def trained(ranks: Ranks, words: str) -> None:
    words = f"{words} {HERE} --devices 2"
    assert ranks.run("reliability.group_work:command", 2, words=words.split()) == [0, 0]


def start(command: list[str], words: str, folder: Path) -> subprocess.Popen[bytes]:
    """In a session of its own; what it prints goes to out.txt and err.txt."""
    with open(folder / "out.txt", "wb") as out, open(folder / "err.txt", "wb") as err:
        return subprocess.Popen(
            [*command, *words.split(), *HERE.split()],
            stdout=out,
            stderr=err,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def when_saved(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Return when the run has a checkpoint of that step or a later one."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        folder, _ = newest(run / "checkpoints")
        if folder is not None and int(folder.name.split("-")[1]) >= step:
            return
        assert process.poll() is None, (run.parent / "err.txt").read_text()
        time.sleep(0.02)
    raise AssertionError("no checkpoint in time")


def workers(run: Path, rank: int | None = None) -> list[int]:
    """Process ids of the ranks that train at `run`, or of one."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "environ").read_bytes().split(b"\0")
            named = str(run).encode() in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        ranked = [word.removeprefix(b"RANK=") for word in told if word.startswith(b"RANK=")]
        if named and ranked and (rank is None or int(ranked[0]) == rank):
            found.append(int(folder.name))
    return found


def all_gone(run: Path, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while workers(run) and time.monotonic() < end:
        time.sleep(0.1)
    return not workers(run)


def test_one_command_starts_them_and_starts_them_again_after_a_death(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(CONVATLAS, f"{TRAIN} --out {run} --devices 2 --restarts 1", tmp_path)
    when_saved(process, run, 8)
    os.kill(workers(run, rank=1)[0], signal.SIGKILL)
    assert process.wait(DEADLINE) == 0, (tmp_path / "err.txt").read_text()
    assert_equal(run, undisturbed)
    printed = (tmp_path / "out.txt").read_text()
    assert (
        printed.count("2 processes on 1 machine (gloo), 32 images each in a step") == 2
    )  # in each of its lives
    assert printed.count("accuracy on val") == 1


def test_ctrl_c_stops_all_and_one_speaks(ranks: Ranks, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(CONVATLAS, f"{TRAIN} --out {run} --devices 2", tmp_path)
    when_saved(process, run, 4)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130
    assert (tmp_path / "err.txt").read_text().count("nothing is lost") == 1
    assert all_gone(run)
    trained(ranks, f"train --resume {run}")
    assert_equal(run, undisturbed)


@pytest.mark.slow
def test_the_end_of_the_starter_is_the_end_of_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(CONVATLAS, f"{TRAIN} --out {run} --devices 2", tmp_path)
    when_saved(process, run, 1)
    process.kill()
    process.wait(DEADLINE)
    assert all_gone(run)


def test_killed_under_torchrun_none_is_left_and_the_run_goes_on(
    ranks: Ranks, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(TORCHRUN, f"{TRAIN} --out {run}", tmp_path)
    when_saved(process, run, 4)
    os.kill(workers(run, rank=0)[0], signal.SIGKILL)
    assert process.wait(DEADLINE) != 0
    assert all_gone(run)
    assert "process 1 of 2 has lost the others" in (tmp_path / "err.txt").read_text()
    trained(ranks, f"train --resume {run}")
    assert_equal(run, undisturbed)


def test_two_hosts_train_one_run_also_after_a_death(
    undisturbed: dict[str, bytes], tmp_path: Path, namespaces: Callable[[], None]
) -> None:
    """Network namespaces with a cable between them; each host starts its own process, and they meet at one."""
    namespaces()
    run = tmp_path / "run"
    words = f"{TRAIN} --out {run} --nodes 2 --rendezvous host-a:29400 --restarts 1"
    hosts = [*two_hosts.INSIDE, sys.executable, two_hosts.__file__, *CONVATLAS]
    process = start(hosts, words, tmp_path)
    when_saved(process, run, 8)
    os.kill(workers(run, rank=1)[0], signal.SIGKILL)
    code = process.wait(DEADLINE)
    logs = [(tmp_path / f"{name}.log").read_text() for name in two_hosts.HOSTS]
    assert code == 0, logs
    assert_equal(run, undisturbed)
    assert sum("2 processes on 2 machines (gloo)" in log for log in logs) == 1
