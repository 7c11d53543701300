"""A picture of an effective receptive field: its map and its ellipse over an image, beside the theoretical box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from convatlas.measure.effective import Box, EffectiveField
from convatlas.plots import COLOURS

Pixels = NDArray[np.uint8]

SIDE = 520  # px, of the longer side of what is shown
FINE = 3  # times larger while it is drawn: smooth lines
MARGIN = 1.0  # of the image's longer side, on each side: a box that reaches further is told, not drawn
TEXT = 15  # px
HEAT, LINE, BACK = COLOURS["series-2"], COLOURS["series-1"], "#f4f6f8"


def picture(
    field: EffectiveField, image: Pixels | None = None, box: Box | None = None, *, title: str = ""
) -> Pixels:
    """The map in orange over `image`, the two-sigma ellipse of its Gaussian, the theoretical box dashed in blue.

    Args:
        field: what `effective_field` gave.
        image: (H, W, C) uint8 of the map's size; a light ground if None.
        box: ((top, bottom), (left, right)) of the pixels that the unit can see, first and last; it may reach beyond.
        title: the first line below.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = field.map.shape
    margin = _margin(box, (height, width))
    shown = (height + 2 * margin, width + 2 * margin)
    scale = SIDE * FINE / max(shown)
    canvas = Image.new("RGB", (round(shown[1] * scale), round(shown[0] * scale)), BACK)
    ground = Image.fromarray(_ground(field, image))
    ground = ground.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    canvas.paste(ground, (round(margin * scale), round(margin * scale)))
    pen = ImageDraw.Draw(canvas)

    def at(y: float, x: float) -> tuple[float, float]:
        return (x + 0.5 + margin) * scale, (y + 0.5 + margin) * scale  # 0 is the middle of the first pixel

    if box is not None:
        corners = [(box[0][i] + di, box[1][j] + dj) for i, di, j, dj in _CORNERS]
        _dashed(pen, [at(*corner) for corner in corners])
    (cy, cx), (sy, sx) = field.fit.centre, field.fit.sigma
    turns = np.linspace(0, 2 * math.pi, 361)
    outline = [at(cy + 2 * sy * math.sin(turn), cx + 2 * sx * math.cos(turn)) for turn in turns]
    pen.line(outline, fill="white", width=5 * FINE, joint="curve")
    pen.line(outline, fill=HEAT, width=3 * FINE, joint="curve")
    canvas = canvas.resize((canvas.width // FINE, canvas.height // FINE), Image.Resampling.LANCZOS)
    return _with_legend(canvas, field, box, title, margin)


_CORNERS = (
    (0, -0.5, 0, -0.5),
    (0, -0.5, 1, 0.5),
    (1, 0.5, 1, 0.5),
    (1, 0.5, 0, -0.5),
)  # outer edges of pixels


def _margin(box: Box | None, size: tuple[int, int]) -> int:
    """Pixels around the image that the box needs; none where it would need too many."""
    if box is None:
        return 0
    beyond = max(max(-low, high - side + 1) for (low, high), side in zip(box, size, strict=True))
    needed = max(0, math.ceil(beyond)) + 2 if beyond > 0 else 0
    return needed if needed <= MARGIN * max(size) else 0


def _ground(field: EffectiveField, image: Pixels | None) -> Pixels:
    """The image in pale grey, and the map over it; a square root lets the faint part be seen."""
    height, width = field.map.shape
    grey = np.full((height, width), 255.0)
    if image is not None:
        grey = 90 + 0.6 * image.astype(np.float64).mean(2)
    share = 0.9 * np.sqrt(field.map / field.map.max())[..., None]
    heat = np.array(ImageColor.getrgb(HEAT), np.float64)
    return np.rint((1 - share) * grey[..., None] + share * heat).astype(np.uint8)


def _dashed(pen: ImageDraw.ImageDraw, corners: Sequence[tuple[float, float]]) -> None:
    """The sides of a polygon in dashes."""
    dash, gap = 11 * FINE, 6 * FINE
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        start = 0.0
        while start < length:
            ends = [(x0 + (x1 - x0) * t / length, y0 + (y1 - y0) * t / length)
                    for t in (start, min(start + dash, length))]  # fmt: skip
            pen.line(ends, fill="white", width=5 * FINE)
            pen.line(ends, fill=LINE, width=3 * FINE)
            start += dash + gap


def _with_legend(
    canvas: Image.Image, field: EffectiveField, box: Box | None, title: str, margin: int
) -> Pixels:
    """The picture with what it shows in words below, each beside its colour."""
    (sy, sx), quality = field.fit.sigma, field.fit.quality
    lines: list[tuple[str | None, str]] = [(None, title)] if title else []
    if box is not None:
        sides = [round(high - low + 1) for low, high in box]
        held = all(side <= shown for side, shown in zip(sides, field.map.shape, strict=True))
        beyond = "" if held or margin else ", beyond the picture"
        lines.append((LINE, f"theoretical: {sides[0]} x {sides[1]} px{beyond}"))
    lines += [
        (HEAT, f"effective: sigma {sy:.1f} x {sx:.1f} px; the ellipse is two of them"),
        (None, f"a Gaussian explains {quality:.0%}; {field.size():.0f} px are above 4.55 % of the largest"),
    ]
    font = ImageFont.load_default(TEXT)
    step, edge = round(1.5 * TEXT), TEXT
    widest = max(font.getlength(text) for _, text in lines) + 2 * edge + 2 * TEXT
    whole = Image.new(
        "RGB", (max(canvas.width, math.ceil(widest)), canvas.height + step * len(lines) + 2 * edge), "white"
    )
    whole.paste(canvas, ((whole.width - canvas.width) // 2, 0))
    pen = ImageDraw.Draw(whole)
    for i, (colour, text) in enumerate(lines):
        top = canvas.height + edge + i * step
        if colour is not None:
            pen.rectangle((edge, top + 4, edge + TEXT, top + 4 + 9), fill=colour)
        pen.text((edge + (0 if text == title else 1.6 * TEXT), top), text, fill=COLOURS["ink"], font=font)
    return np.asarray(whole)
