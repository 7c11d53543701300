"""Charts and tables over the canon: current, and each number where the registry, a network or a lecture has it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from convatlas.audit import canon
from convatlas.audit.lectures import reference
from convatlas.models import find, specs

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def charts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("charts", DOCS / "charts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_charts_are_current(charts: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert charts.main(["--check"]) == 0, capsys.readouterr().out
    assert {name for name, _ in charts.REQUEST.findall(charts.PAGE.read_text())} == set(charts.CHARTS)


def test_a_stale_chart_is_seen(charts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "compare.md"
    page.write_text("<!-- chart: contest -->\n![Winners](charts/contest.svg)\n")
    monkeypatch.setattr(charts, "PAGE", page)
    assert charts.main(["--check"]) == 1
    assert charts.main([]) == 0
    assert charts.main(["--check"]) == 0
    drawing = tmp_path / "charts" / "contest.svg"
    drawing.write_text(drawing.read_text().replace("28.2", "28.3"))
    assert charts.main(["--check"]) == 1


def test_the_contests_bars_are_the_notes_and_the_networks() -> None:
    values, source = reference("complexity-comparison", "top-5 per year 2010-2017")
    assert source.startswith("paper")
    words = "".join(ElementTree.fromstring(canon.contest_bars()).itertext())
    assert all(f"{value:.1f} %" in words for value in values)
    assert all(f"{layers} layers" in words for layers in (8, 22, 152, 154))
    with pytest.raises(KeyError):
        reference("complexity-comparison", "top-6")


def test_every_winners_paper_is_of_its_year_or_the_one_before() -> None:
    for year, name in canon.WINNERS.items():
        assert find(name).paper.year in (year, year - 1)


@pytest.mark.parametrize(
    ("test", "expected"),
    [("CIFAR-10 test, not augmented", ("C10", "")), ("CIFAR-100, augmented", ("C100+", "")),
     ("CIFAR-10, augmented, without dropout and drop-path", ("C10+", "without dropout and drop-path")),
     ("SVHN test, dropout", ("SVHN", "dropout")), ("ILSVRC-2012 val", None)],
)  # fmt: skip
def test_columns_of_small_images(test: str, expected: tuple[str, str] | None) -> None:
    assert canon.column(test) == expected


def test_no_printed_error_on_small_images_is_lost() -> None:
    header, rows = canon.small_images_table()
    shown = sum(
        len(re.findall(r"\d+\.\d+", re.sub(r"\(.*?\)", "", cell))) for row in rows for cell in row[4:]
    )
    printed = 0
    for spec in specs():
        tests = dict(spec.published.other_errors_pct)
        if spec.published.error_pct:
            tests[spec.published.test or ""] = spec.published.error_pct
        printed += sum(test.startswith(("CIFAR", "SVHN")) for test in tests)
        if spec.published.test in spec.published.other_errors_pct:
            printed += 1
    assert shown == printed > 100
    row = dict(zip(header, next(row for row in rows if row[0] == "`densenet_bc_100_12_cifar`"), strict=True))
    assert (row["C10"], row["C10+"], row["C100"], row["C100+"], row["SVHN"]) == (
        "5.92",
        "4.51",
        "24.15",
        "22.27",
        "1.76",
    )
    assert row["parameters"] == "769,162"


def test_filters_are_those_of_the_papers() -> None:
    rows = {row[2]: row for row in canon.filter_table()[1]}
    assert rows["`alexnet_paper`"][3] == "96@11x11, 256@5x5, 2 × 384@3x3, 256@3x3"
    assert rows["`vgg16`"][4] == "64-128-256-512"
    assert rows["`resnet50`"][5] == "36 of 1x1, 16 of 3x3, 1 of 7x7"


def test_peers_are_all_in_the_zoos_table() -> None:
    words = {word for row in canon.zoo_table()[1] for cell in row[2:] for word in cell.split(", ") if word}
    assert words == {peer for spec in specs() for peer in spec.peers.values()}


def test_choices_are_as_many_as_the_lecture_has() -> None:
    assert len(canon.choices_table()[1]) == 5


def test_images_have_the_lectures_numbers() -> None:
    rows = {row[0]: row[2] for row in canon.images_table()[1]}
    assert rows["MNIST"] == "train/test: 60,000 and 10,000 images"
