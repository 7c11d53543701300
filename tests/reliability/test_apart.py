"""Machines that each have a part of the training images: they train as if each had all, and only on what is theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import two_hosts
from runs import assert_equal, contents

from convatlas import api
from convatlas.data import open_data
from convatlas.data.sharding import write_shards
from convatlas.errors import DataError
from corpus import encoded, photo
from ranks import Ranks

pytestmark = pytest.mark.reliability

PART = "reliability.group_work:train_on_a_part"
MACHINES = {  # as torchrun tells two machines with a process each
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "{rank}",
    "WORLD_SIZE": "{world}",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "{rank}",
    "GROUP_WORLD_SIZE": "{world}",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "{port}",
    "GLOO_SOCKET_IFNAME": "lo",
}
SETTINGS = {"epochs": 2, "batch_size": 16, "mean": [0.5], "std": [0.25], "crop": "shift", "shift_px": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All shards with their indexes, and two folders with half of the train shards each."""
    root = tmp_path_factory.mktemp("apart")
    for i in range(96):
        path = root / "photos" / ("val" if i % 6 == 0 else "train") / "ab"[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(i, 40 + i, 50)))
    write_shards(root / "photos", root / "all", size=20_000)
    open_data(root / "all", workers=0)
    names = sorted(path.name for path in (root / "all").glob("train-*.tar"))
    assert len(names) >= 4
    for number in (0, 1):
        shutil.copytree(root / "all", root / f"{number}")
        for name in names[1 - number :: 2]:
            (root / f"{number}" / name).unlink()
    return [str(root / name) for name in ("0", "1", "all")]


def begun(ranks: Ranks, out: Path, folders: list[str], **arguments: Any) -> list[Any]:
    codes, outputs, found = ranks.outcome(PART, 2, MACHINES, folders=folders, out=str(out), **arguments)
    assert codes == [0, 0], "\n".join(outputs)
    return found


def decided(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_two_machines_with_half_each_train_as_two_with_everything(
    ranks: Ranks, folders: list[str], tmp_path: Path
) -> None:
    """The same run to the byte where the same shares are read, and each machine reads its own alone."""
    zero, one, everything = folders
    read = begun(ranks, tmp_path / "half", [zero, one], settings=SETTINGS)
    shares = decided(tmp_path / "half")["shares"]
    assert [len(share) for share in shares] == [len(shares[0]), len(shares[0])]
    own = [set(open_data(folder, seed=7, apart=True).here().train.keys) for folder in (zero, one)]
    assert [set(keys) for keys in read] == own
    assert not own[0] & own[1]
    begun(ranks, tmp_path / "all", [everything] * 2, settings=SETTINGS, shares=shares)
    assert_equal(tmp_path / "all", contents(tmp_path / "half"))
    begun(ranks, tmp_path / "plain", [everything] * 2, settings=SETTINGS)
    assert "shares" not in decided(tmp_path / "plain")
    assert "apart" not in decided(tmp_path / "plain")["reading"]


def test_after_a_death(ranks: Ranks, folders: list[str], tmp_path: Path) -> None:
    """On the same machines exactly; on renumbered ones, and with all shards on one, by the same images at each step.

    What is measured on images before the first step is measured once, on those of rank 0's machine.
    """
    zero, one, everything = folders
    settings = {**SETTINGS, "init": "lsuv", "mean": [], "std": [], "pca": 0.1}
    settings = {name: value for name, value in settings.items() if value != []}
    begun(ranks, tmp_path / "whole", [zero, one], settings=settings)
    expected, shares = contents(tmp_path / "whole"), decided(tmp_path / "whole")["shares"]
    assert all(name.startswith("train-") for share in shares for name in share)

    def stopped(name: str) -> Path:
        codes, outputs, _ = ranks.outcome(
            PART, 2, MACHINES, folders=[zero, one], out=str(tmp_path / name), settings=settings, kill_at=5
        )
        assert codes == [6, -9], outputs
        return tmp_path / name

    for name, order in (("same", [zero, one]), ("other", [one, zero]), ("copied", [everything, one])):
        begun(ranks, stopped(name), order, go_on=True)
        assert_equal(tmp_path / name, expected)  # two summands, no dropout, no BatchNorm
    codes, outputs, _ = ranks.outcome(
        PART, 2, MACHINES, folders=[zero, zero], out=str(stopped("lost")), go_on=True
    )
    assert codes == [4, 4]
    assert all(
        "2 machines, and the 2 that there are now do not hold these shares" in text for text in outputs
    )
    codes, outputs, _ = ranks.outcome(
        PART, 1, MACHINES, folders=[everything], out=str(tmp_path / "lost"), go_on=True, convert=True
    )
    assert codes == [0], outputs
    steps = [json.loads(line) for line in (tmp_path / "lost" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(steps, map(json.loads, expected["metrics.jsonl"].splitlines()), strict=True):
        numbers = {name: value for name, value in theirs.items() if isinstance(value, float)}
        assert ours == theirs | {name: pytest.approx(value, rel=1e-3) for name, value in numbers.items()}


def test_a_run_of_whole_data_refuses_a_part(ranks: Ranks, folders: list[str], tmp_path: Path) -> None:
    zero, _, everything = folders
    codes, outputs, _ = ranks.outcome(
        PART, 2, MACHINES, folders=[everything] * 2, out=str(tmp_path / "run"), settings=SETTINGS, kill_at=3
    )
    assert codes == [6, -9], outputs
    codes, outputs, _ = ranks.outcome(
        PART, 2, MACHINES, folders=[zero, everything], out=str(tmp_path / "run"), go_on=True
    )
    assert codes == [4, 4]
    assert all("begun with all training images on every machine" in output for output in outputs)


def test_machines_that_cannot_share(ranks: Ranks, folders: list[str], tmp_path: Path) -> None:
    """Nothing is written."""
    zero, one, everything = folders
    none, recut = tmp_path / "none", tmp_path / "recut"
    shutil.copytree(everything, none)
    for path in none.glob("train-*.tar"):
        path.unlink()
    write_shards(Path(everything).parent / "photos", recut, size=40_000)
    open_data(recut, workers=0)
    next(iter(sorted(recut.glob("train-*.tar")))).unlink()
    cases: list[tuple[list[str], dict[str, Any], str]] = [
        ([zero, str(none)], {}, "no shard of train is on this machine"),
        ([zero, str(recut)], {}, "the same images in different shards"),
        (
            [zero, one],
            {"batch_size": 160},
            "has 40 training images to itself, and each gives 80 to a batch of 160",
        ),
    ]
    for places, settings, told in cases:
        codes, outputs, _ = ranks.outcome(
            PART, 2, MACHINES, folders=places, out=str(tmp_path / "run"), settings={**SETTINGS, **settings}
        )
        assert all(codes), outputs
        assert told in "".join(outputs), outputs
        assert not (tmp_path / "run").exists()


def test_evaluating_where_no_training_image_is(ranks: Ranks, folders: list[str], tmp_path: Path) -> None:
    begun(ranks, tmp_path / "run", folders[:2], settings=SETTINGS)
    bare = tmp_path / "bare"
    shutil.copytree(folders[2], bare)
    for path in bare.glob("train-*.tar"):
        path.unlink()
    run = api.Run.load(tmp_path / "run")
    assert api.evaluate(run, bare, "val").count == 16
    assert "need the images of the run" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(DataError, match="images of train are on other machines"):
        api.evaluate(run, bare, "train")


def test_what_no_machine_has(ranks: Ranks, folders: list[str], tmp_path: Path) -> None:
    codes, outputs, _ = ranks.outcome(PART, 2, MACHINES, folders=[folders[0]] * 2, out=str(tmp_path / "run"))
    assert codes == [3, 3]
    assert all("are on none of the 2 machines" in output for output in outputs)
    assert not (tmp_path / "run").exists()


def test_two_hosts_by_the_command(folders: list[str], tmp_path: Path, namespaces: Callable[[], None]) -> None:
    """Each has its half at the same path; the report is made, and says who read what."""
    namespaces()
    (tmp_path / "shards").mkdir()
    words = (
        f"train shards --model lenet5 --epochs 2 --batch-size 16 --out {tmp_path / 'run'} --accelerator cpu"
    )
    words += " --workers 0 --nodes 2 --rendezvous host-a:29400"
    own = f"case $(uname -n) in host-a) own={folders[0]};; *) own={folders[1]};; esac"
    place = f'{own}; mount --bind $own shards && exec "$@"'
    hosts = [*two_hosts.INSIDE, sys.executable, two_hosts.__file__, "sh", "-c", place, "sh"]
    subprocess.run(
        [*hosts, sys.executable, "-m", "convatlas", *words.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    logs = [(tmp_path / f"{name}.log").read_text() for name in two_hosts.HOSTS]
    told = "each machine reads its own shards of train: "
    assert sum(told in log for log in logs) == 1, logs
    assert "accuracy on val" in "".join(logs)
    assert told in (tmp_path / "run" / "report.html").read_text()
    assert len(decided(tmp_path / "run")["shares"]) == 2
