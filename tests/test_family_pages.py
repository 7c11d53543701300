"""The family pages: their tables are what the registry says now, and they refer to the papers."""

from __future__ import annotations

import importlib.util
import re
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


def references(page: Path) -> list[str]:
    """The entries of the page's last section, if that is "References"."""
    heading, _, section = page.read_text().rpartition("\n## ")[2].partition("\n")
    return re.split(r"^- ", section, flags=re.MULTILINE)[1:] if heading == "References" else []


def test_every_family_has_a_page_and_every_page_a_family() -> None:
    pages = {page.stem for page in (DOCS / "families").glob("*.md")} - {"index"}
    assert pages == {spec.family for spec in specs()}


@pytest.mark.parametrize("family", sorted({spec.family for spec in specs()}))
def test_references_name_the_papers_of_the_family(family: str) -> None:
    entries = references(DOCS / "families" / f"{family}.md")
    for paper in {spec.paper for spec in specs() if spec.family == family}:
        author = paper.authors.split(",")[0]
        named = [entry for entry in entries if author in entry and re.search(rf"\b{paper.year}\b", entry)]
        assert named, f"no entry of {family}.md names {author}, {paper.year}"
