"""Three roles: train, val and test, drawn so that nothing leaks and nothing depends on luck.

A unit is what may not be torn apart: one image, a set of near-duplicates, or a group that the user
named (a patient, a scene). Units are taken in an order that is a function of the seed and of the
unit's content alone, so a file more or less moves few others, and the folder's order or the files'
names move none.
"""

from __future__ import annotations

import math
from collections import Counter
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
    counts: list[Counter[int]] = [Counter(_list(labels[rows])) for rows in members]  # class -> images
    left = Counter(label for count in counts for label in count)  # units of each class that are not chosen
    number = Counter(_list(labels))
    target = {label: _rounded(count, share) for label, count in number.items()}
    short = dict(target)
    order = sorted(range(len(members)), key=lambda unit: _rank(seed, role, hashes, members[unit]))

    def take(unit: int) -> None:
        chosen[members[unit]] = True
        for label, count in counts[unit].items():
            short[label] -= count
            left[label] -= 1

    def allowed(unit: int) -> bool:
        return all(left[label] > keep for label in counts[unit])

    for unit in order:
        fits = sum(min(count, max(short[label], 0)) for label, count in counts[unit].items())
        if fits and 2 * fits >= len(members[unit]) and allowed(unit):
            take(unit)
    for label in sorted(target):
        if target[label] and short[label] == target[label]:  # no unit was small enough for this class
            candidates = [unit for unit in order if label in counts[unit] and allowed(unit)]
            if candidates:
                take(min(candidates, key=lambda unit: len(members[unit])))
    return chosen


def _rounded(count: int, share: float) -> int:
    """A share of a class in whole images: rounded half up, at least 1 of `VAL_FROM`."""
    return max(math.floor(count * share + 0.5), int(count >= VAL_FROM))


def _members(units: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each unit."""
    order = np.argsort(units, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)


def _rank(seed: int, role: str, hashes: Sequence[str], rows: NDArray[np.int64]) -> tuple[float, str]:
    """Where a unit stands in the order: a number in [0, 1) that seed, role and content give it."""
    name = min([hashes[row] for row in _list(rows)])
    bits = blake2b(f"{seed} {role} {name}".encode(), digest_size=8).digest()
    return math.ldexp(int.from_bytes(bits, "little") >> 11, -53), name


def _list(values: NDArray[np.int64]) -> list[int]:
    listed: list[int] = values.tolist()
    return listed
