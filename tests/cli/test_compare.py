"""`convatlas compare`, and the drawing of `describe`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from convatlas.cli.compare import chosen
from convatlas.cli.main import run
from convatlas.errors import UsageError
from convatlas.models import list_models


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    return int(ended.value.code or 0)


def test_wildcards_and_families() -> None:
    assert chosen(["vgg1?", "lenet5", "vgg16"], []) == [*list_models("vgg1?"), "lenet5"]
    assert chosen([], ["vgg"]) == list_models(family="vgg")
    for nothing in ([], ["zz*"]):
        with pytest.raises(UsageError):
            chosen(nothing, [])


def test_every_format_has_the_same_counts(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["lenet5_1998", "nin_cifar10"]
    assert call("compare", *names, "--json") == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == names
    assert found["lenet5_1998"]["params"] == 60_000
    assert call("compare", *names, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["name"], int(row["params"]), int(row["macs"])) for row in rows} == {
        (each["name"], each["params"], each["macs"]) for each in found.values()
    }
    assert [(row["name"], row["error_pct"], row["test"]) for row in rows] == [
        ("lenet5_1998", "0.95", "MNIST test, no distortions"),
        ("nin_cifar10", "10.41", "CIFAR-10 test, not augmented"),
        ("nin_cifar10", "8.81", "CIFAR-10 test, augmented"),
    ]
    assert call("compare", *names, "--markdown") == 0
    assert f"{found['nin_cifar10']['macs']:,}" in capsys.readouterr().out


def test_charts_and_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing, picture, page = tmp_path / "c.svg", tmp_path / "c.png", tmp_path / "c.html"
    assert (
        call(
            "compare",
            "all_cnn_[abc]",
            "lenet5",
            "--chart",
            str(drawing),
            "--x",
            "params",
            "--html",
            str(page),
        )
        == 0
    )
    assert "not drawn: lenet5" in capsys.readouterr().err
    words = "".join(ElementTree.fromstring(drawing.read_text()).itertext())
    assert all(
        each in words for each in ("all_cnn_a", "all_cnn_c", "CIFAR-10 test, not augmented", "parameters")
    )
    assert "all_cnn_b" in page.read_text()
    assert call("compare", "all_cnn_[abc]", "--chart", str(picture)) == 0
    with Image.open(picture) as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--x", "watts"], "params, macs, ms"), (["--error", "top3"], "top1 or top5"),
     (["--chart", "c.gif"], ".svg or .png"), (["--json", "--csv"], "exclude"),
     (["--chart", "c.svg"], "nothing can be drawn")],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compare", "lenet5", *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_networks_own_classes_have_no_printed_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "nin_cifar10", "--classes", "7", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["errors"] == []


def test_a_run_shows_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call("train", "digits", "--model", "lenet5", "--epochs", "1", "--out", str(folder)) == 0
    capsys.readouterr()
    assert call("compare", str(folder), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    written = json.loads((folder / "evaluation" / "val.json").read_text())
    best = next(error for error in found["errors"] if error["metric"] == "top1")
    assert best["error_pct"] == pytest.approx(100 * (1 - written["top1"]), abs=1e-6)
    assert best["measured"]
    assert best["test"] == f"own run, val split, {written['count']:,} images"


def test_describe_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.svg"
    assert call("describe", "resnet18", "--graph", str(file), "--depth", "stage") == 0
    words = list(ElementTree.fromstring(file.read_text()).itertext())
    assert "conv5_x" in words
    assert "2 × block" in words
    assert call("describe", "resnet18", "--graph", str(file), "--depth", "3") == 2
    assert "stage, block, layer" in capsys.readouterr().err
