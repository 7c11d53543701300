"""Two processes train one run: the same order of samples, one writer, nothing left behind when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import assert_equal, contents

from convatlas.files import newest

pytestmark = pytest.mark.reliability

PROGRAM = Path(__file__).with_name("two_processes.py")


# Without the last one, processes that were started again may read where the dead ones listened.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(out: Path, *extra: str, restarts: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, f"--max-restarts={restarts}", str(PROGRAM), str(out), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **ENVIRONMENT},
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    code, output = finish(torchrun(out))
    assert code == 0, output
    return out


def test_both_read_one_global_order_and_rank_zero_writes(undisturbed: Path) -> None:
    ranks = [json.loads((undisturbed.parent / f"run.rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["order"] == ranks[1]["order"]  # the global batches
    for step, row in enumerate(ranks[0]["order"]):
        seen = [ranks[rank]["seen"][step] for rank in (0, 1)]
        assert [seen[i % 2][i // 2] for i in range(len(row))] == row  # each took its share of the row
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["wrote"]
    assert not ranks[1]["wrote"]


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_one_leaves_no_process_and_a_run_that_goes_on(
    undisturbed: Path, tmp_path: Path, rank: int
) -> None:
    out = tmp_path / "run"
    process = torchrun(out, f"--kill-rank={rank}")
    code, output = finish(process)
    assert code != 0
    end = time.monotonic() + 30
    while time.monotonic() < end and _alive(process.pid):
        time.sleep(0.2)
    assert not _alive(process.pid), output
    assert newest(out / "checkpoints")[0] is not None
    code, output = finish(torchrun(out, "--resume"))
    assert code == 0, output
    assert_equal(out, contents(undisturbed))


def test_torchrun_starts_them_again_after_a_death(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, output = finish(torchrun(out, "--kill-rank=1", "--resume-if-there", restarts=1))
    assert code == 0, output
    assert_equal(out, contents(undisturbed))


def test_a_signal_to_all_stops_them_at_the_same_step(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(out, "--slow")
    while not any((out / "checkpoints").glob("*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    code, output = finish(process)
    assert code != 0
    assert "nothing is lost" in output
    code, output = finish(torchrun(out, "--resume"))
    assert code == 0, output
    assert_equal(out, contents(undisturbed))


def _alive(session: int) -> list[int]:
    alive = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if os.getsid(pid) == session and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
                alive.append(pid)
        except OSError:
            continue
    return alive
