"""Frames and figures: a frame shows the cells that make its number; files are valid, small, the same each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.convolution import IMAGE, KERNEL
from convatlas.measure.arithmetic.figures import kernels_figure, matrix_figure, roi_figure, sample_image
from convatlas.measure.arithmetic.frames import (
    CASES,
    Sliding,
    animated,
    conv_frames,
    sheet,
    transposed_frames,
)
from convatlas.measure.arithmetic.matrix import conv_matrix

SVG = "{http://www.w3.org/2000/svg}"


def made_by_frames(shown: Sliding, image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The output as the frames draw it: each number from the cells under its taps."""
    room = torch.zeros(shown.room, shown.room)
    for (i, j), value in zip(shown.pixels, image.flatten(), strict=True):
        room[i, j] = value
    output = torch.zeros(shown.size, shown.size)
    for each in shown.frames:
        cells = torch.stack([room[place] for place in each.window])
        output[each.output] = (cells * kernel.flatten()).sum()
    return output


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 0, 2), (3, 2, 2)])
def test_frames_of_a_convolution_work_it_out(stride: int, padding: int, dilation: int) -> None:
    image, kernel = torch.arange(49.0).view(7, 7), torch.arange(9.0).view(3, 3)
    shown = conv_frames(7, 3, stride=stride, padding=padding, dilation=dilation)
    theirs = functional.conv2d(image[None, None], kernel[None, None], None, stride, padding, dilation)[0, 0]
    assert torch.equal(made_by_frames(shown, image, kernel), theirs)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_frames_of_a_transposed_convolution_work_it_out(stride: int, padding: int) -> None:
    """Between zeros, with the kernel turned round, and a window that moves by one."""
    image, kernel = torch.arange(9.0).view(3, 3), torch.arange(9.0).view(3, 3)
    shown = transposed_frames(3, 3, stride=stride, padding=padding)
    theirs = functional.conv_transpose2d(image[None, None], kernel[None, None], None, stride, padding)[0, 0]
    assert torch.equal(made_by_frames(shown, image, kernel.flip(0, 1)), theirs)


def test_the_shown_cases() -> None:
    assert {name: (shown.room, shown.size) for name, shown in CASES.items()} == {
        "conv_no_padding_no_stride": (4, 2),
        "conv_padding": (7, 5),
        "transposed_padding_no_stride": (5, 3),
        "transposed_padding_stride": (7, 5),
        "dilated": (7, 3),
    }


@pytest.mark.parametrize("name", CASES)
def test_files(name: str) -> None:
    shown = CASES[name]
    for draw in (sheet, animated):
        text = draw(shown)
        assert text == draw(shown)
        root = ElementTree.fromstring(text)
        assert root.findtext(f"{SVG}title") == shown.title
        assert len(text) < 60_000
        assert not re.search(r"https?://(?!www\.w3\.org)|<script", text)
    frames = ElementTree.fromstring(animated(shown)).findall(f".//{SVG}animate")
    assert len(frames) == len(shown.frames)
    for position, frame in enumerate(frames):  # one is seen at any time
        times = [float(time) for time in frame.attrib["keyTimes"].split(";")]
        seen = frame.attrib["values"].split(";")
        assert times[0] == 0.0
        assert len(times) == len(seen)
        start = times[seen.index("1")]
        assert start == pytest.approx(position / len(frames), abs=1e-5)


def test_the_worked_example_shows_its_numbers() -> None:
    shown = conv_frames(5, 3, values=(IMAGE, KERNEL))
    text = sheet(shown)
    last = text[text.rindex("<g transform") :]
    numbers = re.findall(r">([×\d]+)</text>", last)
    assert [n for n in numbers if n.isdigit()][:9] == ["12", "12", "17", "10", "17", "19", "9", "6", "14"]
    assert [n for n in numbers if n.startswith("×")] == [f"×{n}" for row in KERNEL for n in row]


def test_figures() -> None:
    matrix = conv_matrix(torch.ones(3, 3), (4, 4))
    text = matrix_figure(matrix)
    ElementTree.fromstring(text)
    letters = re.findall(r">([a-i])</text>", text)
    assert len(letters) == matrix.non_zeros
    assert set(letters) == set("abcdefghi")
    kernels = kernels_figure()
    assert kernels == kernels_figure(sample_image())
    assert len(ElementTree.fromstring(kernels).findall(f"{SVG}image")) == 7
    region = roi_figure((17, 8, 92, 120))
    ElementTree.fromstring(region)
    assert "-1, +8, +20, +24 px; overlap 0.61" in region
    assert region.count("<circle") == 16


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: conv_frames(5, 3, values=(IMAGE, ((1,),))), r"kernel 3x3; \(5, 5\) and \(1, 1\) came"),
        (lambda: conv_frames(2, 3), "is smaller"),
        (lambda: transposed_frames(6, 3, padding=3), "at most 2 can be drawn"),
        (lambda: sheet(conv_frames(30, 3)), "784 frames are too many"),
        (lambda: animated(conv_frames(4, 3), seconds=0), "0.05 to 60"),
        (lambda: matrix_figure(conv_matrix(torch.ones(3, 3), (20, 20))), "4,096 numbers"),
        (lambda: kernels_figure(torch.zeros(3, 8, 8)), r"\(H, W\) is drawn; \(3, 8, 8\) came"),
    ],
)
def test_what_is_refused(call: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()  # type: ignore[operator]
