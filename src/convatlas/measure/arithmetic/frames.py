"""A window that slides, frame by frame: which cells make each number of the output, as a sheet or as an animation.

A transposed convolution is drawn as the convolution that it equals: the input's cells are spread by the stride with
zeros between them, the border is k - 1 - p zeros wide, the window moves by one. So padding makes the output smaller.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2018, figures 2.1 to 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from convatlas.errors import UsageError
from convatlas.measure.arithmetic import sketch
from convatlas.measure.arithmetic.convolution import cross_correlation
from convatlas.measure.arithmetic.output_size import conv_size, transposed_size

Place = tuple[int, int]
MOST = 256  # frames of a sheet that somebody can still look at


@dataclass(frozen=True, slots=True)
class Frame:
    """One position: the number that is made, and the cells under the kernel's taps, in cells of the room."""

    output: Place
    window: tuple[Place, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sliding:
    """All positions of a square window over a square input.

    Attributes:
        title: what is shown, in words.
        room: side of the input with its border, and with the zeros between its cells.
        pixels: cells of the room that hold the input; all others are zeros that were added.
        size: side of the output.
        frames: positions in reading order.
        values: of the input's cells, the kernel's taps and the output, where the frames show numbers.
    """

    title: str
    room: int
    pixels: tuple[Place, ...]
    size: int
    frames: tuple[Frame, ...]
    values: tuple[Tensor, Tensor, Tensor] | None = None


def conv_frames(
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    values: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None = None,
) -> Sliding:
    """A convolution over width x width cells; `values`, an image and a kernel, are shown and worked out.

    Raises `UsageError` where the window does not fit, or the values have other sides.

    Examples:
        >>> shown = conv_frames(4, 3)
        >>> shown.size, shown.frames[1].output, shown.frames[1].window[:3]
        (2, (0, 1), ((0, 1), (0, 2), (0, 3)))
    """
    found = conv_size(width, kernel, stride=stride, padding=padding, dilation=dilation)
    pixels = tuple((padding + i, padding + j) for i, j in product(range(width), repeat=2))
    title = f"conv {kernel}x{kernel}, padding {padding}, stride {stride}" + (
        f", dilation {dilation}" if dilation > 1 else ""
    )
    numbers = None
    if values is not None:
        image, weight = (torch.as_tensor(each) for each in values)
        if image.shape != (width, width) or weight.shape != (kernel, kernel):
            raise UsageError(
                f"values are an image {width}x{width} and a kernel {kernel}x{kernel}; {tuple(image.shape)} and "
                f"{tuple(weight.shape)} came."
            )
        result = cross_correlation(image, weight, stride=stride, padding=padding, dilation=dilation)
        numbers = (image, weight, result)
    frames = _positions(found.size, kernel, stride, dilation)
    return Sliding(title, width + 2 * padding, pixels, found.size, frames, numbers)


def transposed_frames(width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> Sliding:
    """A transposed convolution over width x width cells.

    Raises `UsageError` where nothing comes out, or the padding is larger than the kernel less one.

    Examples:
        >>> shown = transposed_frames(2, 3, stride=2, padding=1)
        >>> shown.size, shown.room, shown.pixels
        (3, 5, ((1, 1), (1, 3), (3, 1), (3, 3)))
    """
    size = transposed_size(width, kernel, stride=stride, padding=padding).size
    border = kernel - 1 - padding
    if border < 0:
        raise UsageError(
            f"a padding of {padding} cuts into the input of a transposed convolution with a {kernel}x{kernel} "
            f"kernel; at most {kernel - 1} can be drawn."
        )
    pixels = tuple((border + stride * i, border + stride * j) for i, j in product(range(width), repeat=2))
    room = (width - 1) * stride + 1 + 2 * border
    title = f"transposed conv {kernel}x{kernel}, padding {padding}, stride {stride}"
    return Sliding(title, room, pixels, size, _positions(size, kernel, 1, 1))


def _positions(size: int, kernel: int, stride: int, dilation: int) -> tuple[Frame, ...]:
    taps = list(product(range(kernel), repeat=2))
    return tuple(
        Frame((r, c), tuple((r * stride + i * dilation, c * stride + j * dilation) for i, j in taps))
        for r, c in product(range(size), repeat=2)
    )


# The animations that lectures show. "Dilated by 1" means one zero between the taps: dilation 2.
CASES = {
    "conv_no_padding_no_stride": conv_frames(4, 3),
    "conv_padding": conv_frames(5, 3, padding=1),
    "transposed_padding_no_stride": transposed_frames(5, 3, padding=2),
    "transposed_padding_stride": transposed_frames(3, 3, stride=2, padding=1),
    "dilated": conv_frames(7, 3, dilation=2),
}


# --- drawing ------------------------------------------------------------------------------------------------

GAP, HEAD = 26, 30


def sheet(shown: Sliding, *, columns: int = 0, cell: int = 22) -> str:
    """All frames beside and below each other, as SVG: what is made so far is filled.

    `columns` is the side of the output unless given.
    """
    if len(shown.frames) > MOST:
        raise UsageError(f"{len(shown.frames)} frames are too many for a sheet; {MOST} can be shown.")
    columns = columns or shown.size
    width, height = _panel_size(shown, cell)
    name = "grids-" + re.sub(r"[^a-z0-9]+", "-", shown.title)
    body = [
        f'<defs><g id="{name}">{_grids(shown, cell)}</g></defs>',
        sketch.words(12, 20, shown.title, anchor="start", size=13, bold=True),
    ]
    for index, each in enumerate(shown.frames):
        x, y = 12 + (index % columns) * (width + GAP), HEAD + (index // columns) * (height + GAP)
        body.append(f'<g transform="translate({x:g} {y:g})"><use href="#{name}"/>')
        body.append(_made(shown, index, cell) + _window(shown, each, cell) + "</g>")
    rows = -(-len(shown.frames) // columns)
    wide = max(24 + columns * (width + GAP) - GAP, 24 + 8.4 * len(shown.title))
    return sketch.sheet(wide, HEAD + rows * (height + GAP) - GAP + 12, shown.title, body)


def animated(shown: Sliding, *, seconds: float = 0.8, cell: int = 30) -> str:
    """The frames one after the other, each for some seconds, without end; still viewers show the first."""
    if not 0.05 <= seconds <= 60:
        raise UsageError(f"{seconds} seconds for a frame were asked for; 0.05 to 60 are possible.")
    width, height = _panel_size(shown, cell)
    count = len(shown.frames)
    body = [sketch.words(12, 20, shown.title, anchor="start", size=13, bold=True)]
    body.append(f'<g transform="translate(12 {HEAD})">{_grids(shown, cell)}')
    for index, each in enumerate(shown.frames):
        times = [0.0, index / count, (index + 1) / count] if index else [0.0, 1 / count]
        seen = ["0", "1", "0"] if index else ["1", "0"]
        if index == count - 1:
            times, seen = times[:-1], seen[:-1]
        timing = (
            f'<animate attributeName="opacity" dur="{seconds * count:g}s" repeatCount="indefinite" calcMode="discrete" '
            f'keyTimes="{";".join(f"{time:.6g}" for time in times)}" values="{";".join(seen)}"/>'
        )
        body.append(
            f'<g opacity="{0 if index else 1}">{timing}{_made(shown, index, cell)}{_window(shown, each, cell)}</g>'
        )
    body.append("</g>")
    return sketch.sheet(max(24 + width, 24 + 8.4 * len(shown.title)), HEAD + height + 12, shown.title, body)


def _panel_size(shown: Sliding, cell: int) -> tuple[float, float]:
    return (shown.room + 1 + shown.size) * cell, max(shown.room, shown.size) * cell


def _grids(shown: Sliding, cell: int) -> str:
    """The input, its added zeros empty with dashed lines, and the output, still empty."""
    pixels = set(shown.pixels)
    added = [place for place in product(range(shown.room), repeat=2) if place not in pixels]
    x, y = _origin(shown, cell)
    return (
        sketch.squares([(j * cell, i * cell) for i, j in added], cell, "none", dashed=True)
        + sketch.squares([(j * cell, i * cell) for i, j in shown.pixels], cell, sketch.PIXEL)
        + _input_values(shown, cell)
        + sketch.squares(
            [(x + c * cell, y + r * cell) for r, c in product(range(shown.size), repeat=2)],
            cell,
            sketch.EMPTY,
        )
    )


def _input_values(shown: Sliding, cell: int) -> str:
    if shown.values is None:
        return ""
    return "".join(
        sketch.words((j + 0.5) * cell, (i + 0.66) * cell, sketch.number(value), size=cell * 0.46)
        for (i, j), value in zip(shown.pixels, shown.values[0].flatten().tolist(), strict=True)
    )


def _origin(shown: Sliding, cell: int) -> tuple[float, float]:
    """Where the output's upper left corner is: right of the input, half way up."""
    return (shown.room + 1) * cell, max(shown.room - shown.size, 0) * cell / 2


def _made(shown: Sliding, index: int, cell: int) -> str:
    """The numbers made up to this frame, the last one framed."""
    x, y = _origin(shown, cell)
    made = [each.output for each in shown.frames[: index + 1]]
    drawn = [sketch.squares([(x + c * cell, y + r * cell) for r, c in made], cell, sketch.RESULT)]
    if shown.values is not None:
        for r, c in made:
            text = sketch.number(shown.values[2][r, c].item())
            drawn.append(sketch.words(x + (c + 0.5) * cell, y + (r + 0.66) * cell, text, size=cell * 0.46))
    r, c = shown.frames[index].output
    drawn.append(sketch.frame(x + c * cell, y + r * cell, cell, cell, sketch.ORANGE))
    return "".join(drawn)


def _window(shown: Sliding, each: Frame, cell: int) -> str:
    """The cells under the taps, and the span of the window."""
    drawn = [sketch.squares([(j * cell, i * cell) for i, j in each.window], cell, sketch.WINDOW)]
    weights = shown.values[1].flatten().tolist() if shown.values is not None else []
    at = (
        dict(zip(shown.pixels, shown.values[0].flatten().tolist(), strict=True))
        if shown.values is not None
        else {}
    )
    for number, (i, j) in enumerate(each.window):
        if shown.values is not None:
            value = at.get((i, j), 0.0)
            drawn.append(
                sketch.words((j + 0.4) * cell, (i + 0.56) * cell, sketch.number(value), size=cell * 0.44)
            )
            weight = "×" + sketch.number(weights[number])
            drawn.append(
                sketch.words(
                    (j + 0.95) * cell,
                    (i + 0.93) * cell,
                    weight,
                    size=cell * 0.34,
                    anchor="end",
                    colour=sketch.ORANGE,
                )
            )
        elif (i, j) in shown.pixels:
            drawn.append(sketch.dot((j + 0.5) * cell, (i + 0.5) * cell, sketch.ORANGE, cell * 0.13))
    (top, left), (bottom, right) = each.window[0], each.window[-1]
    span = (right - left + 1) * cell, (bottom - top + 1) * cell
    return "".join(drawn) + sketch.frame(left * cell, top * cell, *span, sketch.ORANGE)
