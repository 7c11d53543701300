"""The few drawing primitives that reports, labs and finders share: line charts, thumbnails, filters.

Figures are made with matplotlib's objects, never with pyplot, whose state belongs to the whole process.
The same figure gives the same bytes: SVG without a date and with fixed identifiers. Colours are roles
(`ink`, `series-1`); in a themed SVG each is a CSS variable of the page around it, so that one drawing serves
light and dark.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

COLOURS = {
    "ink": "#1b2430",
    "muted": "#667281",
    "grid": "#e3e7ec",
    "series-1": "#2563c9",
    "series-2": "#d9622b",
    "series-3": "#2e8b57",
    "series-4": "#8a4fbf",
}
PAPER = "#ffffff"
FILLS = {  # of boxes: layers, and whatever holds some
    "conv": "#dbe7fb",
    "pool": "#fbe6d6",
    "linear": "#d9f0e1",
    "other": "#eceff3",
    "block": "#e9e0f7",
    "join": PAPER,
}
DARK = {  # what stands for a colour where the reader prefers dark pages
    COLOURS["ink"]: "#e6eaef",
    COLOURS["muted"]: "#9aa5b1",
    COLOURS["grid"]: "#303842",
    COLOURS["series-1"]: "#7aa9f7",
    COLOURS["series-2"]: "#f2935f",
    COLOURS["series-3"]: "#66c08d",
    COLOURS["series-4"]: "#bd93e6",
    PAPER: "#12161b",
    FILLS["conv"]: "#1d3154",
    FILLS["pool"]: "#4a2d1a",
    FILLS["linear"]: "#1b3d2a",
    FILLS["other"]: "#262e37",
    FILLS["block"]: "#37284f",
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "convatlas",
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "font.family": "DejaVu Sans",  # comes with matplotlib: measures the same everywhere
    "font.size": 10.0,
    "text.parse_math": False,  # a class named "$5$" is not a formula
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.handlelength": 1.4,
}


def style() -> AbstractContextManager[None]:
    """The house's look, for figures that are drawn within it."""
    return mpl.rc_context(_STYLE)


@dataclass(frozen=True)
class Series:
    """One line of a chart. Points that are None or not finite are left out; `marks` draws a dot at each point."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = "series-1"
    marks: bool = False
    faint: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    size: tuple[float, float] = (4.4, 2.9),
    scale: Literal["linear", "log"] = "linear",
    x_scale: Literal["linear", "log"] = "linear",
    percent: bool = False,
    mark_x: float | None = None,
    x_limits: tuple[float, float] | None = None,
) -> Figure:
    """Lines over a common x axis; `size` in inches at 72 px.

    `percent` prints shares as percent. `mark_x` draws a vertical line there, e.g. at the epoch that was kept.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, pad=8)
        for each in series:
            _line(axes, each)
        if x_limits is not None:
            margin = 0.03 * (x_limits[1] - x_limits[0])
            axes.set_xlim(x_limits[0] - margin, x_limits[1] + margin)
        if mark_x is not None:
            axes.axvline(mark_x, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.set_yscale(scale)
        axes.set_xscale(x_scale)
        if scale == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if x_scale == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.tick_params(axis="x", which="minor", length=0)
        axes.grid(False, axis="x")
        if percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        if x_label:
            axes.set_xlabel(x_label)
        if len(series) > 1:
            axes.legend(loc="best", fontsize=9.5, labelcolor=COLOURS["ink"])
        return figure


def _line(axes: Axes, series: Series) -> None:
    points = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if y is not None and math.isfinite(y) and math.isfinite(x)
    ]
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=COLOURS[series.colour],
        label=series.name,
        linewidth=1.0 if series.faint else 1.8,
        alpha=0.75 if series.faint else 1.0,
        marker="o" if series.marks or len(points) == 1 else None,
        markersize=3.2 if len(points) <= 60 else 0,
        solid_capstyle="round",
    )


# --- files --------------------------------------------------------------------------------------------


def svg(figure: Figure, *, themed: bool = False) -> str:
    """The figure as an `<svg>` element that scales with its box, the same text for the same figure.

    `themed`: colours and font are CSS variables (`--ink`, `--series-1`, `--sans`) with the light ones as
    default, for a page; otherwise fixed, for a file.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )  # would style the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # no one refers to groups, and a page holds several figures
    if themed:
        head, rest = text.split(">", 1)
        text = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
        for role, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{role}, {colour})")
        text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans, sans-serif)", text)
        text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans, sans-serif)", text)
    return re.sub(r"\n\s*", "\n", text).strip()


def svg_file(figure: Figure) -> str:
    """The figure as the text of an SVG file with a ground of its own, for light and dark."""
    head, rest = svg(figure).split(">", 1)
    return darkened(f'{head}>\n<rect width="100%" height="100%" fill="{PAPER}"/>{rest}\n')


def darkened(text: str) -> str:
    """An SVG file with fixed colours that follows the reader's choice of light or dark by itself.

    The colours stay in the elements, for viewers that know no style sheets.
    """
    rules = "".join(
        f'[{part}="{light}"],[style*="{part}: {light}"]{{{part}:{dark}!important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    head, rest = text.split(">", 1)
    return f"{head}>\n<style>@media (prefers-color-scheme: dark){{{rules}}}</style>{rest}"


def png(image: NDArray[np.uint8]) -> bytes:
    """(H, W), (H, W, 1) or (H, W, 3) as PNG."""
    return _encoded(image, "PNG", optimize=True)


def jpeg(image: NDArray[np.uint8], quality: int = 85) -> bytes:
    """(H, W), (H, W, 1) or (H, W, 3) as JPEG."""
    return _encoded(image, "JPEG", quality=quality, optimize=True)


def _encoded(image: NDArray[np.uint8], kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(
        buffer, kind, **settings
    )
    return buffer.getvalue()


def thumbnail(image: NDArray[np.uint8], side: int) -> tuple[str, bool]:
    """A picture (H, W, C) of at most `side` px as a data URI, and whether its pixels should stay sharp when enlarged.

    Small pictures are kept bit for bit as PNG; larger ones are shrunk and become JPEG.
    """
    height, width = image.shape[:2]
    small = max(height, width) <= 64
    if max(height, width) > side:
        factor = side / max(height, width)
        to = (max(1, round(width * factor)), max(1, round(height * factor)))
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        image = np.asarray(picture.resize(to, Image.Resampling.BOX, reducing_gap=3.0))
    content, kind = (png(image), "png") if small else (jpeg(image), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", small


def filters(weight: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Kernels (N, C, h, w) as pictures (N, h, w, 3 or 1), each stretched to its own range around grey.

    Zero is middle grey in all of them. Three channels are shown as colours; of any other number, their mean.
    """
    if weight.shape[1] != 3:
        weight = weight.mean(axis=1, keepdims=True)
    peak = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    scaled = 127.5 + 127.5 * weight / np.maximum(peak, 1e-12)
    return np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)
