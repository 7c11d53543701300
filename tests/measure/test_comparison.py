"""Networks side by side: the best line against brute force, words that cover nothing, errors with their tests."""

from __future__ import annotations

import math
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure import measure
from convatlas.measure.charts import Bar, bars, scatter
from convatlas.measure.comparison import (
    Entry,
    Error,
    Point,
    cells,
    entry,
    page,
    pareto,
    points,
    published_errors,
    spelled,
)
from convatlas.measure.labels import Rectangle, crosses, lead, overlap, place, within
from convatlas.models import create_model, find, specs
from convatlas.plots import svg, svg_file

SVG = "{http://www.w3.org/2000/svg}"
POINTS = st.lists(
    st.builds(
        Point,
        st.text("abc", max_size=3),
        st.integers(1, 9).map(float),
        st.integers(1, 9).map(float),
        st.just("t"),
    ),
    max_size=30,
)


# --- the best of one test -------------------------------------------------------------------------------------


@given(POINTS)
def test_the_best_line_is_that_of_brute_force(found: list[Point]) -> None:
    def beaten(p: Point) -> bool:
        return any(q.x <= p.x and q.y <= p.y and (q.x < p.x or q.y < p.y) for q in found)

    expected = sorted((p.x, p.y) for p in found if not beaten(p))
    assert [(p.x, p.y) for p in pareto(found)] == expected


# --- words beside marks ---------------------------------------------------------------------------------------

MARKERS = st.lists(
    st.tuples(st.floats(0, 300), st.floats(0, 200), st.floats(1, 12), st.floats(5, 90), st.floats(5, 14)),
    max_size=40,
)


@given(MARKERS)
@settings(max_examples=60, deadline=None)
def test_words_cover_nothing(given_: list[tuple[float, ...]]) -> None:
    markers = [(x, y, r) for x, y, r, _, _ in given_]
    bounds, taken = (0.0, 0.0, 300.0, 200.0), [(10.0, 10.0, 40.0, 20.0)]
    found = place(markers, [(w, h) for *_, w, h in given_], bounds, taken)
    words = [each for each in found if each is not None]
    for first, second in combinations([*words, *taken], 2):
        assert not overlap(first, second)
    for each in words:
        assert within(each, bounds)
        assert not any(overlap(each, (x - r, y - r, 2 * r, 2 * r)) for x, y, r in markers)
    for marker, own in zip(markers, found, strict=True):
        line = lead(marker, own) if own else None
        assert not (line and any(crosses(line, each) for each in words if each is not own))
    assert found == place(markers, [(w, h) for *_, w, h in given_], bounds, taken)


def test_a_mark_alone_has_its_words_to_the_right() -> None:
    (words,) = place([(100, 100, 5)], [(40, 10)], (0, 0, 300, 200))
    assert words == (107, 95, 40, 10)


def test_no_room_is_no_place() -> None:
    assert place([(5, 5, 5)], [(40, 10)], (0, 0, 10, 10)) == [None]


@given(
    st.tuples(*[st.floats(-9, 9)] * 4),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(1, 6), st.floats(1, 6)),
)
@settings(deadline=None)
def test_crossing_is_what_a_walk_along_the_line_finds(ends: tuple[float, ...], rectangle: Rectangle) -> None:
    (x0, y0, x1, y1), (x, y, w, h) = ends, rectangle
    steps = [(x0 + (x1 - x0) * i / 2000, y0 + (y1 - y0) * i / 2000) for i in range(2001)]
    if (
        any(x + 1e-6 < a < x + w - 1e-6 and y + 1e-6 < b < y + h - 1e-6 for a, b in steps)
        and math.dist(ends[:2], ends[2:]) > 0.1
    ):
        assert crosses(((x0, y0), (x1, y1)), rectangle)
    if not any(x - 0.01 < a < x + w + 0.01 and y - 0.01 < b < y + h + 0.01 for a, b in steps):
        assert not crosses(((x0, y0), (x1, y1)), rectangle)


# --- errors and their tests -----------------------------------------------------------------------------------


def test_every_printed_error_is_there_with_its_test() -> None:
    for spec in specs():
        printed = spec.published
        main = [printed.error_pct, printed.top1_error_pct, printed.top5_error_pct]
        expected = [text for text in main if text] + list(printed.other_errors_pct.values())
        found = published_errors(printed)
        assert [error.printed for error in found] == expected
        assert all(error.test and error.test != "not said" for error in found), spec.name
        assert not any("top-" in error.test for error in found)


def test_other_errors_keep_their_rank_and_test() -> None:
    found = published_errors(find("densenet121").published)
    assert [(e.metric, e.percent, e.test) for e in found] == [
        ("top1", 25.02, "ILSVRC-2012 val, 1-crop"),
        ("top5", 7.71, "ILSVRC-2012 val, 1-crop"),
        ("top1", 23.61, "ILSVRC-2012 val, 10-crop"),
        ("top5", 6.66, "ILSVRC-2012 val, 10-crop"),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [("ILSVRC-2012 val, one crop", "ILSVRC-2012 val, 1-crop"), ("ILSVRC-2012 val, 1 crop", "ILSVRC-2012 val, 1-crop"),
     ("ILSVRC-2012 val, one crop of 224", "ILSVRC-2012 val, 1-crop of 224"), ("val, 10-crop", "val, 10-crop"),
     (", ILSVRC test, 6 networks, 144 crops", "ILSVRC test, 6 networks, 144 crops")],
)  # fmt: skip
def test_only_spellings_are_taken_for_the_same(text: str, name: str) -> None:
    assert spelled(text) == name


def error(percent: float, test: str, metric: str = "top1") -> Error:
    return Error(metric, percent, f"{percent:g}", test, "paper")  # type: ignore[arg-type]


def made(name: str, params: int, *errors: Error, ms: float | None = None) -> Entry:
    return Entry(name, (3, 8, 8), params, 10 * params, 5, errors=errors, milliseconds=ms)


def test_points_are_of_tests_that_are_some_networks_main_one() -> None:
    networks = [
        made("a", 10, error(20, "one"), error(18, "ten"), error(2, "other set")),
        made("b", 20, error(17, "ten")),
        made("c", 30),
    ]
    assert [(p.name, p.x, p.y, p.test) for p in points(networks, "params", "top1")] == [
        ("a", 10, 20, "one"), ("a", 10, 18, "ten"), ("b", 20, 17, "ten")]  # fmt: skip
    assert points(networks, "ms", "top1") == [], "nothing was timed"
    with pytest.raises(UsageError, match="params, macs, ms"):
        points(networks, "watts", "top1")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top1, top5"):
        points(networks, "ms", "top2")  # type: ignore[arg-type]


def test_the_table_says_what_there_is() -> None:
    titles, lines = cells(
        [made("a", 1200, error(20, "one"), error(5, "one", "top5"), error(18, "ten")), made("b", 7)]
    )
    assert titles == ["network", "input", "parameters", "MACs", "activations", "error, %", "test", "source"]
    assert lines == [
        ["a", "3 x 8 x 8", "1,200", "12,000", "5", "top-1 20, top-5 5", "one", "paper"],
        ["", "", "", "", "", "top-1 18", "ten", "paper"],
        ["b", "3 x 8 x 8", "7", "70", "5", "", "", ""],
    ]
    titles, lines = cells([made("b", 7, ms=1.23456)], short=True)
    assert titles == ["network", "input", "parameters", "MACs", "activations", "ms"]
    assert lines == [["b", "3x8x8", "7", "70", "5", "1.23"]]


def test_an_entry_is_measured() -> None:
    found = entry(
        "net", measure(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)), (3, 8, 8))
    )
    assert (found.params, found.macs) == (112 + 290, 4 * 36 * 27 + 288)
    assert found.errors == ()


def test_the_field_of_a_squeezed_network_is_that_of_its_last_map() -> None:
    network = create_model("efficientnet_b0")
    assert entry("efficientnet_b0", measure(network)).field == "851 + global"


# --- charts ---------------------------------------------------------------------------------------------------

CROWD = [
    Point(f"network_{i}", 10.0 ** (6 + i % 5 / 3), 15.0 + i, f"test {i % 7}", float(i + 1)) for i in range(40)
]


@pytest.mark.parametrize("bubbles", [False, True])
def test_a_chart_has_a_mark_for_every_point_and_a_shape_for_every_test(bubbles: bool) -> None:
    drawn = scatter(CROWD, "macs", "top1", bubbles=bubbles)
    axes = drawn.figure.axes[0]
    marks = [collection for collection in axes.collections if len(collection.get_offsets())]
    assert sum(len(collection.get_offsets()) for collection in marks) == len(CROWD)
    shapes = {collection.get_paths()[0].vertices.tobytes() for collection in marks}
    assert len(shapes) == 7
    assert axes.get_xscale() == axes.get_yscale() == "log"
    (legend,) = drawn.figure.legends
    assert {f"test {i}" for i in range(7)} <= {text.get_text() for text in legend.get_texts()}
    named = [text for text in axes.texts if text.get_visible()]
    assert len(named) + len(drawn.unnamed) == len(CROWD)
    extents = [text.get_window_extent() for text in named]
    for first, second in combinations(extents, 2):
        assert not first.overlaps(second)
    text = svg_file(drawn.figure)
    ElementTree.fromstring(text)
    assert text == svg_file(scatter(CROWD, "macs", "top1", bubbles=bubbles).figure), "the same bytes"
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


@pytest.mark.parametrize("count", [1, 2])
def test_few_points(count: int) -> None:
    drawn = scatter([Point(f"n{i}", 5.0, 7.0 + i, "t") for i in range(count)], "ms", "top5")
    assert not drawn.unnamed


def test_bars_say_their_values() -> None:
    text = svg(
        bars([Bar("1998", 28.2, "28.2 %"), Bar("2012", 16.4, "16.4 %", "8 layers")], title="t", y_label="y")
    )
    words = "".join(ElementTree.fromstring(text).itertext())
    assert all(each in words for each in ("1998", "28.2 %", "8 layers"))


def test_a_page_escapes_names() -> None:
    made_page = page(["network", "MACs"], [["<script>", "1"]])
    assert "<script>" not in made_page
    assert "&lt;script&gt;" in made_page
