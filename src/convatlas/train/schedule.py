"""Learning-rate schedules: functions of progress in [0, 1] that give a factor of the peak rate.

A schedule knows neither steps nor epochs, so it means the same for any length of training, and a
resumed run asks it again instead of restoring a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant() -> Schedule:
    """The peak rate throughout."""
    return lambda progress: 1.0


def cosine(final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter, "SGDR", 2016, equation 5, one cycle).

    Examples:
        >>> [round(cosine()(p), 3) for p in (0, 0.5, 1)]
        [1.0, 0.5, 0.0]
    """
    return lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def linear() -> Schedule:
    """From 1 straight down to 0; with a warm-up before it, a triangle.

    Examples:
        >>> [warmed_up(linear(), 0.2)(p) for p in (0, 0.1, 0.2, 0.6, 1)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return lambda progress: 1.0 - progress


def steps(milestones: Sequence[float], gamma: float = 0.1) -> Schedule:
    """Times `gamma` at each milestone passed: how papers write "divided by 10 at 32k and 48k of 64k".

    Examples:
        >>> [round(steps([0.5, 0.75])(p), 4) for p in (0.49, 0.5, 0.8)]
        [1.0, 0.1, 0.01]
    """
    return lambda progress: gamma ** sum(progress >= milestone for milestone in milestones)


def levels(table: Sequence[tuple[float, float]]) -> Schedule:
    """A printed table of (progress at which it starts, factor); the first entry starts at 0."""
    return lambda progress: next(factor for start, factor in reversed(table) if progress >= start)


def warmed_up(schedule: Schedule, share: float, start: float = 0.0) -> Schedule:
    """Rise linearly from `start` to the full rate over the first `share`, then run `schedule` over the rest.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2.
    """
    if share <= 0:
        return schedule

    def factor(progress: float) -> float:
        if progress < share:
            return start + (schedule(0.0) - start) * progress / share
        return schedule((progress - share) / (1 - share) if share < 1 else 1.0)

    return factor


def onecycle(rise: float = 0.3, start: float = 0.04, final: float = 1e-4) -> Schedule:
    """Up by half a cosine, then down by another (Smith & Topin, "Super-convergence", 2017)."""

    def factor(progress: float) -> float:
        if progress < rise:
            return start + (1 - start) * (1 - math.cos(math.pi * progress / rise)) / 2
        return cosine(final)((progress - rise) / (1 - rise))

    return factor
