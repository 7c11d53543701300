"""The page of a measurement: one file, whole, safe, and readable without scripts."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from convatlas.cli.target import resolve
from convatlas.measure import measure, table
from convatlas.measure.cost import Measurement, Row
from convatlas.measure.page import page, write
from convatlas.models import find


class Reader(HTMLParser):
    """Every row's cells, with the number of folded modules that it lies in."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, list[str]]] = []
        self.depth, self.open, self.links = 0, 0, []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag == "details":
            self.depth += 1
            self.open += "open" in given
        if (given.get("class") or "").startswith("row"):
            self.rows.append((self.depth - (tag == "summary"), []))
        self.inside = tag == "span"
        if self.inside:
            self.rows[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][1][-1] += data


@pytest.fixture(scope="module")
def resnet() -> tuple[str, Measurement]:
    found = resolve("resnet18")
    cost = measure(found.model, found.input_shape)
    return page(cost, found.model, title="resnet18", spec=find("resnet18")), cost


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_row_is_there_with_its_numbers(resnet: tuple[str, Measurement]) -> None:
    text, cost = resnet
    rows = [words for _, words in read(text).rows]
    assert rows[0] == table.header(cost, wide=True)
    assert rows[-1] == table.cells(cost, wide=True)[-1]
    numbers = [words[1:] for words in rows]
    for words in table.cells(cost, wide=True):
        assert words[1:] in numbers
    assert find("resnet18").paper.title not in text  # the title is the caller's
    assert str(find("resnet18").published.layers) in text


def test_modules_hold_their_rows(resnet: tuple[str, Measurement]) -> None:
    reader = read(resnet[0])
    depths = {words[0]: depth for depth, words in reversed(reader.rows)}
    assert (depths["features.conv2_x"], depths["0"], depths["residual"], depths["bn1"]) == (0, 1, 2, 3)
    assert reader.depth == 0
    assert reader.open == 0  # stages are shown, and closed
    found = resolve("resnet18")
    assert read(page(resnet[1], found.model, depth=None)).open == resnet[0].count("<details")


def test_it_needs_nothing_else(resnet: tuple[str, Measurement]) -> None:
    assert read(resnet[0]).links == []
    assert not re.search(r"https?://|@import|url\(", resnet[0])


def test_names_are_data() -> None:
    name = '"><script>alert(1)</script>'
    text = page(Measurement("M", (1,), (Row(name, name, (1,), 1, 1, 1, 4),)), title=name)
    assert "<script>alert" not in text
    assert text.count(html.escape(name)) >= 3


def test_doubts_stand_above_the_rows() -> None:
    text = page(Measurement("M", (1,), (Row("fft", "FFT", (1,), 0, 0, 1, 4, unknown=("_fft_c2c",)),)))
    assert re.search(r'class="doubt">Not counted.*_fft_c2c', text)
    assert ">?<" in text


def test_the_file_is_written_whole(resnet: tuple[str, Measurement], tmp_path: Path) -> None:
    file = tmp_path / "resnet18.html"
    write(file, resnet[1])
    assert file.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18.html"]
