"""The inspecting verbs at the edges: other shapes, other places to write to, Ctrl-C."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from convatlas.cli import main

NETS = '''
import torch
from torch import nn

volume = lambda: nn.Sequential(
    nn.Conv3d(1, 4, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 8, 3),
    nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4),
)


class Interrupted(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


class Keyed(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)

    def forward(self, x, *, scale):
        return super().forward(x) * scale
'''  # fmt: skip

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def convatlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of a command in a folder with `nets.py`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main.run(words)
        shown = capsys.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    return run


def test_volumes_for_every_verb(convatlas: Run) -> None:
    shape = ("--input-shape", "1,12,12,12")
    code, out, err = convatlas("diagnose", "nets.py:volume", *shape, "--batch", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)
    code, out, _ = convatlas("bench", "nets.py:volume", *shape, "--seconds", "0.2", "--rounds", "1")
    assert code == 0
    assert "1 x 1 x 12 x 12 x 12" in out
    code, out, err = convatlas("compare", "nets.py:volume", *shape, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["input_shape"] == [1, 12, 12, 12]
    code, out, err = convatlas("lint", "nets.py:volume", *shape)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("verb", ["diagnose", "bench", "compare"])
def test_the_advice_is_an_option_that_exists(convatlas: Run, verb: str) -> None:
    code, _, err = convatlas(verb, "nets.py:volume")
    assert code == 2
    assert "--input-shape" in err
    assert convatlas(verb, "nets.py:volume", "--input-shape", "1;12")[0] == 2
    code, _, err = convatlas(verb, "lenet5", "--input-shape", "1,32,32", "--image-size", "32")
    assert code == 2
    assert "--image-size" in err


def test_only_plain_files_are_written(convatlas: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    for option in ("--html", "--graph"):
        code, _, err = convatlas("describe", "lenet5", option, "pipe.svg")
        assert code == 6
        assert "a pipe; name a plain file" in err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    code, _, err = convatlas("describe", "lenet5", "--html", ".")
    assert code == 6
    assert "a folder; name a plain file" in err
    code, _, err = convatlas("describe", "lenet5", "--html", "nowhere/page.html")
    assert code == 6
    assert "there is no folder nowhere" in err
    assert ".tmp" not in err


def test_a_drawing_is_named_as_what_it_is(convatlas: Run, tmp_path: Path) -> None:
    code, _, err = convatlas("describe", "lenet5", "--graph", "x.png")
    assert code == 2
    assert "SVG" in err
    assert not (tmp_path / "x.png").exists()


def test_settings_that_a_constructor_chokes_on(convatlas: Run) -> None:
    code, _, err = convatlas("describe", "timm:resnet18", "--option", "block=5")
    assert code == 2
    assert "timm:resnet18 cannot be built with {'block': 5}" in err


def test_an_argument_by_keyword_alone(convatlas: Run) -> None:
    code, _, err = convatlas("describe", "nets.py:Keyed", "--image-size", "8")
    assert code == 2
    assert "'scale'" in err
    assert "a list" not in err


def test_ctrl_c_says_so(convatlas: Run) -> None:
    code, out, err = convatlas("describe", "nets.py:Interrupted", "--input-shape", "3,8,8")
    assert (code, out, err) == (130, "", "interrupted\n")
