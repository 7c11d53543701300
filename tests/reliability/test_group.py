"""Several processes compute what one would: the same batches, gradients, statistics and choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import assert_equal, contents

from convatlas.files import newest
from convatlas.weights import read_weights
from ranks import Ranks

pytestmark = pytest.mark.reliability

TRAIN = "reliability.group_work:train"
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "photos",
    "SLURM_NODELIST": "127.0.0.1",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "{world}",
    "SLURM_NTASKS_PER_NODE": "{world}",
    "SLURM_STEP_NUM_TASKS": "{world}",
    "SLURM_PROCID": "{rank}",
    "SLURM_LOCALID": "{rank}",
    "MASTER_PORT": "{port}",
    "GLOO_SOCKET_IFNAME": "lo",
}


def trained(ranks: Ranks, out: Path, world: int, **arguments: Any) -> list[dict[str, Any]]:
    return ranks.run(TRAIN, world, out=str(out), devices=world, **arguments)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def difference(run: Path, other: Path, *, statistics: bool = True) -> float:
    """The largest difference of a weight or a running statistic, as a share of the largest of its tensor."""
    (ours, _), (theirs, _) = newest(run / "checkpoints"), newest(other / "checkpoints")
    assert ours is not None
    assert theirs is not None
    a, b = (read_weights(folder / "model.safetensors") for folder in (ours, theirs))
    assert a.keys() == b.keys()
    names = [name for name in a if statistics or not name.endswith(STATISTICS)]
    return max(
        ((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-3)).item() for name in names
    )


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# One validation batch of 64 and one of a single image, of which the second process has none.
ODD = {"images": 300, "val": 65}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "no BatchNorm": ("lenet5", {"accumulate": 3, "clip_norm": 0.5, "ema": 0.9}),
    "sync": ("resnet20_cifar", {"image_size": 16, "batch_norm": "sync", "accumulate": 2}),
    "local": ("resnet20_cifar", {"image_size": 16}),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_and_one_with_the_whole_batch(ranks: Ranks, tmp_path: Path, case: str) -> None:
    """In float64, where the order of additions is all but lost: equal, unless each normalises by its own share."""
    model, settings = CASES[case]
    (one,), two = (
        trained(ranks, tmp_path / str(world), world, model=model, settings=settings, double=True, **ODD)
        for world in (1, 2)
    )
    apart = difference(tmp_path / "2", tmp_path / "1")
    assert apart > 0.01 if case == "local" else apart < 1e-11
    if case != "local":
        for ours, theirs in zip(logged(tmp_path / "2"), logged(tmp_path / "1"), strict=True):
            words = {name: value for name, value in theirs.items() if not isinstance(value, float)}
            assert ours == words | {
                name: pytest.approx(theirs[name], rel=1e-6) for name in theirs.keys() - words
            }

    def flat(batches: list[list[int]]) -> list[int]:
        return [number for batch in batches for number in batch]

    # every image that one process learns from and measures, exactly once
    assert sorted(flat(two[0]["learnt"]) + flat(two[1]["learnt"])) == sorted(flat(one["learnt"]))
    assert sorted(flat(two[0]["measured"]) + flat(two[1]["measured"])) == sorted(flat(one["measured"]))
    assert len(flat(one["measured"])) == 65
    assert [len(share["measured"]) for share in two] == [2, 1]
    if settings.get("accumulate", 1) == 1:  # in the same step, each its rows of it
        for ours, theirs, whole in zip(two[0]["learnt"], two[1]["learnt"], one["learnt"], strict=True):
            assert (ours, theirs) == (whole[::2], whole[1::2])
    assert two[0]["lines"] > 0
    assert two[1]["lines"] == 0
    found = json.loads((tmp_path / "2" / "run.json").read_text())["processes"]
    norm = None if case == "no BatchNorm" else case
    assert found == {
        "world": 2,
        "nodes": 1,
        "backend": "gloo",
        "started_by": "the environment",
        "batch_norm": norm,
    }


def test_local_batch_norm_is_that_of_one_process_with_as_many_shares(ranks: Ranks, tmp_path: Path) -> None:
    """Each share is normalised by itself, and nothing else differs; the statistics that are kept are of rank 0's."""
    model, settings = CASES["local"]
    common: dict[str, Any] = {"model": model, "double": True, **ODD}
    trained(ranks, tmp_path / "2", 2, settings=settings, **common)
    trained(ranks, tmp_path / "1", 1, settings={**settings, "accumulate": 2}, shares=True, **common)
    assert difference(tmp_path / "2", tmp_path / "1", statistics=False) < 1e-11
    assert difference(tmp_path / "2", tmp_path / "1") > 0.01


def test_all_stop_early_together_and_agree_on_the_best(ranks: Ranks, tmp_path: Path) -> None:
    """With one validation image, so that a process has none at all, and a rate at which little gets better."""
    settings = {"epochs": 9, "early_stopping": 2, "lr": 0.0, "image_size": 16}
    trained(ranks, tmp_path / "run", 2, model="resnet20_cifar", settings=settings, images=64, val=1)
    folder, _ = newest(tmp_path / "run" / "checkpoints")
    assert folder is not None
    state = json.loads((folder / "state.json").read_text())
    assert state["stopped_early"]
    assert state["validated"] == state["best_epoch"] + 2 < 9


def test_a_split_that_is_no_whole_batch_is_shared_equally(ranks: Ranks, tmp_path: Path) -> None:
    found = trained(ranks, tmp_path / "run", 2, images=5, val=3)
    assert [len(batch) for share in found for batch in share["learnt"]] == [2, 2]
    codes, outputs, _ = ranks.outcome(TRAIN, 2, out=str(tmp_path / "none"), devices=2, images=1)
    assert codes == [2, 2]
    assert all("1 training images cannot be shared by 2 processes" in output for output in outputs)
    codes, outputs, _ = ranks.outcome(
        TRAIN, 2, out=str(tmp_path / "none"), devices=2, settings={"batch_size": 15}
    )
    assert codes == [2, 2]
    assert all("use --batch-size 14 or 16" in output for output in outputs)
    assert not (tmp_path / "none").exists()


def test_slurm_says_who_each_process_is(ranks: Ranks, tmp_path: Path) -> None:
    codes, outputs, found = ranks.outcome(TRAIN, 2, SLURM, out=str(tmp_path / "run"), images=64)
    assert codes == [0, 0], outputs
    assert [share["lines"] > 0 for share in found] == [True, False]
    decided = json.loads((tmp_path / "run" / "run.json").read_text())
    assert decided["processes"]["started_by"] == "SLURM"
    assert decided["processes"]["world"] == 2


def test_a_death_is_noticed_and_the_run_goes_on_to_the_same_bits(ranks: Ranks, tmp_path: Path) -> None:
    """With as many processes. With another number only if it is wanted; then equal but for the order of additions."""
    arguments: dict[str, Any] = {
        "double": True,
        "images": 320,
        "settings": {"epochs": 2},
        "checkpoint_steps": 2,
    }
    trained(ranks, tmp_path / "whole", 2, **arguments)
    for name in ("again", "fewer"):
        run = str(tmp_path / name)
        codes, outputs, _ = ranks.outcome(TRAIN, 2, out=run, devices=2, kill=(1, 3), **arguments)
        assert codes == [6, -9], outputs
        assert "process 0 of 2 has lost the others" in outputs[0]
    trained(ranks, tmp_path / "again", 2, go_on=True, double=True, images=320)
    assert_equal(tmp_path / "again", contents(tmp_path / "whole"))
    codes, outputs, _ = ranks.outcome(
        TRAIN, 1, out=str(tmp_path / "fewer"), go_on=True, double=True, images=320
    )
    assert codes == [4]
    assert "trained by 2 processes, and now there is 1" in outputs[0]
    trained(ranks, tmp_path / "fewer", 1, go_on=True, convert=True, double=True, images=320)
    assert difference(tmp_path / "fewer", tmp_path / "whole") < 1e-11
    notes = json.loads((tmp_path / "fewer" / "run.json").read_text())["notes"]
    assert "2 processes until step 2, 1 process from there" in notes


def test_what_rank_zero_cannot_do_fails_everywhere(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    codes, outputs, _ = ranks.outcome(TRAIN, 2, out=str(tmp_path / "file"), devices=2)
    assert codes == [6, 6]
    assert all("a file of that name is in the way" in output for output in outputs)


def test_one_that_is_late_finds_what_the_others_found(ranks: Ranks, tmp_path: Path) -> None:
    """Rank 0 writes its first checkpoint only when all have looked for one, or they would wait for each other."""
    found = ranks.run("reliability.group_work:train_with_a_late_one", 2, out=str(tmp_path / "run"))
    assert found == [[], []]


def test_other_images_at_one_process_are_refused_by_all(ranks: Ranks, tmp_path: Path) -> None:
    codes, outputs, _ = ranks.outcome(
        "reliability.group_work:train_on_own_images", 2, out=str(tmp_path / "run"), devices=2
    )
    assert codes == [2, 2]
    assert all("process 1 on " in output and "has read other images" in output for output in outputs)
