"""Who has started the processes, what is refused before any of them trains, and who reads what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convatlas import api
from convatlas.cli import launch
from convatlas.data import Batches, Preprocessing
from convatlas.errors import ResourceError, UsageError
from convatlas.train import Compute, processes
from convatlas.train.speed import Speed

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_NTASKS": "16",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NUM_TASKS": "16",
}


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "by", "devices", "nodes"),
    [(TORCHRUN, "torchrun", 4, 2), (SLURM, "SLURM", 8, 2), ({**SLURM, **TORCHRUN}, "torchrun", 4, 2)],
)
def test_numbers_are_those_of_the_starter(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], by: str, devices: int, nodes: int
) -> None:
    set_all(monkeypatch, environment)
    found = processes.launched()
    assert found is not None
    assert found.by == by
    arranged = processes.arrangement(None, None, "auto")
    assert (arranged["devices"], arranged["num_nodes"]) == (devices, nodes)
    assert processes.arrangement(devices, nodes, "ddp").keys() == arranged.keys()
    with pytest.raises(UsageError, match=rf"--devices 3 was asked for, but {by} has started {devices}"):
        processes.arrangement(3, None, "auto")
    with pytest.raises(UsageError, match=rf"--nodes 1 was asked for, but {by} has started 2"):
        processes.arrangement(None, 1, "auto")


@pytest.mark.parametrize(
    "environment", [{}, {"SLURM_NTASKS": "1"}, {**SLURM, "SLURM_JOB_NAME": "interactive"}]
)
def test_one_process_stands_alone(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    set_all(monkeypatch, environment)
    assert processes.launched() is None
    assert processes.arrangement(None, None, "auto") == {"devices": 1, "num_nodes": 1, "strategy": "auto"}


@pytest.mark.parametrize(
    ("missing", "told"),
    [("SLURM_STEP_NUM_TASKS", "Put `srun` before"), ("SLURM_NTASKS_PER_NODE", "--ntasks-per-node")],
)
def test_a_slurm_job_that_would_wait_for_nobody(
    monkeypatch: pytest.MonkeyPatch, missing: str, told: str
) -> None:
    set_all(monkeypatch, {name: value for name, value in SLURM.items() if name != missing})
    with pytest.raises(UsageError, match=told):
        processes.launched()


def test_a_program_is_not_started_a_second_time(tmp_path: Path) -> None:
    told = "2 processes are wanted, and nothing has started them.*torchrun --nproc-per-node 2 PROGRAM"
    with pytest.raises(UsageError, match=told):
        api.train("digits", "lenet5", out=tmp_path / "run", compute=Compute(devices=2, accelerator="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        (Compute(strategy="fsdp"), "strategy 'fsdp' is not supported; there are auto, ddp"),
        (Compute(accelerator="tpu"), "these devices cannot be used"),
        (Compute(accelerator="gpux"), "these devices cannot be used.*gpux"),
    ],
)
def test_what_is_not_there(compute: Compute, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compute.fabric(Speed())


def test_a_command_goes_on_with_its_own_run_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments: dict[str, Any] = {
        "out": out,
        "auto_resume": True,
        "compute": Compute(accelerator="cpu", workers=0),
    }
    api.train("digits", "lenet5", epochs=1, batch_size=256, **arguments)
    before = (out / "metrics.jsonl").read_bytes()
    api.train("digits", "lenet5", epochs=1, batch_size=256, **arguments)
    assert (out / "metrics.jsonl").read_bytes() == before
    with pytest.raises(UsageError, match=r"another command has begun: convatlas train .*epochs=1"):
        api.train("digits", "lenet5", epochs=2, batch_size=256, **arguments)


def test_several_machines_have_to_meet_somewhere() -> None:
    with pytest.raises(UsageError, match="give --rendezvous HOST:PORT"):
        launch.launch(["train", "digits"], devices=1, nodes=2)


@pytest.mark.parametrize(
    ("codes", "expected"), [({0: 70, 1: 3}, 3), ({0: 143, 1: 5}, 5), ({0: 130, 1: 130}, 130)]
)
def test_the_exit_code_is_that_of_the_one_that_failed_of_itself(codes: dict[int, int], expected: int) -> None:
    assert launch._ended(codes) == expected


def test_a_killed_process_is_named() -> None:
    with pytest.raises(
        ResourceError, match="process 1 was ended by SIGKILL, as the system does when memory runs out"
    ):
        launch._ended({0: 6, 1: -9})


def test_what_a_run_says_of_its_processes() -> None:
    decided = {
        "processes": {"world": 8, "nodes": 2, "backend": "nccl", "started_by": "SLURM", "batch_norm": "sync"},
        "recipe": {"batch_size": 256},
    }
    assert processes.sentences(decided) == [
        "8 processes on 2 machines (nccl), 32 images each in a step; BatchNorm is synchronised: statistics of the 256 "
        "images of all processes"
    ]
    assert processes.options(decided) == ["--devices", "4", "--nodes", "2", "--rendezvous", "HOST:PORT"]
    assert processes.sentences({"recipe": {}}) == processes.options({}) == []


class Photos:
    """Ten pictures that are too large to keep; counts which were decoded."""

    def __init__(self) -> None:
        self.keys = [str(i) for i in range(10)]
        self.labels, self.ids = np.zeros(10, np.int64), np.arange(10)
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return 10

    def image(self, i: int, /) -> NDArray[np.uint8]:
        self.decoded.append(i)
        return np.full((80, 80, 3), i, np.uint8)


def test_each_process_decodes_its_own_share_and_no_more() -> None:
    shares: list[list[int]] = []
    for rank in range(2):
        photos = Photos()
        prepared = Preprocessing((80, 80), "squash", 3)
        batches = Batches(
            photos, prepared, batch_size=4, seed=3, shuffle=True, drop_last=True, rank=rank, world=2
        )
        seen = [number for batch in batches.epoch(0) for number in batch.ids.tolist()]
        assert sorted(photos.decoded) == sorted(seen)
        shares.append(seen)
    assert len({*shares[0], *shares[1]}) == 8


def test_a_split_smaller_than_a_batch_is_shared_equally() -> None:
    lengths = [
        [len(batch) for batch in Batches(Photos(), Preprocessing((80, 80), "squash", 3), batch_size=12,
                                         shuffle=True, drop_last=True, rank=rank, world=3).epoch(0)]
        for rank in range(3)
    ]  # fmt: skip
    assert lengths == [[3], [3], [3]]
