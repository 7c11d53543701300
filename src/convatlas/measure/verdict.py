"""Vanishing, exploding or healthy: one sentence for a column of gradient norms, with the rule that gave it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Health = Literal["vanishing", "exploding", "healthy", "undecided"]

# Both must be passed for a verdict other than healthy. Over all layers, at their own initialisation: ResNet-152 has
# 2.3e3 and trains, the plain network of 56 layers has 2e4 and does not do well. Per layer: 1.2 in the plain one, as
# theory has it for BatchNorm and ReLU (Yang et al., 2019); 1.01 in the pre-activation network of 1001 layers, which
# trains although that too comes to 7e4. Without normalisation there is no doubt: VGG-16 with weights of deviation
# 0.01 has 1e-6, with 1.0 it has 1e24.
LIMIT = 1e4
STEP = 1.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """`health`, and how it was found.

    `per_layer`: the factor by which the signal changes from one layer to the one before it; the median over all pairs
    of layers. `over_all`: that factor to the number of steps from last to first.
    """

    health: Health
    per_layer: float
    over_all: float
    layers: int
    rule: str


def judge(signals: Sequence[float], limit: float = LIMIT, step: float = STEP) -> Verdict:
    """Read a verdict from signal norms in forward order.

    The factor per layer is the median slope of log(signal) over all pairs of layers (Theil, 1950; Sen, 1968), so that
    the single steps of a pooling layer or of a head do not decide. Vanishing: towards the image the signal becomes
    more than `limit` times smaller, and that by more than `step` per layer. Exploding: so much larger, or not finite.
    Signals that are exactly 0 are left out; undecided where fewer than two others are left.

    Examples:
        >>> judge([1e-8, 1e-6, 1e-3, 1e-2]).health, judge([1.0, 1.1, 0.9, 1.0]).health
        ('vanishing', 'healthy')
        >>> round(judge([8.0, 4.0, 2.0, 1.0]).per_layer, 3)
        2.0
    """
    count = len(signals)
    if count < 2:
        return Verdict("undecided", math.nan, math.nan, count, "fewer than two weight layers")
    if any(not math.isfinite(signal) for signal in signals):
        return Verdict("exploding", math.inf, math.inf, count, "a signal is not a finite number")
    places = np.flatnonzero(signals)
    zeros = f"; {count - len(places)} of {count} signals are exactly 0" if len(places) < count else ""
    if len(places) < 2:
        rule = f"units that are all dead, or weights that start at 0, stop the gradient{zeros}"
        return Verdict("undecided", math.nan, math.nan, count, rule)
    logs = np.log(np.asarray(signals)[places])
    a, b = np.triu_indices(len(places), 1)
    slope = float(np.median((logs[b] - logs[a]) / (places[b] - places[a])))
    decades = -slope * (count - 1) / math.log(10)
    per_layer, over_all = math.exp(-slope), 10 ** max(-300.0, min(300.0, decades))
    health: Health = "healthy"
    if abs(decades) > math.log10(limit) and abs(slope) > math.log(step):
        health = "vanishing" if decades < 0 else "exploding"
    rule = (
        f"signal x {per_layer:.3g} per layer towards the image, x {over_all:.2g} over {count} layers; "
        f"limits x {step:g} and x {limit:g}{zeros}"
    )
    return Verdict(health, per_layer, over_all, count, rule)
