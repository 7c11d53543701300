"""Three roles: train, val and test, drawn so that nothing leaks and nothing depends on luck.

A unit is what may not be torn apart: one image, a set of near-duplicates, or a group that the user
named (a patient, a scene). Units are taken in an order that is a function of the seed and of the
unit's content alone, so a file more or less moves few others, and the folder's order or the files'
names move none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

VAL_FROM = 10  # a class with so many images has at least one in val


def draw(
    labels: NDArray[np.int64],
    units: NDArray[np.int64],
    hashes: Sequence[str],
    *,
    share: float,
    keep: int,
    seed: int,
    role: str,
) -> NDArray[np.bool_]:
    """Choose about `share` of every class, unit by unit: (N,) labels, units and hashes -> (N,) chosen.

    Every class keeps at least `keep` units that are not chosen, if it has so many. A unit is chosen
    where at least half of it still fits into what its classes are short of; so a share of a class made
    of single images is met exactly (rounded, half up), and one made of large groups as nearly as they allow.
    """
    chosen = np.zeros(len(labels), np.bool_)
    if not len(labels) or share <= 0:
        return chosen
    if share >= 1:
        return ~chosen
    members = _members(units)
    classes = int(labels.max()) + 1
    counts = [np.bincount(labels[rows], minlength=classes) for rows in members]
    left = np.sum([count > 0 for count in counts], axis=0)  # units of each class that are not chosen
    number = np.bincount(labels, minlength=classes)
    target = np.floor(number * share + 0.5).astype(np.int64)
    target[(number >= VAL_FROM) & (target == 0)] = 1
    short = target.copy()
    order = sorted(range(len(members)), key=lambda unit: _rank(seed, role, hashes, members[unit]))

    def take(unit: int) -> None:
        chosen[members[unit]] = True
        short[:] -= counts[unit]
        left[:] -= counts[unit] > 0

    def allowed(unit: int) -> bool:
        return bool((left[counts[unit] > 0] > keep).all())

    for unit in order:
        fits = int(np.minimum(counts[unit], np.maximum(short, 0)).sum())
        if 2 * fits >= len(members[unit]) and fits and allowed(unit):
            take(unit)
    for label in np.flatnonzero((short == target) & (target > 0)):  # nothing was small enough for this class
        candidates = [unit for unit in order if counts[unit][label] and allowed(unit)]
        if candidates:
            take(min(candidates, key=lambda unit: len(members[unit])))
    return chosen


def _members(units: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each unit."""
    order = np.argsort(units, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)


def _rank(seed: int, role: str, hashes: Sequence[str], rows: NDArray[np.int64]) -> tuple[float, str]:
    """Where a unit stands in the order: a number in [0, 1) that seed, role and content give it."""
    name = min(hashes[row] for row in rows)
    bits = blake2b(f"{seed} {role} {name}".encode(), digest_size=8).digest()
    return math.ldexp(int.from_bytes(bits, "little") >> 11, -53), name
