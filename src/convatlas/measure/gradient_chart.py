"""Gradient norms over depth as curves: networks beside each other, or the states of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from matplotlib.figure import Figure

from convatlas.errors import UsageError
from convatlas.measure.gradients import Gradients
from convatlas.plots import COLOURS, Series, line_chart

TITLES = {
    "signal": "Gradient at the output of each weight layer",
    "gradient": "Gradient of each layer's weights",
    "rate": "Gradient of each layer's weights, relative to them",
}


def curves(found: Mapping[str, Gradients], of: Literal["signal", "gradient", "rate"] = "signal") -> Figure:
    """A curve per name over a logarithmic axis; the image is on the left, the loss on the right.

    Layers of auxiliary heads are left out, as are norms of 0. Raises `UsageError` for more curves than colours.
    """
    colours = [role for role in COLOURS if role.startswith("series-")]
    if not 1 <= len(found) <= len(colours):
        raise UsageError(f"1 to {len(colours)} curves can be told apart; {len(found)} were asked for.")
    lines: list[Series] = []
    for (name, gradients), colour in zip(found.items(), colours, strict=False):
        norms = [getattr(layer, of) for layer in gradients.layers if not layer.beside]
        shown = [norm if norm > 0 else None for norm in norms]
        lines.append(Series(name, range(1, len(norms) + 1), shown, colour, marks=len(norms) <= 60))
    return line_chart(
        lines,
        title=TITLES[of],
        x_label="weight layer, from the image to the loss",
        size=(6.4, 3.4),
        scale="log",
    )
