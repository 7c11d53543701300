"""Drawings: the same bytes for the same figure, and no change to the process."""

from __future__ import annotations

import base64
import io
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from convatlas.plots import COLOURS, Series, filters, line_chart, svg, thumbnail


def chart() -> Figure:
    return line_chart(
        [
            Series("a <b> & $x$", [1, 2, 3], [0.1, None, 0.3]),
            Series("b", [1, 2, 3], [float("nan"), 0.2, 0.4], "series-2"),
        ],
        title="Accuracy", x_label="epoch", percent=True, mark_x=2,
    )  # fmt: skip


@pytest.mark.parametrize("themed", [False, True])
def test_the_same_figure_gives_the_same_well_formed_text(themed: bool) -> None:
    text = svg(chart(), themed=themed)
    assert text == svg(chart(), themed=themed)
    root = ET.fromstring(text)
    words = {(element.text or "").strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Accuracy", "epoch", "a <b> & $x$", "b"} <= words
    assert any(word.endswith(" %") for word in words)
    assert "2026" not in text
    assert "<metadata" not in text
    assert "<style" not in text
    if themed:
        assert "width" not in root.attrib
        assert all(f"var(--{role}, {COLOURS[role]})" in text for role in ("ink", "series-1", "series-2"))
        assert "DejaVu" not in text
    else:
        assert "var(" not in text


def test_drawing_changes_nothing_in_the_process() -> None:
    before = dict(mpl.rcParams)
    svg(chart())
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_chart_of_nothing_and_of_one_point() -> None:
    ET.fromstring(svg(line_chart([Series("a", [], [])], title="empty")))
    ET.fromstring(svg(line_chart([Series("a", [1], [0.5])], title="one", x_scale="log", scale="log")))


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_keep_small_pictures_and_shrink_large_ones(channels: int) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 33, channels), np.uint8)
    uri, sharp = thumbnail(small, 192)
    kind, content = uri.split(",")
    assert (kind, sharp) == ("data:image/png;base64", True)
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert np.array_equal(np.asarray(image).reshape(small.shape), small)
    for shape, size in (((300, 600), (192, 96)), ((900, 3), (1, 192)), ((100, 100), (100, 100))):
        uri, sharp = thumbnail(rng.integers(0, 256, (*shape, channels), np.uint8), 192)
        assert not sharp
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
            assert (image.format, image.size) == ("JPEG", size)


def test_filters_put_zero_in_the_middle_and_the_peak_at_the_end() -> None:
    weight = np.zeros((2, 3, 3, 3))
    weight[0, 0, 1, 1], weight[0, 2, 0, 0] = 0.5, -0.25
    shown = filters(weight)
    assert shown.shape == (2, 3, 3, 3)
    assert shown[0, 1, 1].tolist() == [255, 128, 128]
    assert shown[0, 0, 0].tolist() == [128, 128, 64]
    assert (shown[1] == 128).all()
    assert filters(np.ones((4, 16, 5, 5))).shape == (4, 5, 5, 1)


def test_a_logarithmic_axis_is_labelled_in_numbers() -> None:
    """Formulas are not read in texts, so a label must not be one."""
    drawn = svg(line_chart([Series("norm", [1, 2, 3], [1e-6, 1.0, 1e6])], title="norms", scale="log"))
    assert "mathdefault" not in drawn
    assert ">1e-06<" in drawn
    assert ">1<" in drawn
