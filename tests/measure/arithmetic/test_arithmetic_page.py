"""The page on arithmetic: its examples print what it says, and its figures are what the code draws."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arithmetic_figures", DOCS / "arithmetic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "arithmetic.md").read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "arithmetic.md", "arithmetic.md", 0)
    results = doctest.DocTestRunner().run(test)
    assert results.failed == 0
    assert results.attempted > 30


def test_figures_are_current(figures: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--check"]) == 0, capsys.readouterr().out
    shown = re.findall(r"\(arithmetic/(\w+)\.svg\)", (DOCS / "arithmetic.md").read_text())
    assert sorted(shown) == sorted(figures.FIGURES)
    assert {file.stem for file in figures.FOLDER.glob("*.svg")} == set(figures.FIGURES)


def test_a_stale_figure_is_seen_and_mended(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "arithmetic")
    assert figures.main(["--check"]) == 1
    assert "roi.svg is not what the code draws" in capsys.readouterr().out
    assert figures.main([]) == 0
    assert figures.main(["--check"]) == 0
