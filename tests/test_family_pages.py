"""The tables of the family pages are what the registry says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from convatlas.models import specs

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_current(tables: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_network_stands_on_a_page() -> None:
    pages = "".join(page.read_text() for page in (DOCS / "families").glob("*.md"))
    assert [spec.name for spec in specs() if f"| `{spec.name}` |" not in pages] == []


def test_a_stale_table_is_seen_and_mended(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "lenet.md"
    page.write_text((DOCS / "families" / "lenet.md").read_text().replace("61,706 |", "60,000 |"))
    monkeypatch.setattr(tables, "PAGES", tmp_path)
    assert tables.main(["--check"]) == 1
    assert tables.main([]) == 0
    assert page.read_text() == (DOCS / "families" / "lenet.md").read_text()
