"""`convatlas bench`: what is printed, kept and refused. How fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import run

from convatlas.measure.roof import KERNELS, Roof, kept_roof
from convatlas.models import create_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_machine_is_measured_and_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("bench", "--roofline", "--seconds", "0.5", "--out", str(tmp_path / "mine.json"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rates"].keys() == KERNELS
    assert json.loads((tmp_path / "mine.json").read_text()) == told
    assert kept_roof() == Roof.from_json(told)


def test_the_machine_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--roofline", "--seconds", "0.3") == 0
    shown = capsys.readouterr()
    for word in ("matrix product fp32", "convolution 3x3 bf16", "copy", "triad", "FLOP/byte"):
        assert word in shown.out
    assert "kept in" in shown.err


def test_a_network_beside_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    command = [
        "bench",
        "resnet20_cifar",
        "--batch",
        "2",
        "--threads",
        "1",
        "--seconds",
        "0.3",
        "--rounds",
        "1",
    ]
    assert run(*command, "--dtype", "bf16", "--channels-last", "--classes", "7", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    side = told["sides"]["convatlas"]
    assert (told["cell"]["shape"], told["cell"]["train"], told["ratios"]) == ([3, 32, 32], False, {})
    assert side["latency_seconds"] == pytest.approx(2 / side["images_per_second"]["median"])
    assert side["facts"]["precision"] == "bf16"
    assert side["facts"]["network"] == "convatlas:resnet20_cifar"
    assert side["facts"]["parameters"] == sum(
        p.numel() for p in create_model("resnet20_cifar", 7).parameters()
    )
    assert side["peak_bytes"] > 2**20 * 50
    assert told["roofline"]["reached"] == pytest.approx(told["roofline"]["seconds"] / side["latency_seconds"])
    assert told["ceiling"]["machine"]["threads"] == 1  # measured in this run, with the threads of the sides
    assert torch.get_num_threads() == threads


def test_training_beside_peers(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "squeezenet1_1", "--train", "--batch", "2", "--image-size", "64", "--classes", "5"]
    against = ["--against", "torchvision", "--against", "lightning", "--threads", "1"]
    assert run(*command, *against, "--seconds", "0.3", "--rounds", "1") == 0
    shown = capsys.readouterr()
    assert "squeezenet1_1: training step of 2 x 3 x 64 x 64, noise" in shown.out
    for word in (
        "torchvision fp32 NCHW",
        "lightning fp32 NCHW",
        "of the machine's",
        "measured in this run",
        "95 %",
    ):
        assert word in shown.out
    assert "starting lightning" in shown.err


def test_a_network_with_settings_is_the_same_on_all_sides(capsys: pytest.CaptureFixture[str]) -> None:
    """torchvision has no such resnet18, so its loop trains ours."""
    command = ["bench", "resnet18", "--option", "stem=3x3", "--option", "width=8", "--train", "--batch", "2"]
    quick = ["--image-size", "32", "--threads", "1", "--seconds", "0.3", "--rounds", "1"]
    assert run(*command, *quick, "--starts", "2", "--against", "torchvision", "--json") == 0
    shown = capsys.readouterr()
    assert shown.err.count("starting torchvision") == 2
    told = json.loads(shown.out)
    assert told["starts"] == 2
    assert all(len(side["blocks"]) >= 2 for side in told["sides"].values())
    wanted = sum(each.numel() for each in create_model("resnet18", stem="3x3", width=8).parameters())
    for side in told["sides"].values():
        assert (side["facts"]["network"], side["facts"]["parameters"]) == ("convatlas:resnet18", wanted)
    assert told["cell"]["wish"]["options"] == {"stem": "3x3", "width": 8}
    assert run(*command[:4], *quick, "--batch", "2") == 0
    assert "resnet18 stem=3x3: inference of 2 x 3 x 32 x 32, noise" in capsys.readouterr().out
    assert run("bench", "resnet18", "--option", "stam=3x3") == 2
    assert "stem" in capsys.readouterr().err


def test_training_on_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / "small" / "train" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place)
    command = [
        "bench",
        "resnet20_cifar",
        "--train",
        "--batch",
        "4",
        "--data",
        str(tmp_path / "small"),
        "--json",
    ]
    assert (
        run(
            *command, "--against", "timm", "--peer-amp", "--threads", "1", "--seconds", "0.3", "--rounds", "1"
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["cell"]["classes"], told["cell"]["augmentation"], told["cell"]["peer_amp"]) == (
        2,
        "shift",
        True,
    )
    assert told["sides"]["timm"]["facts"]["network"] == "convatlas:resnet20_cifar"  # timm has no such network
    assert told["sides"]["timm"]["facts"]["precision"] == "bf16 autocast"
    assert told["sides"]["convatlas"]["facts"]["loader"] == "Batches, held in memory"
    assert told["fastest_peer"] == "timm"
    ours, timm = (told["sides"][side]["images_per_second"]["median"] for side in ("convatlas", "timm"))
    assert told["ratios"]["timm"]["ratio"] == pytest.approx(ours / timm)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "say what to time"),
        (["lenet6"], "lenet5"),
        (["lenet5", "--roofline"], "take no network"),
        (["lenet5", "--out", "x.json"], "take no network"),
        (["lenet5", "--dtype", "fp8"], "Known: fp32, bf16"),
        (["lenet5", "--image-size", "9"], "cannot take an image of shape (1, 9, 9)"),
        (["lenet5", "--image-size", "9", "--train"], "cannot be trained on images of (1, 9, 9)"),
        (["lenet5", "--batch", "0"], "batch"),
        (["lenet5", "--train", "--against", "keras"], "keras"),
        (["lenet5", "--against", "timm", "--against", "timm"], "twice"),
        (["lenet5", "--train", "--peer-amp"], "--against"),
        (["lenet5", "--data", "digits"], "--data goes with --train"),
        (["lenet5", "--train", "--data", "digits", "--batch", "9999"], "more than the"),
        (["torchvision:fcn_resnet50", "--train", "--image-size", "64"], "logits (N, K)"),
        (["torchvision:googlenet", "--train", "--image-size", "96", "--against", "timm"], "logits (N, K)"),
    ],
)
def test_wrong_commands(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *words) == 2
    assert hint in capsys.readouterr().err


def test_what_is_wrong_with_the_data_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("bench", "resnet18", "--train", "--data", str(tmp_path / "nowhere")) == 3
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("bench", "resnet18", "--train", "--data", str(tmp_path / "empty")) == 3


def test_a_side_that_fails_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x).mean((2, 3))\n"
        "        if not x.is_meta:\n"
        "            raise RuntimeError('the dog ate it')\n"
        "        return x\n"
    )
    command = ["bench", f"{file}:Net", "--train", "--batch", "2", "--image-size", "16", "--seconds", "0.3"]
    assert run(*command, "--against", "torchvision") == 1
    assert "the dog ate it" in capsys.readouterr().err


def test_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    command = ["bench", "lenet5", "--batch", "8", "--seconds", "60", "--rounds", "1000"]
    with subprocess.Popen(
        [sys.executable, "-m", "convatlas", *command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 1"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        assert process.wait(60) == 143
        assert "stopped by SIGTERM" in process.stderr.read()
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert not list((tmp_path / "tmp").glob("convatlas*"))


def test_a_damaged_file_is_said(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run("bench", "--roofline", "--seconds", "0.3", "--json") == 0
    next((cache / "roofline").iterdir()).write_text("{}")
    capsys.readouterr()
    assert run("bench", "lenet5", "--rows") == 4
    assert "convatlas bench --roofline" in capsys.readouterr().err


def test_what_bounds_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["bench", "resnet20_cifar", "--rows"], ["describe", "resnet20_cifar", "--roofline"]):
        assert run(*command) == 2
        assert "convatlas bench --roofline" in capsys.readouterr().err
    assert run("bench", "--roofline", "--seconds", "0.3") == 0
    capsys.readouterr()
    assert run("describe", "resnet20_cifar", "--roofline") == 0
    described = capsys.readouterr().out
    assert run("bench", "resnet20_cifar", "--rows") == 0
    assert described.splitlines()[1:] == capsys.readouterr().out.splitlines()
    assert "A forward pass of 1 image takes at least" in described
    assert run("describe", "resnet20_cifar", "--roofline", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(row["macs"] for row in told["roofline"]["rows"]) == told["macs"]
    assert (
        run("bench", "resnet20_cifar", "--rows", "--batch", "64", "--train", "--dtype", "bf16", "--json") == 0
    )
    step = json.loads(capsys.readouterr().out)
    assert sum(row["macs"] for row in step["rows"]) == 64 * told["macs"]
    assert step["seconds"] == pytest.approx(sum(row["seconds"] for row in step["rows"]))
    assert run("bench", "--rows") == 2
    assert run("describe", "lenet5", "--roofline", "--markdown") == 2
