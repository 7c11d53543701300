"""`convatlas lint`: targets, formats, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convatlas.cli import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main.run(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_exit_code_is_0_unless_it_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "alexnet") == 0
    shown = capsys.readouterr().out
    assert "does not apply" not in shown
    assert "follows" in shown
    assert "breaks" in shown
    assert "rule" in shown
    assert "balanced distribution" in shown
    assert run("lint", "alexnet", "--strict") == 1
    assert "alexnet breaks 6 of seven principles: gradual expansion" in capsys.readouterr().err
    assert run("lint", "simpnet_slim_1m", "--strict") == 0


def test_json_has_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "resnet50", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "resnet50"
    assert len(found["findings"]) == 7
    correlation = found["findings"][2]
    assert correlation["numbers"]["in_the_first_half"] == len(correlation["where"]) == 16


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "simpnet_slim_300k", "--markdown") == 0
    assert "| dropout utilisation | breaks |" in capsys.readouterr().out
    assert run("lint", "vgg16", "--markdown", "--json") == 2


def test_networks_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def make_net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))\n"
    )
    assert run("lint", f"{file}:make_net", "--image-size", "32", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input_shape"] == [3, 32, 32]
    assert found["findings"][2]["where"] == ["0"]
    assert run("lint", "torchvision:squeezenet1_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["findings"][2]["verdict"] == "breaks"


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "simpnet_slim_301k") == 2
    message = capsys.readouterr().err
    assert "simpnet_slim_301k" in message
    assert "simpnet_slim_300k" in message
    assert run("lint", "vgg16", "--image-size", "8") == 2
    assert "too small" in capsys.readouterr().err
