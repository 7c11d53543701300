"""A batch as one picture: what the network is really given, with the labels it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from convatlas.data.batch import Batch
from convatlas.data.transforms import Preprocessing

CELL_PX = 128  # the side that a sample is shown at, about
GAP_PX = 8
TEXT_PX = 13
LINE_PX = 16
PAPER, INK, FRAME = (255, 255, 255), (32, 32, 36), (208, 208, 214)


def picture(
    batch: Batch, classes: Sequence[str], preprocessing: Preprocessing, *, most: int = 32, columns: int = 8
) -> Image.Image:
    """The first samples of a batch, normalisation undone, in a grid with their labels: an RGB picture.

    A mixed sample is labelled with both classes and their weights, as "cat 70 % + dog 30 %". Small
    samples are enlarged by a whole factor, so that a pixel stays a square.
    """
    count = min(len(batch), most)
    columns = max(min(columns, count), 1)
    lines = 2 if batch.other is not None else 1
    height, width = _shown(preprocessing.size)
    cell_w, cell_h = max(width, CELL_PX), height + lines * LINE_PX + 4
    rows = math.ceil(count / columns)
    sheet = Image.new(
        "RGB", (GAP_PX + columns * (cell_w + GAP_PX), GAP_PX + max(rows, 1) * (cell_h + GAP_PX)), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    images = preprocessing.restore(batch.images[:count].cpu()).permute(0, 2, 3, 1).contiguous().numpy()
    enlarge = (height, width) > preprocessing.size
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS
    for i in range(count):
        x = GAP_PX + i % columns * (cell_w + GAP_PX)
        y = GAP_PX + i // columns * (cell_h + GAP_PX)
        left = x + (cell_w - width) // 2
        sample = Image.fromarray(images[i].squeeze(2) if images.shape[3] == 1 else images[i])
        sheet.paste(sample.convert("RGB").resize((width, height), method), (left, y))
        draw.rectangle((left - 1, y - 1, left + width, y + height), outline=FRAME)
        for line, text in enumerate(label(batch, i, classes)):
            middle = (x + cell_w / 2, y + height + 4 + line * LINE_PX)
            draw.text(middle, _shortened(text, cell_w), fill=INK, font=_font(), anchor="ma")
    return sheet


def label(batch: Batch, i: int, classes: Sequence[str]) -> tuple[str, ...]:
    """What sample `i` is called: ("cat",), or for a mixture of two classes ("cat 70 %", "+ dog 30 %")."""
    first = _name(classes, int(batch.labels[i]))
    if batch.other is None or batch.weight is None:
        return (first,)
    second = _name(classes, int(batch.other[i]))
    share = round(100 * float(batch.weight[i]))
    if first == second or share == 100:
        return (first,)
    if share == 0:
        return (second,)
    return f"{first} {share} %", f"+ {second} {100 - share} %"


def _name(classes: Sequence[str], number: int) -> str:
    """A class's name, without what would break a line or not print."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in classes[number])


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a sample is drawn at: a whole multiple when enlarged."""
    longest = max(size)
    if longest <= CELL_PX:
        factor = CELL_PX // longest
        return size[0] * factor, size[1] * factor
    return max(round(size[0] * CELL_PX / longest), 1), max(round(size[1] * CELL_PX / longest), 1)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans: it has the letters of most scripts, which Pillow's own font has not."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), TEXT_PX)


def _shortened(text: str, width_px: int) -> str:
    """The text, its middle left out where it is wider than the cell; a share at its end stays."""
    if _font().getlength(text) <= width_px:
        return text
    name, share = text, ""
    if text.endswith(" %"):
        name, number, _ = text.rsplit(" ", 2)
        share = f" {number} %"
    while name and _font().getlength(f"{name}…{share}") > width_px:
        name = name[:-1]
    return f"{name}…{share}"
