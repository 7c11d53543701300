"""`convatlas bench`: what is printed, kept and refused. How fast anything is, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_main import run

from convatlas.measure.roof import KERNELS, Roof, kept_roof


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_machine_and_then_a_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("bench", "lenet5", "--seconds", "0.2") == 0
    shown = capsys.readouterr()
    assert "lenet5: inference of 1 x 1 x 32 x 32, fp32" in shown.out
    assert "no roofline: nothing is known of what this machine can do" in shown.err
    assert "reached" not in shown.out

    assert run("bench", "--roofline", "--seconds", "0.5", "--out", str(tmp_path / "mine.json"), "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["rates"].keys() == KERNELS
    assert json.loads((tmp_path / "mine.json").read_text()) == told
    assert kept_roof() == Roof.from_json(told)

    assert run("bench", "lenet5", "--seconds", "0.2", "--batch", "4", "--train") == 0
    shown = capsys.readouterr()
    assert "lenet5: training step of 4 x 1 x 32 x 32, fp32" in shown.out
    assert "of the roofline" in shown.out
    assert not shown.err


def test_the_machine_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--roofline", "--seconds", "0.3") == 0
    shown = capsys.readouterr()
    for word in ("matrix product fp32", "convolution 3x3 bf16", "copy", "triad", "FLOP/byte"):
        assert word in shown.out
    assert "kept in" in shown.err


def test_json_of_a_network_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert run("bench", "--roofline", "--seconds", "0.3", "--threads", "1", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["machine"]["threads"] == 1
    command = ["bench", "resnet20_cifar", "--batch", "2", "--threads", "1", "--seconds", "0.3", "--json"]
    assert run(*command, "--dtype", "bf16", "--channels-last", "--classes", "7") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images_per_second"] == pytest.approx(2 / told["seconds"]["median"])
    assert told["roofline"]["reached"] == pytest.approx(
        told["roofline"]["seconds"] / told["seconds"]["median"]
    )
    assert told["roofline"]["measured"] == measured["measured"]
    assert (told["dtype"], told["channels_last"], told["machine"]["threads"]) == ("bf16", True, 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "say what to time"),
        (["lenet6"], "lenet5"),
        (["lenet5", "--roofline"], "take no network"),
        (["lenet5", "--out", "x.json"], "take no network"),
        (["lenet5", "--dtype", "fp8"], "Known: fp32, bf16"),
        (["lenet5", "--image-size", "9"], "cannot take an image of shape (1, 9, 9)"),
        (["lenet5", "--batch", "0"], "batch"),
    ],
)
def test_wrong_commands(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *words) == 2
    assert hint in capsys.readouterr().err


def test_a_damaged_file_is_said(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run("bench", "--roofline", "--seconds", "0.3", "--json") == 0
    next((cache / "roofline").iterdir()).write_text("{}")
    capsys.readouterr()
    assert run("bench", "lenet5", "--seconds", "0.1") == 4
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
