"""`convatlas audit`: tables, JSON, Markdown, patterns and exit codes."""

from __future__ import annotations

import json

import pytest
from test_main import run

from convatlas.audit.explained import EXPLAINED


def test_names_patterns_and_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "vgg1?", "lenet5_1998") == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines() if line.startswith(("vgg", "lenet"))} == {
        "lenet5_1998", "vgg11", "vgg13", "vgg16", "vgg19",
    }  # fmt: skip
    assert "printed figures: " in out
    assert "0 differ," in out


def test_an_unexplained_difference_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(EXPLAINED, ("resnet50", "params"))
    assert run("audit", "resnet50") == 1
    shown = capsys.readouterr()
    assert "resnet50: params 25.5M" in shown.err
    assert "25.6M" in shown.out, "the table is printed all the same"


def test_json_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "lenet*", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["counts"]["holds"] == len([f for f in plain["figures"] if f["verdict"] == "holds"])
    assert run("audit", "resnet50", "--markdown") == 0
    assert "| resnet50 | params | 25.5M | 25.6M (25,557,032) | explained |" in capsys.readouterr().out


def test_lectures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "--lectures", "lenet5-*", "--markdown") == 0
    out = capsys.readouterr().out
    assert "| lenet5-simplified 10 | trainable parameters | 60,000 parameters | 61,706 | slip |" in out
    assert "| lenet5-original error 2 |" in out
    assert "3 slips of the lectures, 2 of them seen by code" in out
    assert run("audit", "--lectures", "lenet5-*", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["slips"] == 3


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["vgg61"], "vgg16"),
        (["--lectures", "googlenets"], "googlenet"),
        (["--json", "--markdown"], "exclude"),
    ],
)
def test_wrong_commands(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", *words) == 2
    assert hint in capsys.readouterr().err
