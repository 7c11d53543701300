"""Sides in process groups: who does not run is stopped, who fails says why, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convatlas.bench import pool
from convatlas.bench.pool import Side, given_environment
from convatlas.bench.processors import worked_by
from convatlas.errors import ConvAtlasError

# A loop of steps of 20 ms of work, beside a child that always works, as one that decodes ahead would.
LOOP = """
import os, sys, time
from convatlas.bench.gate import Gate, Over
from convatlas.bench.pool import channel

def work(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass

pipe, task = channel(sys.argv[-1])
if task["fail"] == "start":
    raise SystemExit("it would not start")
child = os.fork()
while not child:
    work(1)
gate = Gate(pipe, {"pid": os.getpid(), "child": child})
gate.epoch(1000)
while True:
    work(0.02)
    if task["fail"] == "run":
        sys.exit(3)
    gate.step(5, 0.5)
"""


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Callable[..., Side]]:
    (tmp_path / "loop.py").write_text(LOOP)
    started: list[Side] = []

    def start(fail: str = "") -> Side:
        started.append(Side("loop", [sys.executable, str(tmp_path / "loop.py")], {"fail": fail}))
        return started[-1]

    yield start
    for each in started:
        each.close()


def state(pid: int) -> str:
    """As the kernel says: R, S, T (stopped), Z; X for a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def ended(*pids: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if all(state(pid) in "XZ" for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_who_does_not_run_is_stopped_with_its_children(side: Callable[..., Side]) -> None:
    loop = side()
    pids = loop.facts["pid"], loop.facts["child"]
    assert [state(pid) for pid in pids] == ["T", "T"]
    block = loop.block(10)
    assert (block.steps, block.images, block.loss) == (10, 50, 0.5)
    assert block.seconds >= 0.2
    assert block.peak_bytes is None or block.peak_bytes > 2**20
    before = worked_by(pids[0])
    time.sleep(0.3)
    assert worked_by(pids[0]) == before  # not a tick, though the child always wants to
    assert before >= 0.2
    loop.close()
    assert ended(*pids)
    loop.close()  # twice is once


def test_others_are_what_the_group_did_not_do(
    side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = side()
    everybody, group = iter([5000.0, 6000.0]), iter([200.0, 600.0])
    monkeypatch.setattr(pool, "worked", lambda: next(everybody))
    monkeypatch.setattr(pool, "worked_by", lambda _: next(group))
    monkeypatch.setattr(pool, "_worked_here", lambda: 0.0)
    begin = time.perf_counter()
    block = loop.block(5)
    assert 600 / (time.perf_counter() - begin) <= block.others <= 600 / block.seconds
    assert not block.quiet


@pytest.mark.parametrize(
    ("fail", "code", "words"), [("start", 1, "it would not start"), ("run", 3, "code 3")]
)
def test_a_side_that_ends_says_why(side: Callable[..., Side], fail: str, code: int, words: str) -> None:
    with pytest.raises(ConvAtlasError, match=words) as raised:
        side(fail).block(1)
    assert raised.value.exit_code == code


def test_a_side_that_was_killed_between_blocks_is_told(side: Callable[..., Side]) -> None:
    loop = side()
    loop.block(1)
    os.kill(loop.facts["pid"], signal.SIGKILL)
    assert ended(loop.facts["pid"])
    with pytest.raises(ConvAtlasError, match=r"ended with code -9 \(killed.*before its time"):
        loop.block(1)
    loop.close()
    assert ended(loop.facts["child"])  # which had outlived its parent


def test_a_side_that_hangs_is_given_up(side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch) -> None:
    loop = side()
    monkeypatch.setattr(loop, "patience", 0.5)
    with pytest.raises(ConvAtlasError, match=r"did not end its turn in 0\.5 s"):
        loop.block(900)


def test_nobody_is_left_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    code = (
        "import sys, time\n"
        "from convatlas.bench.pool import Side\n"
        f"side = Side('loop', [sys.executable, {str(tmp_path / 'loop.py')!r}], {{'fail': ''}})\n"
        "print(side.facts['pid'], side.facts['child'], flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert [state(pid) for pid in pids] == ["T", "T"]
        parent.send_signal(signal.SIGKILL)
    try:
        assert ended(*pids)
    finally:
        for pid in pids:
            if state(pid) not in "XZ":
                os.kill(pid, signal.SIGKILL)


def test_peers_get_the_environment_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path("/proc/self/environ").read_bytes()
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setenv("CONVATLAS_OTHER", "kept")
    found = given_environment()
    assert found["CONVATLAS_OTHER"] == "kept"
    assert ("GOMP_SPINCOUNT" in found) == (b"GOMP_SPINCOUNT=" in first)  # the command line's own is taken out
