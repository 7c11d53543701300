"""The table of training speed: cells that go on where they stopped, and a page that says what the result says."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.bench.cell import Cell
from convatlas.bench.pool import Block
from convatlas.bench.race import Laps
from convatlas.bench.result import Result
from convatlas.cli.target import resolve
from convatlas.measure.roof import KERNELS, Rate, Roof
from convatlas.measure.roofline import roofline
from convatlas.models import create_model
from convatlas.train import schedule
from convatlas.train.speed import Speed
from convatlas.train.tune import Trial, Tuning

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
    return script("benchmarks/speed.py", monkeypatch)


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

    def __init__(self, name: str, asked: list[str]) -> None:
        self.name, self.asked = name, asked

    def turn(self, wish: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        self.asked.append(self.name)
        return {"seconds": 2.0, "images": 10, "val": 0.5, "peak_bytes": None}, 0.0


def test_epochs_are_trained_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = script("benchmarks/epochs.py", monkeypatch)
    asked: list[str] = []
    sides = {name: Alternating(name, asked) for name in epochs.SIDES}
    records = list(epochs.turns(sides, 3))
    assert asked == ["ours", "torchvision", "torchvision", "ours", "ours", "torchvision"]
    assert [record["epoch"] for record in records] == [1, 1, 2, 2, 3, 3]


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


def test_both_loops_train_epochs_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as archive:
        for number in range(160):
            with archive.open(f"train/{number % 10}/{number}.png", "w") as file:
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
    epochs = script("benchmarks/epochs.py", monkeypatch)
    monkeypatch.setattr(epochs, "ceiling", dict)
    epochs.main(argparse.Namespace(data=tmp_path, epochs=2, seed=0, limit=140, results=tmp_path))
    *records, told = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [(record["side"], record["epoch"]) for record in records] == [
        ("ours", 1),
        ("torchvision", 1),
        ("torchvision", 2),
        ("ours", 2),
    ]
    assert all(record["images"] == 128 and 0 <= record["val"] < 1 for record in records)
    assert told["facts"]["torchvision"]["precision"] == "fp32"
    assert (told["train_images"], told["val_images"]) == (140, 20)
    assert not list(tmp_path.glob("*.json"))  # so few images are no measurement


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
    assert "500 and 510 G multiply-adds/s before and after, and others never took more than 0.01 core" in told


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


SETTINGS = {
    "date": "2026-11-21",
    "machine": {"processor": "abacus", "cores": 2},
    "kept": [setting("not kept", [40.0, 50.0, 60.0]), setting("kept", [55.0, 65.0, 60.0])],
    "waiting": [
        setting("spins", [61.0, 59.0], beside="idle"),
        setting("none", [62.0, 62.0], beside="idle"),
        setting("spins", [20.0, 10.0], beside="busy"),
        setting("none", [40.0, 30.0], beside="busy"),
    ],
    "threads": [setting("float32, all threads", [90.0]), setting("float32, one thread", [70.0])],
}


def test_feeding_is_told(page: ModuleType) -> None:
    told = page.feeding(FEEDING)
    row = "| 500x375, 46 kB each, training | 900 (890-910) | 750 (740-760) |  |  |  | **1.80** (1.20-2.00) |"
    assert row in told
    assert "By the clock the ratios are 1.70, 1.15, 3.65." in told
    assert "the first ratio is 1.50 (1.20-2.00). 2 cores, 2026-11-21." in told


def test_settings_are_told(page: ModuleType) -> None:
    assert "| `resnet18`, 224, 16 | 50 | 60 | 1.20 |" in page.kept(SETTINGS)
    told = page.spins(SETTINGS)
    assert "|  | `resnet18`, batches of 16 | `resnet18`, batches of 16, busy |" in told
    assert "| spins | 60 | 10, 20 |" in told
    assert "| none | 62 | 30, 40 |" in told
    assert "| `resnet18`, 224, 16 | 90 | 70 |" in page.threads(SETTINGS)
    assert "abacus, 2 cores, 2026-11-21." in told


def test_the_pages_are_filled_and_checked(
    speed: ModuleType, page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [file.read_text() for file in page.PAGES]
    marks = [match[2] for text in texts for match in page.BLOCK.finditer(text)]
    assert sorted(marks) == sorted(page.TABLES)
    assert all("<!--" not in page.BLOCK.sub("", text) for text in texts)  # every mark is one that is filled
    reports = {"speed": report(speed), "accuracy": ACCURACY, "epochs": EPOCHS}
    reports |= {"waiting": WAITING, "startup": STARTUP, "feeding": FEEDING, "settings": SETTINGS}
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
    assert {"speed", *page.OF.values()} == every.FILES.keys()
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in every.FILES)


def test_what_is_measured_is_not_measured_again(
    every: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def call(words: list[str], env: Mapping[str, str]) -> int:
        ran.append(" ".join([Path(words[1]).stem, *words[2:]]))
        assert env["CONVATLAS_DATA"] == str(tmp_path)
        return int(ran[-1] == "epochs")

    monkeypatch.setattr(every.subprocess, "call", call)
    monkeypatch.setattr(
        every, "results", lambda name: [Path("x.json")] if name in ("speed", "feeding") else []
    )
    chosen = argparse.Namespace(only="*", data=tmp_path, again=False, list=False)
    assert every.main(chosen) == 1
    assert ran == [name for name in every.FILES if name != "feeding"]
    assert "not done: epochs" in capsys.readouterr().out
    ran.clear()
    assert every.main(argparse.Namespace(only="[fs]*", data=tmp_path, again=True, list=False)) == 0
    assert ran == ["speed --again", "startup", "settings", "feeding"]
    ran.clear()
    assert every.main(argparse.Namespace(only="feeding", data=None, again=True, list=False)) == 0
    assert not ran
    assert "feeding: real pictures need --data DATA" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no file is called 'fedding'"):
        every.main(argparse.Namespace(only="fedding", data=None, again=True, list=False))


def test_settings_are_compared_in_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trials themselves are those of `--tune full`, and tested there."""
    settings = script("benchmarks/settings.py", monkeypatch)
    asked: list[tuple[Mapping[str, str], list[Speed], Mapping[str, Any]]] = []
    words = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

    def measured(tried: list[Speed], job: Mapping[str, Any]) -> Tuning:
        asked.append(({name: os.environ[name] for name in words if name in os.environ}, tried, job))
        return Tuning(tuple(Trial(speed, (2.0, 6.0, 4.0)) for speed in tried), tried[0])

    monkeypatch.setattr(settings, "measured", measured)
    monkeypatch.setattr(settings, "SPIN", [sys.executable, "-c", "input()"])
    settings.main(2, tmp_path)
    told = json.loads(next(tmp_path.glob("settings-*.json")).read_text())
    assert [row["way"] for row in told["kept"][:2]] == ["not kept", "kept"]
    assert {row["network"] for row in told["kept"]} == settings.NETWORKS.keys() - {"lenet5"}
    assert {row["way"] for row in told["waiting"]} == settings.WAITING.keys()
    assert [row["images_per_second"] for row in told["waiting"]] == [[4.0, 4.0]] * 12
    assert len(told["threads"]) == 3 * 4
    assert "resnet18, 16, kept: 4" in capsys.readouterr().out
    memories = [[speed.memory for speed in tried] for _, tried, _ in asked[:7]]
    assert memories == [["usual", "kept"]] * 7
    assert [said for said, _, _ in asked[7:10]] == list(settings.WAITING.values())
    assert [said for said, _, _ in asked[13:16]] == [*list(settings.WAITING.values())[1:], {}]
    assert [(speed.precision, speed.threads) for speed in asked[-1][1]] == [
        ("32", 0), ("32", 1), ("bf16", 0), ("bf16", 1),
    ]  # fmt: skip
    assert asked[-1][2]["shape"] == (256, 1, 32, 32)


def test_the_pages_say_what_was_measured(page: ModuleType) -> None:
    assert page.main(check=True) == 0


def test_the_newest_result_counts(page: ModuleType, tmp_path: Path) -> None:
    assert page.newest("speed", tmp_path) is None
    for date in ("2026-11-21", "2027-01-02", "2026-12-31"):
        (tmp_path / f"speed-{date}.json").write_text(json.dumps({"date": date}))
    (tmp_path / "speed-cells.json").write_text("{}")
    assert page.newest("speed", tmp_path)["date"] == "2027-01-02"
