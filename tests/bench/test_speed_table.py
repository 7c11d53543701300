"""The table of training speed: cells that go on where they stopped, and a page that says what the result says."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas import api
from convatlas.bench.cell import Cell
from convatlas.bench.pool import Block
from convatlas.bench.race import Laps
from convatlas.bench.result import Result
from convatlas.cli.target import resolve
from convatlas.data import open_data
from convatlas.errors import ResourceError
from convatlas.measure.roof import KERNELS, Rate, Roof
from convatlas.measure.roofline import roofline
from convatlas.models import create_model
from convatlas.train import schedule
from convatlas.train.speed import Device, Speed, measurements, rule

ROOT = Path(__file__).parents[2]


def script(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file outside the package, with its folder on the path."""
    file = ROOT / path
    monkeypatch.syspath_prepend(str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """On a processor with bf16."""
    module = script("benchmarks/speed.py", monkeypatch)
    monkeypatch.setattr(module, "has_bf16", lambda: True)
    return module


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("docs/speed_results.py", monkeypatch)


ROOF = Roof(
    {kernel: Rate(1, 2e11, 1e11, 3e11, 5) for kernel in KERNELS},
    {"processor": "abacus", "cores": 2, "threads": 2, "memory_bytes": 2**34},
    {"torch": "2"},
    "2026-11-21T00:00:00+00:00",
)


def result(
    rates: Mapping[str, float], *, busy: bool = False, peaks: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """A result of canned rates, as `convatlas bench --json` writes it."""
    cell = Cell("resnet20_cifar", (3, 32, 32), 10, 16, True)
    others = 1.0 if busy else 0.0
    blocks = {
        side: [Block(1.0, 1, rate, others, None, (peaks or {}).get(side, 2**30))]  # pyright: ignore[reportArgumentType]
        for side, rate in rates.items()
    }
    facts = {side: {"precision": "fp32", "layout": "NCHW"} for side in rates}
    bound = roofline(resolve("resnet20_cifar").model, ROOF, (3, 32, 32), batch=16, train=True)
    return json.loads(json.dumps(Result(cell, Laps(blocks, facts), ROOF, bound).to_json()))


def options(folder: Path, **given: Any) -> argparse.Namespace:
    usual = {"data": folder, "only": "*", "list": False, "again": False, "seconds": 1.0, "rounds": 1}
    usual |= {"since": ""}
    return argparse.Namespace(**{**usual, "cells": folder / "cells.jsonl", "results": folder, **given})


RATES = {"convatlas": 30.0, "torchvision": 10.0, "timm": 12.0, "lightning": 7.5}


def test_a_second_call_goes_on(speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [cell.name for cell in speed.cells()]
    assert len(names) == len(set(names)) == 8 * 2 * 2 + 1
    ran: list[str] = []
    fate = {names[1]: "kill", names[2]: "busy", names[3]: "fail"}

    def run(cell: Any, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
        ran.append(cell.name)
        what = fate.pop(cell.name, "")
        if what == "kill":
            raise KeyboardInterrupt
        record = {"cell": cell.name, "command": "", "seconds": 1.0}
        return record | (
            {"failure": "exit code 6"} if what == "fail" else {"result": result(RATES, busy=what == "busy")}
        )

    monkeypatch.setattr(speed, "run", run)
    with pytest.raises(KeyboardInterrupt):
        speed.main(options(tmp_path))
    assert ran == names[:2]
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"cell": "' + names[1])  # a line that was cut off
    ran.clear()
    assert speed.main(options(tmp_path)) == 1
    assert ran == names[1:]
    assert not list(tmp_path.glob("speed-*.json"))
    ran.clear()
    assert speed.main(options(tmp_path)) == 0
    assert ran == names[2:4]  # the busy one and the one that failed
    ran.clear()
    assert speed.main(options(tmp_path, only=names[5], again=True)) == 0
    assert ran == [names[5]]
    written = json.loads(next(tmp_path.glob("speed-*.json")).read_text())
    assert [cell["cell"] for cell in written["cells"]] == names
    assert all(cell["result"]["quiet"] for cell in written["cells"])


def test_patterns_choose_cells(speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(options(tmp_path, only="vgg16/*/amp", list=True)) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["vgg16/synthetic/amp", "vgg16/photos/amp"]
    with pytest.raises(SystemExit, match="no cell is called"):
        speed.main(options(tmp_path, only="vgg61/*"))
    with pytest.raises(SystemExit, match="is no folder"):
        speed.main(options(tmp_path, data=tmp_path / "nowhere"))
    assert speed.main(options(tmp_path, only="vgg16/photos/*", data=None)) == 0
    assert "vgg16/photos/amp: real pictures need --data DATA" in capsys.readouterr().out


def test_a_cell_is_a_command_that_works(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "NETWORKS", {"resnet20_cifar": (32, 2, "cifar10")})
    monkeypatch.setattr(speed, "PEERS", ("torchvision",))
    names = [cell.name for cell in speed.cells()]
    assert names[:2] == ["resnet20_cifar/synthetic/default", "resnet20_cifar/synthetic/amp"]
    speed.main(options(tmp_path, only=names[1], seconds=0.3))
    record = speed.read(tmp_path / "cells.jsonl")[names[1]]
    told = record["result"]
    assert told["cell"]["peer_amp"]
    assert told["sides"].keys() == {"convatlas", "torchvision"}
    assert str(tmp_path) not in json.dumps(record)  # nothing says where things lay
    assert speed.done(record) == told["quiet"]


def test_a_cell_that_fails_or_hangs_is_told(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "NETWORKS", {"no_such_network": (32, 2, "cifar10")})
    cell = next(speed.cells())
    record = speed.run(cell, tmp_path, 1.0, 1)
    assert record["failure"] == "exit code 2"
    assert not speed.done(record)
    assert "exit code 2" in speed.line(record)
    monkeypatch.setattr(speed, "LIMIT", 0.01)
    assert speed.run(cell, tmp_path, 1.0, 1)["failure"] == "it took more than 0.01 s"


def test_photographs_are_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = script("benchmarks/photos.py", monkeypatch)
    random = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        for number in range(3):
            pixels = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
            with archive.open(f"JPEGImages/p{number}.jpg", "w") as file:
                Image.fromarray(pixels).save(file, "jpeg")
            things = "<object><name>RBC</name></object>" * number + "<object><name>WBC</name></object>" * 3
            archive.writestr(f"Annotations/p{number}.xml", f"<annotation>{things}</annotation>")
    folders = [photos.photos(tmp_path / "cells.zip", tmp_path / name, each=2) for name in "ab"]
    written = [sorted(path.relative_to(folder) for path in folder.rglob("*.jpg")) for folder in folders]
    assert written[0] == written[1]
    assert [str(path) for path in written[0]] == [
        *("few/p0-0.jpg", "few/p0-1.jpg", "few/p1-0.jpg", "few/p1-1.jpg", "many/p2-0.jpg", "many/p2-1.jpg")
    ]
    for path in written[0]:
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes()
        with Image.open(folders[0] / path) as picture:
            assert picture.size == (500, 375)
    (folders[0] / "few" / "p0-0.jpg").unlink()
    photos.photos(tmp_path / "cells.zip", tmp_path / "a", each=2)
    assert not (folders[0] / "few" / "p0-0.jpg").exists()  # a whole folder is left as it is


def test_the_standard_network_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loops train the same function: the weights go over by their order."""
    theirs = script("benchmarks/epochs.py", monkeypatch).standard().eval()
    mine = create_model("resnet18", num_classes=10, stem="3x3").eval()
    weights = theirs.state_dict()
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 11_173_962
    assert [value.shape for value in mine.state_dict().values()] == [
        value.shape for value in weights.values()
    ]
    mine.load_state_dict(dict(zip(mine.state_dict(), weights.values(), strict=True)))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine(images), theirs(images))


class Alternating:
    """A side that answers at once, and writes down that it was asked."""

    def __init__(self, name: str, asked: list[str], done: int = 0) -> None:
        self.name, self.asked, self.facts = name, asked, {"done": done}

    def turn(self, wish: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        self.asked.append(self.name)
        return {"seconds": 2.0, "images": 10, "val": len(self.asked) / 10, "peak_bytes": None}, 0.0


@pytest.fixture
def epochs_of(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    epochs = script("benchmarks/epochs.py", monkeypatch)
    monkeypatch.setattr(epochs, "beside", lambda: {"ceiling_macs_per_second": {"conv bf16": 5e11}})
    return epochs


def test_epochs_are_trained_in_turn(epochs_of: ModuleType) -> None:
    """An epoch of torchvision's is cut in two, so that no part takes more than some minutes."""
    asked: list[str] = []
    sides = {name: Alternating(name, asked) for name in epochs_of.SIDES}
    records = list(epochs_of.turns(sides, 2))
    assert asked == ["ours", "torchvision", "torchvision", "torchvision", "torchvision", "ours"]
    assert [record["part"] for record in records] == [1, 1, 2, 3, 4, 2]
    assert all(record["ceiling_macs_per_second"] == {"conv bf16": 5e11} for record in records)
    whole = epochs_of.whole(records)
    assert [
        (each["side"], each["epoch"], each["seconds"], each["images"], each["val"]) for each in whole
    ] == [
        ("ours", 1, 2.0, 10, 0.1),
        ("torchvision", 1, 4.0, 20, 0.3),
        ("torchvision", 2, 4.0, 20, 0.5),
        ("ours", 2, 2.0, 10, 0.6),
    ]


def test_epochs_go_on_where_each_side_was(epochs_of: ModuleType) -> None:
    """Ours was stopped before its second epoch was on the disk, torchvision in its second one."""
    asked: list[str] = []
    sides = {"ours": Alternating("ours", asked, 1), "torchvision": Alternating("torchvision", asked, 3)}
    before = [{"side": "ours", "part": 1, "seconds": 3.0}]
    before += [{"side": "torchvision", "part": part, "seconds": 3.0} for part in (1, 2, 3)]
    assert epochs_of.counted(before, sides) == before
    assert [record["part"] for record in epochs_of.turns(sides, 3)] == [4, 2, 3, 5, 6]
    assert asked == ["torchvision", "ours", "ours", "torchvision", "torchvision"]
    with pytest.raises(SystemExit, match="torchvision was killed between its checkpoint and its line"):
        epochs_of.counted(before[:3], sides)


# --- the page -------------------------------------------------------------------------------------------


def report(speed: ModuleType) -> dict[str, Any]:
    """Every cell: on noise three times the fastest peer, on pictures a third more than that; amp 1.5 times."""
    cells: list[dict[str, Any]] = []
    for cell in speed.cells():
        real = 1.0 if cell.data == "synthetic" else 4 / 3
        ours = (36.0 if cell.peers == "default" else 18.0) * real
        peaks = {"convatlas": 3 * 2**29, "torchvision": 2**31}
        rates = {**RATES, "convatlas": ours}
        cells.append({"cell": cell.name, "result": result(rates, peaks=peaks)})
    return {"date": "2026-11-21", "machine": ROOF.machine, "versions": ROOF.versions, "cells": cells}


def test_tables_by_hand(speed: ModuleType, page: ModuleType) -> None:
    told = report(speed)
    found = page.cells(told)
    assert page.mean_ratio(found, "default", "synthetic") == pytest.approx(3.0)
    assert page.mean_ratio(found, "default", "real") == pytest.approx(4.0)
    assert page.mean_ratio(found, "default") == pytest.approx(12**0.5)
    assert page.mean_ratio(found, "amp", "synthetic") == pytest.approx(1.5)
    lines = page.speed(found, "default").splitlines()
    assert len(lines) == 2 + 16 + 2
    assert lines[2].startswith(
        "| `lenet5` | synthetic, batch 16 | 36 | 3.60 (3.60 to 3.60) | **3.00 (3.00 to 3.00)**"
    )
    assert lines[-1].endswith("fastest peer (bold): 3.00 on noise, 4.00 on real pictures, 3.46 on both.")
    assert "| `resnet50` | batch 16 | 1,536 | 2,048 | 1,024 | 1,024 | 0.75 |" in page.memory(found)
    assert "abacus, 2 cores, 2 threads, 16 GiB; 2026-11-21." in page.machine(told)
    assert "| conv bf16 | G multiply-adds/s | 200 | 200 |" in page.machine(told)


ACCURACY = {
    "date": "2026-11-21",
    "runs": [
        {"cell": "ours/10/0", "val": 0.9012, "val_images": 5000},
        {"cell": "torchvision/10/0", "val": 0.9, "val_images": 5000},
    ],
    "mean": {"ours": 0.9012, "torchvision": 0.9},
    "deviation": {"ours": 0.001, "torchvision": 0.002},
    "difference_points": 0.12,
}


def test_accuracies_are_told(page: ModuleType) -> None:
    told = page.accuracy(ACCURACY)
    assert "| ours | 10 epochs, seed 0 | 90.12 | 5,000 |" in told
    assert (
        "ours 90.12 % (deviation 0.10), torchvision 90.00 % (deviation 0.20); ours less torchvision's +0.12"
        in told
    )


def cifar(folder: Path, images: int = 160) -> Path:
    """Pictures as CIFAR-10's archive has them."""
    random, path = np.random.default_rng(0), folder / "cifar10.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in range(images):
            with archive.open(f"train/{image % 10}/{image}.png", "w") as file:
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
    return path


@pytest.mark.parametrize(("number", "stop"), [(2, 4), (3, 8)])
def test_both_loops_train_epochs_in_processes_of_their_own(
    number: int,
    stop: int,
    tmp_path: Path,
    epochs_of: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also when they are stopped within an epoch, or as one side has all of them behind it."""
    cifar(tmp_path, 320)
    epochs = epochs_of
    chosen = argparse.Namespace(
        data=tmp_path, epochs=number, seed=0, limit=280, results=tmp_path, kept=tmp_path / "kept", again=False
    )
    turns = epochs.turns

    def stopped(sides: Mapping[str, Any], _: int) -> Iterator[dict[str, Any]]:
        yield from itertools.islice(turns(sides, number), stop)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "turns", stopped)
        with pytest.raises(KeyboardInterrupt):
            epochs.main(chosen)
    epochs.main(chosen)
    *records, told = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [(record["side"], record["part"]) for record in records] == [
        ("ours", 1),
        ("torchvision", 1),
        ("torchvision", 2),
        ("torchvision", 3),
        ("torchvision", 4),
        ("ours", 2),
        ("ours", 3),
        ("torchvision", 5),
        ("torchvision", 6),
    ][: 3 * number]
    sides = ["ours", "torchvision", "torchvision", "ours", "ours", "torchvision"]
    assert [each["side"] for each in told["epochs"]] == sides[: 2 * number]
    assert all(each["images"] == 256 and 0 <= each["val"] < 1 for each in told["epochs"])
    assert told["facts"]["torchvision"]["precision"] == "fp32"
    assert (told["train_images"], told["val_images"]) == (280, 30)
    assert not list(tmp_path.glob("*.json"))  # so few images are no measurement
    assert not list((tmp_path / "kept").iterdir())  # nothing is left unfinished


def test_a_training_for_accuracy_goes_on_by_cells(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs a cell, and it ends as a training that nobody stopped."""
    accuracy = script("benchmarks/accuracy.py", monkeypatch)
    told = argparse.Namespace(
        data=tmp_path, only="*/2", list=False, again=False, since="", cells=tmp_path / "cells.jsonl",
        results=tmp_path, epochs=3, seeds=1, kept=tmp_path / "kept",
    )  # fmt: skip
    with pytest.raises(SystemExit, match="CIFAR-10 is needed"):
        accuracy.main(argparse.Namespace(**{**vars(told), "data": None}))
    data = accuracy.images(cifar(tmp_path, 160))
    assert accuracy.main(told) == 0
    assert list(record.read(told.cells)) == ["ours/3/0/2", "torchvision/3/0/2"]
    assert not list(tmp_path.glob("*.json"))
    told.only = "*"
    assert accuracy.main(told) == 0
    (file,) = tmp_path.glob("accuracy-*.json")
    report = json.loads(file.read_text())
    whole = {side: accuracy.Epochs(side, 3, 0, 3, None, tmp_path) for side in accuracy.SIDES}
    assert [(run["cell"], run["val"]) for run in report["runs"]] == [
        (cell.run_name, cell.trained(data, tmp_path / side)) for side, cell in whole.items()
    ]
    assert report["runs"][0]["val_images"] == len(data.val) > 0
    assert len(report["cells"]) == 4
    assert not list(told.kept.iterdir())


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_both_loops_have_the_same_rate(warmup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    loops = script("benchmarks/loops.py", monkeypatch)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=loops.LR)
    theirs = loops.schedule(optimiser, 50, warmup)
    mine = schedule.warmed_up(schedule.cosine(), warmup, loops.WARMUP_START)
    for step in range(50):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(loops.LR * mine(step / 50), abs=1e-12)
        optimiser.step()
        theirs.step()


EPOCHS = {
    "date": "2026-11-21",
    "train_images": 45_000,
    "val_images": 5_000,
    "facts": {
        "ours": {"precision": "bf16 autocast", "layout": "channels-last"},
        "torchvision": {"precision": "fp32", "layout": "NCHW"},
    },
    "epochs": [
        {"side": "ours", "seconds": 180.0, "images": 45_000, "val": 0.5, "others": 0.01},
        {"side": "torchvision", "seconds": 450.0, "images": 45_000, "val": 0.45, "others": 0.0},
        {"side": "ours", "seconds": 180.0, "images": 45_000, "val": 0.6, "others": 0.0},
        {"side": "torchvision", "seconds": 450.0, "images": 45_000, "val": 0.65, "others": 0.0},
    ],
    "ceiling_macs_per_second": [{"conv bf16": 5e11}, {"conv bf16": 5.1e11}],
}


def test_epochs_are_told(page: ModuleType) -> None:
    told = page.epochs(EPOCHS)
    assert "| ours | bf16 autocast, channels-last | 180, 180 | 50.00, 60.00 | 250 | 100 |" in told
    assert "| torchvision | fp32, NCHW | 450, 450 | 45.00, 65.00 | 100 | 250 |" in told
    assert "min for 30 epochs of 50,000 (extrapolated)" in told
    assert "500 to 510 G multiply-adds/s, and others never took more than 0.01 core" in told


WAITING = {
    "date": "2026-11-21",
    "command": "convatlas train PHOTOS",
    "epochs": [{"epoch": 1, "seconds": 30.04, "images_per_second": 58.21, "waiting_share": 0.0384}],
}
STARTUP = {
    "date": "2026-11-21",
    "seconds": {"convatlas --help": {"median": 0.114, "fastest": 0.1, "processor": 0.096, "runs": 5}},
}


def test_waiting_and_start_up_are_told(page: ModuleType) -> None:
    assert "| epoch 1 | 30.0 | 58.21 | 3.8% |" in page.waiting(WAITING)
    assert "| `convatlas --help` | 5 runs | 0.11 | 0.10 | 0.10 |" in page.startup(STARTUP)


def figure(median: float, slowest: float, fastest: float) -> dict[str, float]:
    return {"median": median, "slowest": slowest, "fastest": fastest}


def fed(rate: float, ratio: float) -> dict[str, Any]:
    return {
        "per_processor_second": figure(rate, rate - 10, rate + 10),
        "ratio": figure(ratio, 1.2, 2.0),
        "ratio_by_clock": figure(ratio - 0.1, 1.0, 2.0),
    }


FEEDING = {
    "date": "2026-11-21",
    "machine": {"cores": 2},
    "pictures 500x375": {"bytes_per_image": 46_178},
    "pictures 2000x1500": {"bytes_per_image": 313_190},
    "training 500x375": {
        name: fed(rate, rate / 500) for name, rate in (("ours", 900.0), ("ours, Pillow alone", 750.0))
    },
    "evaluation 500x375": {"ours": fed(600.0, 1.25)},
    "training 2000x1500": {"ours": fed(300.0, 3.75)},
}


def setting(way: str, rates: list[float], **more: Any) -> dict[str, Any]:
    return {"network": "resnet18", "pixels": 224, "batch": 16, "way": way, "images_per_second": rates, **more}


def way(precision: str, last: bool, *turns: float, **more: Any) -> dict[str, Any]:
    return {"precision": precision, "channels_last": last, "turns": list(turns), **more}


def memory(**kinds: tuple[int, list[float]]) -> dict[str, Any]:
    return {
        "kinds": [{"memory": kind, "turns": turns} for kind, (_, turns) in kinds.items()],
        "peak": {kind: [0, mib * 2**20, 2**60] for kind, (mib, _) in kinds.items()},
    }


WHEN = {"measured": "2026-11-21T08:00:00+00:00", "others": 0.0, "torch": "2", "processor": "abacus"}
WHEN |= {"ceiling_macs_per_second": {"conv bf16": 5e11}, "seconds": 1.0}
RULE = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "versions": {"torch": "2.14.1+cu130"},
    "bf16": True,
    "rows": [
        {
            "network": "lenet5", "pixels": 32, "batch": 32, "macs": 416520, "depthwise": False, "cells": {"ways": WHEN},
            "ways": [
                way("32", True, 70.0, 90.0, 80.0), way("32", True, 50.0, threads=1), way("32", False, 40.0),
                way("bf16", True, 60.0), way("bf16", True, 55.0, threads=1), way("bf16", True, 200.0, compile=True),
            ],
        },
        {
            "network": "mobilenet_v2", "pixels": 224, "batch": 16, "macs": 300774272, "depthwise": True,
            "cells": {"ways": WHEN},
            "ways": [
                way("32", True, 50.0), way("bf16", True, 40.0), way("bf16", True, 80.0, float32="slow"),
                way("bf16", True, 90.0, float32="all", problem="its loss is 7, in float32 2"),
                {"precision": "bf16", "channels_last": False, "problem": "RuntimeError: no"},
            ],
            **memory(usual=(400, [50.0]), kept=(500, [60.0, 70.0]), trimmed=(450, [64.5])),
        },
    ],
    "depthwise": [
        {"kernel": 3, "strided": False, "bf16_over_float32": 0.59},
        {"kernel": 3, "strided": True, "bf16_over_float32": 4.7},
    ],
    "winograd": [{"channels": 64, "filters": 64, "side": 56, "batch": 16, "winograd_over_direct": 1.2}],
    "updates": [
        {"network": "lenet5", "parameters": 60_000, "fused_over_plain": 0.5},
        {"network": "mobilenet_v2", "parameters": 3_504_872, "fused_over_plain": 1.04},
    ],
}  # fmt: skip
RULE_WITHOUT = {
    **{name: value for name, value in RULE.items() if name != "depthwise"},
    "bf16": False,
    "rows": [
        {
            "network": "resnet18", "pixels": 224, "batch": 16, "macs": 1814073344, "depthwise": False,
            "cells": {"ways": WHEN},
            "ways": [way("32", True, 12.0), way("32", False, 10.0), way("32", True, 20.0, winograd=True)],
        },
    ],
    "winograd": [{"channels": 64, "filters": 64, "side": 56, "batch": 16, "winograd_over_direct": 0.7}],
}  # fmt: skip
SETTINGS = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "waiting": [
        setting("spins", [61.0, 59.0], beside="idle"),
        setting("none", [62.0, 62.0], beside="idle"),
        setting("spins", [20.0, 10.0], beside="busy"),
        setting("none", [40.0, 30.0], beside="busy"),
    ],
}
KERNELS = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "rows": [
        {
            "network": "speedrun_cifar", "batch": 500, "pixels": 25, "ratio": 1.098,
            "ms_with": {"median": 295.7}, "ms_without": {"median": 324.7},
        }
    ],
}  # fmt: skip


AUGMENT = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "rows": [{"case": "32 px, TrivialAugment", "ours": 76_868, "torchvision": 9_450, "ratio": 8.1}],
}
DUPLICATES = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "sources": {
        "CIFAR-10": {
            "width": 32, "height": 32, "found": {"JPEG 95": 1.0, "JPEG 75": 0.8304}, "pictures": 60_000,
            "taken_for_the_same": 23,
        }
    },
}  # fmt: skip
REPORTS = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "runs": 5,
    "medians": {
        "vgg16": {
            "convatlas": {"seconds": 0.0091, "extra_mib": 3.2},
            "fvcore": {"seconds": 0.272, "extra_mib": 96.9},
        }
    },
    "canon": {"networks": 197.0, "seconds": 18.61},
}


CUT = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "per_seed": {"fast": [99.0, 98.0], "exact": [99.5, 98.5]},
    "difference_mean": -0.5,
    "difference_standard_error": 0.0,
}


def run_of(recipe: str, seed: int, seconds: float, flop: float, **reached: float) -> dict[str, Any]:
    return {
        "recipe": recipe, "seed": seed, "training_seconds": seconds, "training_flop": flop,
        "ceiling_bf16_flop_per_second": [1.03e12, 1.03e12], "when": "2026-11-21T08:00:00+00:00", **reached,
    }  # fmt: skip


def both(one: float, six: float) -> dict[str, float]:
    return {"test_top1_pct_one": one, "test_top1_pct_shift": six}


SPEEDRUN = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "runs": [
        run_of("speedrun", 1, 999.0, 2e14, **both(90.0, 91.0)),  # another form
        run_of("speedrun-2024", 1, 999.0, 3e14),
        run_of("speedrun", 5, 280.0, 1e14, **both(93.0, 94.0)),
        run_of("speedrun", 6, 290.0, 1e14, **both(93.2, 94.2)),
        run_of("speedrun-2024", 6, 390.0, 3e14),
    ],
}
TRANSFER = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "source": {"images": "cifar10.zip", "val": 0.7, "epochs": 6},
    "settings": {"epochs": 10},
    "runs": [
        {"seed": 0, "scratch": {"test": 0.9, "test_images": 240}, "transferred": {"test": 0.95, "test_images": 240}},
        {"seed": 1, "scratch": {"test": 0.8, "test_images": 240}, "transferred": {"test": 0.95, "test_images": 240}},
    ],
    "mean": {"scratch": 0.85, "transferred": 0.95},
    "gain": {"mean": 0.1},
}  # fmt: skip


def test_what_test_images_said_is_told(page: ModuleType) -> None:
    told = page.speedrun(SPEEDRUN)
    assert "| `speedrun` | 6 | 290 | 1.03e12 and 1.03e12 | 290 | 93.20 % | 94.20 % |" in told
    assert "| `speedrun-2024` | 6 | 390 | 1.03e12 and 1.03e12 | 390 |  |  |" in told
    assert "| mean of `speedrun` |  | 285 |  | 285 | 93.10, deviation 0.14 | 94.10, deviation 0.14 |" in told
    assert "999" not in told
    told = page.transfer(TRANSFER)
    assert "| scratch | 90.0 | 80.0 | 85.0 |" in told
    assert "| cifar10 | 95.0 | 95.0 | 95.0 |" in told
    assert "gain 10.0 points in the mean (5.0 to 15.0)" in told
    told = page.feeding_accuracy(CUT)
    assert "| exact | 99.50 | 98.50 | 99.00 |" in told
    assert "-0.50 points in the mean, with a standard error of 0.00" in told


def test_feeding_is_told(page: ModuleType) -> None:
    told = page.feeding(FEEDING)
    row = "| 500x375, 46 kB each, training | 900 (890-910) | 750 (740-760) |  |  |  | **1.80** (1.20-2.00) |"
    assert row in told
    assert "By the clock the ratios are 1.70, 1.15, 3.65." in told
    assert "the first ratio is 1.50 (1.20-2.00). 2 cores, 2026-11-21." in told


def test_settings_are_told(page: ModuleType) -> None:
    told = page.spins(SETTINGS)
    assert "|  | `resnet18`, batches of 16 | `resnet18`, batches of 16, busy |" in told
    assert "| spins | 60 | 10, 20 |" in told
    assert "| none | 62 | 30, 40 |" in told
    assert "abacus, 2 cores, 2026-11-21." in told
    assert "| 25 px | 296 | 325 | 1.10 |" in page.kernels(KERNELS)


def test_augmentation_and_reports_are_told(page: ModuleType) -> None:
    assert "| 32 px, TrivialAugment | 76,868 | 9,450 | 8.1 |" in page.augment(AUGMENT)
    row = "| CIFAR-10, 32x32 | JPEG 95 100%, JPEG 75 83% | 23 pairs of 60,000 pictures |"
    assert row in page.duplicates(DUPLICATES)
    told = page.reports(REPORTS)
    assert "| `vgg16` | 0.009 s, 3 MiB | 0.272 s, 97 MiB |" in told
    assert "Medians of 5 runs in turn. All 197 networks of the canon, built without content" in told


def test_the_rule_is_told(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told = page.rule(RULE)
    assert "| `lenet5`, 32, 32 | 40 | **80** |  | 60 |  |  | 200 |" in told
    assert "| `mobilenet_v2`, 224, 16 |  | 50 |  | 40 | **80** |" in told
    assert page.threads(RULE).splitlines()[2:3] == ["| `lenet5`, 32, 32 | 80 | 50 | 60 | 55 |"]
    assert "| `mobilenet_v2`, 224, 16 | 50 | 65 | 64.5 | 1.30 | 400 | 500 | 450 |" in page.kept(RULE)
    assert "| 3x3 | 0.59 | 4.70 |" in page.depthwise(RULE)
    assert "| 64 to 64 | 56x56, 16 | 0.70 |" in page.winograd(RULE_WITHOUT)
    plain = page.rule(RULE_WITHOUT)
    assert "| network, px, batch | float32 | float32 cl | float32 cl, Winograd |" in plain
    assert "| `resnet18`, 224, 16 | 10 | 12 | **20** |" in plain
    assert "| `mobilenet_v2` | 3.5 M | 1.04 |" in page.updates(RULE)
    known = [
        {**row, "date": "2026-11-20", "measured": [{**way("32", True), "images_per_second": 1}]}
        for row in RULE["rows"]
    ]
    monkeypatch.setattr(page, "measurements", lambda _: {"rows": known})
    assert "figures of 2026-11-20. By them 1 of these 2 rows are computed as was best here" in page.rule(RULE)


def test_the_pages_are_filled_and_checked(
    speed: ModuleType, page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [file.read_text() for file in page.PAGES]
    marks = [match[2] for text in texts for match in page.BLOCK.finditer(text)]
    assert sorted(marks) == sorted(page.TABLES)
    assert all("<!--" not in page.BLOCK.sub("", text) for text in texts)  # every mark is one that is filled
    reports = {"speed": report(speed), "accuracy": ACCURACY, "epochs": EPOCHS}
    reports |= {"waiting": WAITING, "startup": STARTUP, "feeding": FEEDING, "settings": SETTINGS}
    reports |= {"rule": RULE, "kernels": KERNELS, "augment": AUGMENT, "inspection": REPORTS}
    reports |= {"duplicates": DUPLICATES, "feeding-accuracy": CUT, "speedrun-test": SPEEDRUN}
    reports |= {f"transfer-{target}": TRANSFER for target in ("blood", "streets")}
    reports |= {"rule-without-bf16": RULE_WITHOUT, "speed-without-bf16": report(speed)}
    monkeypatch.setattr(page, "newest", lambda what: reports[what])
    files = [tmp_path / file.name for file in page.PAGES]
    monkeypatch.setattr(page, "PAGES", files)
    for file, text in zip(files, texts, strict=True):
        file.write_text(page.filled(text, dict.fromkeys(reports)))
    assert page.main(check=True) == 1
    assert page.main(check=False) == 0
    assert page.main(check=True) == 0
    for file in files:
        whole = file.read_text()
        assert "Not measured yet" not in whole
        file.write_text(whole.replace("abacus", "quipu").replace("1.80", "1.81"))
        assert page.main(check=True) == 1
        file.write_text(whole)


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("benchmarks/every.py", monkeypatch)


def test_every_table_has_a_file_that_measures_it(page: ModuleType, every: ModuleType) -> None:
    assert {"speed", *(name.removesuffix(page.PLAIN) for name in page.OF.values())} == every.FILES.keys()
    assert all(Path(every.words(name)[0]).is_file() for name in every.FILES)
    assert set(every.BY_CELLS) <= every.FILES.keys()


def test_what_is_measured_is_not_measured_again(
    every: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def call(words: list[str], env: Mapping[str, str]) -> int:
        ran.append(" ".join([Path(words[1]).stem, *words[2:]]))
        assert env["CONVATLAS_DATA"] == str(tmp_path)
        return int(ran[-1] == "epochs")

    def told(**given: Any) -> argparse.Namespace:
        usual = {"only": "*", "data": tmp_path, "again": False, "list": False, "since": ""}
        return argparse.Namespace(**{**usual, **given})

    monkeypatch.setattr(every.subprocess, "call", call)
    for name, since in (("speed", "2026-11-21"), ("feeding", "2026-11-21"), ("startup", "2026-11-20")):
        result = {"date": "2026-11-21", "since": since}  # a part of start-up is a day older
        (tmp_path / f"{name}-2026-11-21.json").write_text(json.dumps(result))
    monkeypatch.setattr(every, "results", lambda name: list(tmp_path.glob(f"{name}-*.json")))
    assert every.main(told()) == 1
    commands = [every.words(name) for name in every.FILES if name not in ("feeding", "startup")]
    assert ran == [" ".join([Path(file).stem, *words]) for file, *words in commands]
    assert "not done: epochs" in capsys.readouterr().out
    ran.clear()
    assert every.main(told(only="[fs]*", again=True)) == 0
    trainings = ["feeding_accuracy --again", "speedrun_test --again"]
    assert ran == ["speed --again", "startup", "settings --again", "feeding", *trainings]
    ran.clear()
    assert every.main(told(only="[fs]*", since="2026-11-21")) == 0
    trainings = [f"{name} --since 2026-11-21" for name in ("feeding_accuracy", "speedrun_test")]
    assert ran == ["speed --since 2026-11-21", "startup", "settings --since 2026-11-21", *trainings]
    ran.clear()
    assert every.main(told(only="feeding", since="2026-11-22")) == 0
    assert ran == ["feeding"]
    ran.clear()
    assert every.main(told(only="feeding", data=None, again=True)) == 0
    assert not ran
    assert "feeding: real pictures need --data DATA" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no file is called 'fedding'"):
        every.main(told(only="fedding"))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Cells are measured on an abacus, at a time that can be set, and nobody disturbs them."""
    module = script("benchmarks/record.py", monkeypatch)
    monkeypatch.setattr(module, "here", lambda: {"torch": "2", "processor": "abacus"})
    monkeypatch.setattr(module, "observed", lambda work: {**WHEN, **work()})
    monkeypatch.setattr(module, "has_bf16", lambda: True)
    return module


@pytest.fixture
def rule_of(record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """On a processor with bf16."""
    module = script("benchmarks/rule.py", monkeypatch)
    monkeypatch.setattr(module, "has_bf16", lambda: True)
    return module


def test_the_rule_is_measured_cell_by_cell(
    rule_of: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trials themselves are those of `--tune full`, and tested there."""
    asked: list[tuple[str, int, list[Speed]]] = []

    def rates(name: str, batch: int, tried: list[Speed]) -> list[dict[str, Any]]:
        assert os.environ["GOMP_SPINCOUNT"] == "10000"
        asked.append((name, batch, tried))
        return [{"turns": [2.0, 6.0 + number, 90.0]} for number in range(len(tried))]

    monkeypatch.setattr(rule_of, "NETWORKS", {"lenet5": (32, 256, ""), "mobilenet_v2": (224, 16, "")})
    monkeypatch.setattr(rule_of, "rates", rates)
    monkeypatch.setattr(rule_of, "peak", lambda name, batch, speed: len(speed.memory))
    monkeypatch.setattr(rule_of.Alone, "run", lambda cell, _: {cell.name: RULE[cell.name]})
    wish: dict[str, Any] = {"cells": tmp_path / "cells.jsonl", "results": tmp_path}
    assert rule_of.main(options(tmp_path, **wish, only="*lenet5*")) == 0
    assert [(name, batch, len(tried)) for name, batch, tried in asked] == [
        ("lenet5", 32, 6),
        ("lenet5", 256, 6),
    ]
    assert "6 of 8 cells are missing" in capsys.readouterr().out
    assert rule_of.main(options(tmp_path, **wish)) == 0
    (_, _, ways), (_, _, kinds) = asked[2:]
    assert [len(speed.float32) for speed in ways] == [0, 0, 0, 0, 4, 17]  # strided ones, all of them
    assert [speed.memory for speed in kinds] == ["usual", "kept", "trimmed"]
    assert all(len(speed.float32) == 17 for speed in kinds)  # the best way as it has just been measured
    told = json.loads((tmp_path / "rule-2026-11-21.json").read_text())
    assert [row["batch"] for row in told["rows"]] == [32, 256, 16]
    assert told["rows"][2]["macs"] == 300774272
    assert told["rows"][2]["kinds"][1] == {"memory": "kept", "turns": [2.0, 7.0, 90.0]}
    assert told["rows"][2]["peak"] == {"usual": [5, 5, 5], "kept": [4, 4, 4], "trimmed": [7, 7, 7]}
    assert told["rows"][2]["cells"]["kinds"]["speed"].startswith("bf16 with 17 layers in float32")
    assert (told["since"], told["date"]) == ("2026-11-21", "2026-11-21")
    assert rule_of.main(options(tmp_path, **wish)) == 0
    assert len(asked) == 4  # nothing was missing
    capsys.readouterr()
    assert rule_of.main(options(tmp_path, **wish, only="mobilenet_v2/16/ways", since="2026-11-22")) == 0
    assert len(asked) == 5
    assert "8 of 8 cells are missing" in capsys.readouterr().out  # the clock has stood still
    with pytest.raises(SystemExit, match="no cell is called"):
        rule_of.main(options(tmp_path, **wish, only="lenet6/*"))


def test_a_cell_that_fails_costs_no_other(
    rule_of: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = rule_of.sys.modules["record"].observed

    def observed(work: Any) -> dict[str, Any]:
        try:
            return failed(work)
        except RuntimeError as error:
            return {**WHEN, "failure": str(error)}

    def rates(name: str, *_: Any) -> list[dict[str, Any]]:
        raise RuntimeError(f"no memory for {name}")

    monkeypatch.setattr(rule_of.sys.modules["record"], "observed", observed)
    monkeypatch.setattr(rule_of, "NETWORKS", {"lenet5": (32, 256, ""), "mobilenet_v2": (224, 16, "")})
    monkeypatch.setattr(rule_of, "peak", lambda *_: 1)
    monkeypatch.setattr(rule_of, "rates", rates)
    monkeypatch.setattr(rule_of.Alone, "run", lambda cell, _: {cell.name: RULE[cell.name]})
    elsewhere = {"cell": "depthwise", "failure": "no memory", **WHEN}  # is no figure for the cells behind it
    (tmp_path / "cells.jsonl").write_text(json.dumps(elsewhere) + "\n")
    assert rule_of.main(options(tmp_path, cells=tmp_path / "cells.jsonl", only="mobilenet_v2/*/ways")) == 0
    assert capsys.readouterr().out.count("no memory for mobilenet_v2") == 1
    assert rule_of.main(options(tmp_path, cells=tmp_path / "cells.jsonl")) == 1
    out = capsys.readouterr().out
    assert out.count("no memory for lenet5; 1.0 s, others took 0.00 core; it will be measured again") == 2
    assert "mobilenet_v2/16/peak: usual 0 MiB, kept 0 MiB, trimmed 0 MiB" in out
    assert "4 of 8 cells are missing." in out


def test_without_bf16_nothing_is_measured_in_it(
    rule_of: ModuleType,
    speed: ModuleType,
    record: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what was measured is kept apart."""
    for module in (rule_of, speed, record):
        monkeypatch.setattr(module, "has_bf16", lambda: False)
    assert len(list(speed.cells())) == 8 * 2 + 1
    asked: list[list[Speed]] = []

    def rates(_: str, __: int, tried: list[Speed]) -> list[dict[str, Any]]:
        asked.append(tried)
        return [{"turns": [1.0 + number]} for number in range(len(tried))]

    monkeypatch.setattr(rule_of, "NETWORKS", {"resnet18": (224, 16, "")})
    monkeypatch.setattr(rule_of, "rates", rates)
    monkeypatch.setattr(rule_of.Alone, "run", lambda cell, _: {cell.name: RULE_WITHOUT[cell.name]})
    assert rule_of.main(options(tmp_path, cells=tmp_path / "cells.jsonl", results=tmp_path)) == 0
    ((first, second, tiled),) = asked
    assert {each.precision for each in (first, second, tiled)} == {"32"}
    assert [len(each.winograd) for each in (first, second, tiled)] == [
        0,
        0,
        13,
    ]  # as it has just been measured
    told = json.loads((tmp_path / "rule-without-bf16-2026-11-21.json").read_text())
    assert (told["bf16"], "depthwise" in told, "kinds" in told["rows"][0]) == (
        False,
        False,
        False,
    )


def test_a_result_becomes_the_table_of_the_rule(rule_of: ModuleType, tmp_path: Path) -> None:
    table = rule_of.adopted(RULE)
    assert json.loads(rule_of.written(table)) == table
    small, mobile = table["rows"]
    assert [each["images_per_second"] for each in small["measured"]] == [80, 50, 40, 60, 55, 200]
    assert all(each["memory"] == "kept" for each in small["measured"])
    assert [each["memory"] for each in mobile["measured"]] == ["kept", "kept", "trimmed"]  # two had problems
    assert mobile["measured"][2]["float32"] == "slow"
    assert table["machine"] == "2 cores of an abacus with bf16 arithmetic"
    assert table["torch"] == "2.14.1"
    row = RULE["rows"][1]
    wrong = memory(usual=(400, [90.0]), kept=(500, [65.0]), trimmed=(400, [65.0]))
    wrong["kinds"][0] = {"memory": "usual", "problem": "its loss is 7, in float32 2"}
    for memories, best in (
        (memory(usual=(400, [50.0]), kept=(500, [65.0]), trimmed=(480, [65.0])), "kept"),  # 4 % smaller
        (memory(usual=(400, [50.0]), kept=(500, [65.0]), trimmed=(400, [64.0])), "kept"),  # 1.5 % slower
        (memory(usual=(400, [65.0]), kept=(500, [65.0]), trimmed=(400, [65.0])), "usual"),
        (wrong, "trimmed"),
    ):
        assert rule_of.best_memory({**row, **memories}) == best
    with pytest.raises(SystemExit, match="there is no result"):
        rule_of.adopt(tmp_path, tmp_path)
    (tmp_path / "rule-2026-11-20.json").write_text("{}")
    (tmp_path / "rule-2026-11-21.json").write_text(json.dumps(RULE))
    rule_of.adopt(tmp_path, tmp_path)
    assert not (tmp_path / "speed-without-bf16.json").exists()
    (tmp_path / "rule-without-bf16-2026-11-21.json").write_text(json.dumps(RULE_WITHOUT))
    rule_of.adopt(tmp_path, tmp_path)
    plain = json.loads((tmp_path / "speed-without-bf16.json").read_text())
    assert plain["machine"] == "2 cores of an abacus without bf16 arithmetic"
    network, shape = create_model("resnet18"), (16, 3, 224, 224)
    assert len(rule(network, shape, Device("cpu", bf16=False), table=plain).winograd) == 13
    found = rule(
        create_model("mobilenet_v2"),
        (16, 3, 224, 224),
        Device("cpu", bf16=True),
        table=json.loads((tmp_path / "speed.json").read_text()),
    )
    assert (len(found.float32), found.memory, found.fused) == (4, "trimmed", False)


def test_the_table_of_the_rule_was_measured(rule_of: ModuleType) -> None:
    results = (ROOT / "benchmarks" / "results").glob("rule-*.json")
    known = [rule_of.adopted(json.loads(file.read_text())) for file in results]
    assert measurements(bf16=True) in known
    assert measurements(bf16=False) in known


def test_layers_and_peaks_are_measured(rule_of: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As small as they can be: what they say is a time and a size."""
    monkeypatch.setattr(rule_of, "CHANNELS", 2)
    monkeypatch.setattr(rule_of, "MAPS", 8)
    monkeypatch.setattr(rule_of, "STEPS", 1)
    monkeypatch.setattr(rule_of.allocator, "keep", lambda: True)
    rows = rule_of.layers()
    assert [(row["kernel"], row["strided"]) for row in rows] == list(
        itertools.product((3, 5, 7), (False, True))
    )
    assert all(row["bf16_over_float32"] > 0 for row in rows)
    monkeypatch.setattr(rule_of, "CONVOLUTIONS", [(3, 4, 7, 2), (4, 3, 8, 1)])
    first, second = rule_of.tiles()
    assert first["winograd_over_direct"] > 0
    assert {**second, "winograd_over_direct": 0} == {
        "channels": 4, "filters": 3, "side": 8, "batch": 1, "winograd_over_direct": 0,
    }  # fmt: skip
    monkeypatch.setattr(rule_of, "NETWORKS", {"lenet5": (32, 256, "")})
    (row,) = rule_of.updates()
    assert (row["network"], row["parameters"]) == ("lenet5", 61_706)
    assert 0 < row["fused_over_plain"] < 100
    assert 2**27 < rule_of.peak("lenet5", 32, Speed(precision="bf16", memory="kept")) < 2**32
    with pytest.raises(subprocess.CalledProcessError):
        rule_of.peak("lenet6", 32, Speed())


@pytest.mark.parametrize("name", ["augment", "inspection"])
def test_what_is_told_by_cells_goes_on_and_is_whole(
    name: str, tmp_path: Path, record: ModuleType, page: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cell is measured, then the others; the result has a row for each of them."""
    assert record.here()["processor"] == "abacus"
    measures = script(f"benchmarks/{name}.py", monkeypatch)
    made: list[tuple[str, ...]] = []
    if name == "augment":
        monkeypatch.setattr(measures, "BATCHES", {16: 2, 24: 1})
        monkeypatch.setattr(measures, "BATCH", 4)
        only, several = "24 px, TrivialAugment, 2 rounds", 6
    else:

        def child(*words: str) -> dict[str, float]:
            made.append(words)
            seconds = 1.0 + len(made) if words[-1] != "convatlas" else 0.5
            return {"seconds": seconds, "again": 0.1, "extra_mib": 8.0, "networks": 197.0}

        monkeypatch.setattr(measures, "child", child)
        monkeypatch.setattr(measures, "version", lambda _: "1.0")  # peers come with the extra `bench` alone
        only, several = "vgg16/1", 6
    options = argparse.Namespace(
        only=only, list=False, again=False, since="", cells=tmp_path / "cells.jsonl", results=tmp_path, rounds=2,
        networks="vgg16,resnet50", runs=2,
    )  # fmt: skip
    assert measures.main(options) == 0
    assert not list(tmp_path.glob("*.json"))
    (first,) = options.cells.read_text().splitlines()
    options.only = "*"
    assert measures.main(options) == 0
    assert options.cells.read_text().splitlines()[0] == first
    assert len(options.cells.read_text().splitlines()) == several
    (file,) = tmp_path.glob(f"{name}-*.json")
    told = json.loads(file.read_text())
    assert len(told["cells"]) == several
    if name == "augment":
        for row in told["rows"]:
            ours, theirs = row["turns"]["ours"], row["turns"]["torchvision"]
            assert (len(ours), row["ours"]) == (2, round(sum(ours) / 2))
            assert row["ratio"] == round((ours[0] / theirs[0] + ours[1] / theirs[1]) / 2, 1)
        assert page.augment(told).count(" px, ") == several
    else:
        assert len(made) == 2 * (2 * len(measures.TOOLS) + 1)
        assert told["medians"]["vgg16"]["convatlas"]["seconds"] == 0.5
        assert told["times faster"]["vgg16"]["quickest default use"] > 1
        assert "All 197 networks" in page.reports(told)


@pytest.mark.parametrize(
    ("name", "first", "several"),
    [("speedrun_test", "speedrun/20", 8), ("feeding_accuracy", "fast/0", 4), ("transfer", "blood/10/0", 2)],
)
def test_trainings_are_told_by_cells(
    name: str,
    first: str,
    several: int,
    record: ModuleType,
    page: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One training is measured, then the others; the page says what they reached."""
    trains = script(f"benchmarks/{name}.py", monkeypatch)
    told = argparse.Namespace(
        only=first, list=False, again=False, since="", cells=tmp_path / "cells.jsonl", results=tmp_path, data=None,
        seeds=2, target="blood", epochs=10, pilot=False,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="--data DATA or CONVATLAS_DATA"):
        trains.main(told)

    def run(cell: Any, _: Any) -> dict[str, Any]:
        if name == "speedrun_test":
            reached = both(93.0, 94.0) if cell.recipe == "speedrun" else {}
            return {"run": run_of(cell.recipe, cell.seed, 280.0, 1e14, **reached)}
        if name == "feeding_accuracy":
            return {"val": 98.0 if cell.way == "fast" else 97.5, "train_images": 450, "val_images": 150}
        return {**TRANSFER["runs"][cell.seed], "source": TRANSFER["source"]}

    monkeypatch.setattr(trains.Pair if name == "transfer" else trains.Training, "run", run)
    assert trains.main(told) == 0
    assert list(record.read(told.cells)) == [first]
    assert not list(tmp_path.glob("*.json"))
    told.only = "*"
    assert trains.main(told) == 0
    assert len(record.read(told.cells)) == several
    (file,) = tmp_path.glob("*.json")
    report = json.loads(file.read_text())
    assert len(report["cells"]) == several
    words = {
        "speedrun_test": (page.speedrun, "| `speedrun-2024` | 23 | 280 |"),
        "feeding_accuracy": (page.feeding_accuracy, "+0.50 points in the mean"),
        "transfer": (page.transfer, "gain 10.0 points in the mean (5.0 to 15.0)"),
    }
    tells, expected = words[name]
    assert expected in tells(report)


def test_copies_are_told_from_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pictures and a copy of one, which is a pair; copies of a picture are found, another picture is none."""
    duplicates = script("benchmarks/duplicates.py", monkeypatch)
    random = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for number in range(6):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((140, 100), Image.Resampling.BICUBIC).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "again.jpg").write_bytes(duplicates.jpeg(Image.open(tmp_path / "a" / "3.png"), 75))
    told = duplicates.of_source(tmp_path, 4)
    assert told["found"] == dict.fromkeys(
        ("JPEG 95", "JPEG 75", "JPEG 50", "75% of the side", "50% of the side"), 1.0
    )
    assert (told["pictures"], told["copied"], told["taken_for_the_same"]) == (7, 4, 1)
    assert [set(pair) for pair in told["pairs"]] == [{"a/3.png", "a/again.jpg"}]
    monkeypatch.setattr(duplicates, "changes", lambda _: {"another": lambda _: duplicates.jpeg(coarse, 90)})
    assert duplicates.of_source(tmp_path, 4)["found"]["another"] <= 0.25


def test_settings_are_compared_in_turn(
    record: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = script("benchmarks/settings.py", monkeypatch)
    asked: list[tuple[str, Mapping[str, str]]] = []
    words = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

    def rates(name: str, batch: int, tried: list[Speed]) -> list[dict[str, Any]]:
        assert len(tried) == 1
        asked.append((name, {name: os.environ[name] for name in words if name in os.environ}))
        return [{"turns": [2.0, 6.0, 4.0]}]

    monkeypatch.setattr(settings, "rates", rates)
    monkeypatch.setattr(settings, "SPIN", [sys.executable, "-c", "input()"])
    wish: dict[str, Any] = {"turns": 2, "cells": tmp_path / "cells.jsonl", "results": tmp_path}
    assert settings.main(options(tmp_path, **wish, only="idle/*/0")) == 0
    assert "6 of 8 cells are missing" in capsys.readouterr().out
    assert settings.main(options(tmp_path, **wish)) == 0
    told = json.loads((tmp_path / "settings-2026-11-21.json").read_text())
    assert {row["way"] for row in told["waiting"]} == settings.WAITING.keys()
    assert [row["images_per_second"] for row in told["waiting"]] == [[4.0, 4.0]] * 12
    assert [row["beside"] for row in told["waiting"]] == ["idle"] * 6 + ["busy"] * 6
    assert len(told["cells"]) == 8
    ways = list(settings.WAITING.values())
    assert [said for _, said in asked[:6]] == ways * 2
    assert [said for _, said in asked[6:9]] == [*ways[1:], ways[0]]  # another begins in the next turn
    assert settings.main(options(tmp_path, **wish)) == 0
    assert len(asked) == 3 * 8


def test_programs_that_keep_a_machine_busy_end_with_who_began_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = script("benchmarks/settings.py", monkeypatch)
    code = f"import os, subprocess\nspin = {settings.SPIN!r} + [str(os.getpid())]\nprint("
    code += "subprocess.Popen(spin, stdout=subprocess.DEVNULL).pid, flush=True)\ninput()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    stat = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    time.sleep(1)
    assert stat.read_text().rsplit(")", 1)[1].split()[0] == "R"
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while (there := stat.exists() and " Z " not in stat.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not there


def test_what_others_took_is_counted_without_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processors worked for 3 s, of which the child of the work took its own time, in a work of 2 s and more."""
    record = script("benchmarks/record.py", monkeypatch)
    whole = iter([100.0, 103.0])
    monkeypatch.setattr(record, "beside", lambda: {"ceiling_macs_per_second": {"conv bf16": 5e11}})
    monkeypatch.setattr(record, "worked", lambda: next(whole))
    code = (
        "import time\nuntil = time.process_time() + 1\nwhile time.process_time() < until: pass\ntime.sleep(1)"
    )

    def work() -> dict[str, Any]:
        subprocess.run([sys.executable, "-c", code], check=True)
        return {"figure": 1}

    told = record.observed(work)
    assert told["figure"] == 1
    assert told["seconds"] >= 2
    own = 3 - told["others"] * told["seconds"]
    assert 1 <= own < 2.5
    assert record.counts({**told, "others": 0.1})
    assert not record.counts({**told, "others": 0.2})
    assert record.counts({**told, "others": 0.2}, timed=False)
    assert not record.counts(None)
    assert not record.counts({**told, "others": 0.0}, since="9999-01-01")
    assert not record.counts({**told, "others": 0.0, "torch": "1.0"})

    def fails() -> dict[str, Any]:
        raise ResourceError("no memory")

    whole = iter([0.0, 1.0])
    told = record.observed(fails)
    assert told["failure"] == "no memory"
    assert not record.counts({**told, "others": 0.0})


@pytest.mark.parametrize("wrong", ["30.11.2026", "yesterday", "9999-01-01"])
def test_a_day_is_a_day(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = script("benchmarks/record.py", monkeypatch)
    assert record.day("2026-11-21") == "2026-11-21"
    with pytest.raises(argparse.ArgumentTypeError, match="is no day; expected is one such as 2026-11-30"):
        record.day(wrong)


@pytest.mark.parametrize(("side", "parts"), [("ours", 1), ("torchvision", 1), ("torchvision", 2)])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    side: str, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = script("benchmarks/loops.py", monkeypatch)
    data = open_data(cifar(tmp_path, 320), seed=0)

    class Stops(loops.Pace):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.after = after

        def part(self) -> None:
            self.after -= 1
            if self.after < 0:
                raise KeyboardInterrupt

    def train(kept: Path, after: int) -> float:
        if side == "ours":
            return loops.ours(data, "resnet20_cifar", {}, 3, 0, Stops(after), kept=kept)
        make = partial(create_model, "resnet20_cifar", num_classes=10)
        return loops.torchvision(data, make, 3, 0, Stops(after), parts=parts, kept=kept)

    whole = train(tmp_path / "whole", 3 * parts)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", 1)
    assert train(tmp_path / "stopped", 3 * parts - 1) == whole
    weights = [state_of(tmp_path / name, side) for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def state_of(folder: Path, side: str) -> dict[str, torch.Tensor]:
    if side == "torchvision":
        return torch.load(folder / "checkpoint.pt", weights_only=True)["network"]
    return api.Run.load(folder / "run").model.state_dict()


def test_the_pages_say_what_was_measured(page: ModuleType) -> None:
    assert page.main(check=True) == 0


def test_the_newest_result_counts(page: ModuleType, tmp_path: Path) -> None:
    assert page.newest("speed", tmp_path) is None
    for date in ("2026-11-21", "2027-01-02", "2026-12-31"):
        (tmp_path / f"speed-{date}.json").write_text(json.dumps({"date": date}))
    (tmp_path / "speed-cells.json").write_text("{}")
    assert page.newest("speed", tmp_path)["date"] == "2027-01-02"
