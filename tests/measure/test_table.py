"""The same words in every style."""

from __future__ import annotations

import html
import io
import json
import re

import pytest
import torch
from rich.console import Console
from torch import nn

from convatlas.measure import measure, table
from convatlas.measure.cost import Measurement, Row
from convatlas.models import create_model, find


@pytest.fixture(scope="module")
def vgg16() -> Measurement:
    with torch.device("meta"):
        return measure(create_model("vgg16"))


def words(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_every_style_says_the_same(vgg16: Measurement) -> None:
    expected = [[cell for cell in line if cell] for line in table.cells(vgg16)]
    plain = [words(line) for line in table.text(vgg16).splitlines()]
    assert plain[0] == table.header(vgg16)
    assert [line for line in plain[1:] if not set("".join(line)) <= {"-"}] == expected
    marked = [
        [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.markdown(vgg16).splitlines()
    ]
    assert [[cell for cell in line if cell] for line in marked[2:]] == expected
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.html_rows(vgg16).splitlines()]
    assert [[html.unescape(cell) for cell in line if cell] for line in rows] == expected
    screen = Console(file=io.StringIO(), width=140)
    screen.print(table.rich_table(vgg16))
    assert [words(line) for line in screen.file.getvalue().splitlines()][1:] == expected  # type: ignore[attr-defined]
    assert json.loads(table.to_json(vgg16))["activations"] == 15_237_608


def test_narrow_terminals_lose_nothing(vgg16: Measurement) -> None:
    screen = Console(file=io.StringIO(), width=80)
    screen.print(table.rich_table(vgg16))
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert "138,357,544" in printed
    assert "15,470,264,320" in printed


def test_facts_put_the_paper_beside_the_code(vgg16: Measurement) -> None:
    facts = {what: (ours, paper) for what, ours, paper in table.facts(vgg16, find("vgg16"))}
    assert facts["parameters"] == ("138,357,544", find("vgg16").published.params)
    assert facts["MACs"][0] == "15,470,264,320"
    assert facts["activation memory"] == ("58.1 MiB", "")
    spec = find("lenet5_1998")
    facts = {
        what: (ours, paper)
        for what, ours, paper in table.facts(measure(create_model("lenet5_1998"), (1, 32, 32)), spec)
    }
    assert spec.published.params_by_layer
    for layer, printed in spec.published.params_by_layer.items():
        assert facts[f"parameters of {layer}"] == (printed, printed)


def test_names_are_data_in_every_style() -> None:
    name = "[bold]a|b</td><script>"
    cost = Measurement("M", (1,), (Row(name, "[/]", (1,), 1, 1, 1, 4),))
    assert "<script>" not in table.html_rows(cost)
    assert name in html.unescape(table.html_rows(cost))
    assert r"a\|b" in table.markdown(cost)
    screen = Console(file=io.StringIO(), width=140)
    screen.print(table.rich_table(cost))
    assert name in screen.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9_999, "10.0 k"), (61_706, "61.7 k"), (999_499, "999 k"),
     (999_500, "1.00 M"), (25_557_032, "25.6 M"), (138_357_544, "138 M"), (15_470_264_320, "15.5 G")],
)  # fmt: skip
def test_counts_for_people(count: int, text: str) -> None:
    assert table.count_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (60_950_432, "58.1 MiB"), (2**40, "1.0 TiB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert table.bytes_text(count) == text


def test_a_network_of_one_layer() -> None:
    assert "Conv2d" in table.text(measure(nn.Conv2d(1, 1, 1), (1, 4, 4)))
