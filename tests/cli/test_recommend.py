"""`convatlas recommend`: its three formats, its bounds and its exit codes. How fast anything is, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_main import run

import convatlas
from convatlas.cli.sizes import byte_size
from convatlas.errors import UsageError
from convatlas.measure import canvass
from convatlas.models import find

SOME = (
    "resnet18",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mobilenet_v2_x0_35",
    "vgg16",
    "resnet20_cifar",
    "lenet5",
)
USE = ("recommend", "--classes", "7", "--image", "96", "--seconds", "5")


@pytest.fixture(autouse=True)
def _some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        canvass, "specs", lambda: [find(name) for name in (*SOME, "densenet121", "densenet169")]
    )


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*USE, "--max-params", "5M", "--max-macs", "100M", "--max-memory", "2GB") == 0
    shown = capsys.readouterr()
    out = " ".join(shown.out.split())
    assert "For 7 classes and images of 3 x 96 x 96: inference with a batch of 1 in fp32" in out
    for name in ("mobilenet_v2_x0_35", "shufflenet_v2_x0_5", "squeezenet1_1"):
        assert name in out
    # both print 39.7 %, so the quicker one is first
    assert "is first: its published ImageNet top-1 error of 39.7 % (ILSVRC-2012 val) is the lowest" in out
    assert (
        "resnet18 has 11.2 M parameters, 2.2 times the budget; makes 333 M MACs, 3.3 times the budget" in out
    )
    assert "1 with over 4 times the parameters" in out  # vgg16
    assert "2 without a published ImageNet top-1 error" in out
    assert "count 1.6 points worse" in out  # of the two DenseNets here
    assert "timing squeezenet1_1" in shown.err


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*USE, "--max-params", "5M", "--max-macs", "100M", "--batch", "2", "--train", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["use"] == {"side": 96, "classes": 7, "channels": 3, "batch": 2, "train": True}
    assert told["budget"]["max_params"] == 5_000_000
    ranked = [each["name"] for each in told["ranked"]]
    assert set(ranked) == {"mobilenet_v2_x0_35", "shufflenet_v2_x0_5", "squeezenet1_1"}
    assert ranked[-1] == "squeezenet1_1"
    assert told["ranked"][-1]["dominated_by"] in (None, *ranked)
    for each in told["ranked"]:
        assert each["params"] <= 5_000_000
        assert each["seconds"]["runs"] >= 1
        assert each["evidence"]["kind"] == "imagenet"
    assert {each["name"] for each in told["misses"]} == {"resnet18", "densenet121", "densenet169"}
    assert told["left_out"]["without_evidence"] == ["resnet20_cifar", "lenet5"]
    assert told["timing_bounds"]["seconds"] == 5.0


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*USE, "--max-params", "5M", "--max-macs", "100M", "--top", "1", "--markdown") == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1
    assert "- resnet18 has 11.2 M parameters" in out
    assert "2 not timed" in out


def test_small_images_are_ranked_by_cifar10(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recommend", "--classes", "7", "--image", "32", "--seconds", "1") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "resnet20_cifar is first: its published CIFAR-10 error of 8.75 %" in out
    assert "resnet18" not in out
    assert "--evidence imagenet does" in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ["--max-params", "1k"],
            "All 7 that could be candidates have many times the parameters; the smallest, shufflenet_",
        ),
        (
            ["--max-macs", "2M"],
            "no network fits. The nearest: shufflenet_v2_x0_5 makes 7.25 M MACs, 3.6 times",
        ),
        (["--seconds", "0", "--max-params", "5M"], "were not timed: allow more"),
        (["--max-ms", "0.0001", "--most", "1", "--max-params", "5M"], "not timed"),
        (["--evidence", "cifar10", "--image", "8"], "No network with a published error takes such images"),
    ],
)
def test_nothing_fits(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*USE, *words) == 1
    shown = capsys.readouterr()
    assert hint in shown.err
    assert "Ranked: 0 of " in shown.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--json", "--markdown"], "exclude"),
        (["--evidence", "imagenets"], "Did you mean 'imagenet'"),
        (["--max-params", "many"], "'many' is not a count"),
        (["--max-memory", "2 boxes"], "not a size"),
        (["--max-ms", "0"], "above 0"),
        (["--image", "0"], "image"),
    ],
)
def test_wrong_commands(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*USE, *words) == 2
    assert hint in capsys.readouterr().err


def test_sizes() -> None:
    assert [byte_size(text) for text in ("2GB", "2 GiB", "512mb", "64", "64B", ".5k", "1.5T")] == [
        2 * 10**9, 2 * 2**30, 512 * 10**6, 64, 64, 500, 15 * 10**11,
    ]  # fmt: skip
    for text in ("", "GB", "2X", "-1GB", "1e9", "1..5G", "1 TB or so", "12XB"):
        with pytest.raises(UsageError, match="is not a size"):
            byte_size(text)


def test_own_runs_come_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvass, "specs", lambda: [find(name) for name in (*SOME, "densenet121")])
    for name in ("a", "b"):
        convatlas.train("digits", model="lenet5", epochs=1, out=tmp_path / "runs" / name, seed=ord(name))
    evaluations = [
        json.loads((tmp_path / "runs" / name / "evaluation" / "val.json").read_text()) for name in ("a", "b")
    ]
    use = ("recommend", "--image", "32", "--channels", "1", "--max-params", "5M", "--seconds", "2")
    command = (*use, "--runs", str(tmp_path / "runs"))
    assert run(*command, "--json") == 0
    first, *rest = json.loads(capsys.readouterr().out)["ranked"]
    assert first["name"] == "lenet5"
    assert first["error_pct"] == pytest.approx(50 * (2 - evaluations[0]["top1"] - evaluations[1]["top1"]))
    known = first["evidence"]
    assert (known["kind"], known["source"], known["image"]) == ("own", "run", 32)
    assert known["test"] == "val of your images, mean of 2 runs"
    assert [each["name"] for each in rest] == ["resnet20_cifar"]
    assert rest[0]["dominated_by"] is None, "errors of other images are not compared"
    samples = tmp_path / "runs" / "b" / "samples.csv"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))  # an image less
    assert run(*command) == 3
    assert "2 different sets of images (a and b, for example)" in capsys.readouterr().err


def test_a_folder_without_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(*USE, "--runs", str(tmp_path)) == 3
    assert "has no run with an evaluation on val" in capsys.readouterr().err
    assert run(*USE, "--runs", str(tmp_path / "gone")) == 2
