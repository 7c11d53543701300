"""The same words in every style."""

from __future__ import annotations

import csv
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


def unknown() -> Measurement:
    return Measurement(
        "M",
        (3, 8, 8),
        (
            Row("input", "image", (3, 8, 8), 0, 0, 192, 768),
            Row("conv", "conv 1x1, 4", (4, 8, 8), 16, 768, 256, 1024, trainable=16),
            Row("mixed", "Mixed", (4, 8, 8), 0, 10, 256, 1024, operations=5, unknown=("solve", "fft")),
            Row("fft", "FFT", (4, 8, 8), 0, 0, 256, 1024, unknown=("fft",)),
        ),
    )


def test_what_is_not_known_is_never_zero() -> None:
    cost = unknown()
    column = table.header(cost).index("MACs")
    assert [line[column] for line in table.cells(cost)] == ["", "768", ">= 10", "?", ">= 778"]
    facts = {what: ours for what, ours, _ in table.facts(cost)}
    assert (facts["MACs"], facts["other operations"]) == (">= 778", ">= 5")
    (sentence,) = table.doubts(cost)
    assert "fft, solve, in mixed, fft." in sentence
    assert "at least" in sentence
    assert table.doubts(measure(nn.Conv2d(1, 1, 1), (1, 4, 4))) == []


def test_frozen_parameters_have_a_column_where_there_are_any() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))
    assert "frozen" not in table.header(measure(network, (3, 8, 8)))
    network[0].requires_grad_(False)
    cost = measure(network, (3, 8, 8))
    column = table.header(cost).index("frozen")
    assert [line[column] for line in table.cells(cost)] == ["", "16", "", "16"]
    assert ("frozen parameters", "16", "") in table.facts(cost)


def test_lost_and_misaligned_receptive_fields_are_said() -> None:
    class Turned(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flip(2)

    cost = measure(nn.Sequential(nn.Conv2d(3, 4, 3), Turned()), (3, 8, 8))
    (sentence,) = table.doubts(cost)
    assert sentence.startswith('"?" as a receptive field')
    assert sentence.endswith("in 1, nor through what comes after.")

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5, padding=2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.left(image) + self.right(image)[..., :-2, :-2]

    (sentence,) = table.doubts(measure(Shifted(), (3, 16, 16)))
    assert "up to 1 px apart, in (add)" in sentence


def test_csv_has_exact_numbers() -> None:
    lines = list(csv.DictReader(io.StringIO(table.to_csv(unknown()))))
    assert [line["name"] for line in lines] == ["input", "conv", "mixed", "fft"]
    assert lines[1]["output_shape"] == "4x8x8"
    assert lines[1]["kind"] == "conv 1x1, 4"
    assert (lines[1]["params"], lines[1]["macs"]) == ("16", "768")
    assert lines[2]["unknown"] == "solve fft"
    assert lines[0]["field"] == ""


def test_names_are_data_in_every_style() -> None:
    name = "[bold]a|b</td><script>"
    cost = Measurement("M", (1,), (Row(name, "[/]", (1,), 1, 1, 1, 4),))
    assert "<script>" not in table.html_rows(cost)
    assert name in html.unescape(table.html_rows(cost))
    assert r"a\|b" in table.markdown(cost)
    screen = Console(file=io.StringIO(), width=140)
    screen.print(table.rich_table(cost))
    assert name in screen.file.getvalue()  # type: ignore[attr-defined]


def test_names_break_no_line_and_are_no_formula() -> None:
    rows = tuple(Row(name, "ReLU", (1,), 1, 1, 1, 4) for name in ("new\nline", "=cmd()", "-1", "esc\x1b[2J"))
    cost = Measurement("M", (1,), rows)
    lines = table.markdown(cost).splitlines()
    assert len(lines) == 2 + len(rows) + 1
    assert r"new\nline" in lines[2]
    assert len(table.text(cost).splitlines()) == 2 + len(rows) + 2
    assert "\x1b" not in table.text(cost) + table.html_rows(cost)
    names = [line["name"] for line in csv.DictReader(io.StringIO(table.to_csv(cost)))]
    assert names == ["new\nline", "'=cmd()", "'-1", "esc\x1b[2J"]
    assert [row["name"] for row in json.loads(table.to_json(cost))["rows"]] == [row.name for row in rows]


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
