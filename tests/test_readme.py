"""The README's commands print what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from convatlas.cli import main
from convatlas.models import specs

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```console\n\$ convatlas (.*?)\n(.*?)```", README.read_text(), re.DOTALL)


MEASURED = "images/s, "  # how close to the machine's limit


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as left:
        main.run(shlex.split(command))
    assert left.value.code == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def shape(line: str) -> str:
    """The line without its digits and best marks: figures of a training depend on the machine's arithmetic."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.,]+", "0", line.replace("best so far", "")))


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_a_command_prints_what_the_readme_says(
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed(command, capsys)
    if command.startswith("train"):
        between = [line for line in lines if not re.match(r"epoch .* left$", line)]  # said every ten seconds
        said = shown.splitlines()
        if not any(MEASURED in line for line in between):  # the machine was too busy to be measured
            said = [line for line in said if MEASURED not in line]
        assert [*map(shape, between)] == [*map(shape, said)]
    else:
        assert lines == shown.splitlines()


def test_there_are_three() -> None:
    assert len(BLOCKS) == 3


def test_the_networks_are_counted() -> None:
    found = specs()
    families = len({spec.family for spec in found})
    assert f"{len(found)} classifiers of {families} families" in README.read_text()
