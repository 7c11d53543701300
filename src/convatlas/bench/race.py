"""Sides in turn, block by block, and what comes of it: medians, and their ratios with an interval.

Round r begins with side r, so that a machine that becomes warm or busy treats all alike. A block in which other
processes took more than `QUIET` cores is dropped, and counted. A rate is the median of the blocks that are left, with
its quartiles; a ratio is that of two medians, with the middle 95 % of what resampled blocks give (a bootstrap over the
blocks of each side, Efron 1979). One process is some percent faster than the next one that does the same, so races of
processes that were started anew can be put together.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convatlas.bench.cell import OURS
from convatlas.bench.pool import Block
from convatlas.measure.timing import Timing
from convatlas.randomness import generator

BLOCK_SECONDS = 4.0  # that a block should take; a slow network's is one step
LEAST_WARM = 2  # steps that are not counted: they choose kernels and fill caches
RESAMPLED = 2000


class Runner(Protocol):
    """One side: it runs so many steps when it is asked."""

    name: str
    facts: dict[str, Any]

    def block(self, steps: int, *, new_peak: bool = False) -> Block:
        """Run so many steps."""
        ...


@dataclass(frozen=True, slots=True)
class Rate:
    """Images a second: median and quartiles over blocks; how many blocks, and how many beside them were dropped."""

    median: float
    low: float
    high: float
    blocks: int
    dropped: int
    quiet: bool  # False: every block was disturbed, and all of them are in the figures

    @staticmethod
    def of(blocks: Sequence[Block]) -> Rate:
        """The summary of at least one block."""
        kept = counted(blocks)
        timing = Timing.of([block.rate for block in kept])
        dropped = len(blocks) - len(kept)
        return Rate(timing.median, timing.low, timing.high, len(kept), dropped, kept[0].quiet)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Our median over another side's, and the middle 95 % of it."""

    ratio: float
    low: float
    high: float


@dataclass
class Laps:
    """The blocks of a race by side, in the order of the sides; `starts`: how often each was started for them."""

    blocks: dict[str, list[Block]]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    starts: int = 1

    def rates(self) -> dict[str, Rate]:
        """The rate of each side."""
        return {name: Rate.of(blocks) for name, blocks in self.blocks.items()}

    def ratios(self, of: str = OURS) -> dict[str, Ratio]:
        """The rate of one side over that of each other."""
        ours = [block.rate for block in counted(self.blocks[of])]
        return {
            name: ratio(ours, [block.rate for block in counted(blocks)])
            for name, blocks in self.blocks.items()
            if name != of
        }

    @property
    def quiet(self) -> bool:
        """Whether every side has undisturbed blocks."""
        return all(rate.quiet for rate in self.rates().values())


def joined(races: Sequence[Laps]) -> Laps:
    """The blocks of several races of the same sides, and the facts of the first one."""
    first = races[0]
    blocks = {name: [block for laps in races for block in laps.blocks[name]] for name in first.blocks}
    return Laps(blocks, first.facts, sum(laps.starts for laps in races))


def counted(blocks: Sequence[Block]) -> list[Block]:
    """The undisturbed blocks; all of them where there is none."""
    return [block for block in blocks if block.quiet] or list(blocks)


def race(
    sides: Sequence[Runner],
    *,
    rounds: int = 7,
    seconds: float = 120.0,
    block_seconds: float = BLOCK_SECONDS,
    say: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Laps:
    """Warm every side up, then `rounds` rounds, and more to replace what was dropped; fewer where `seconds` are over.

    There is always one round. No further one is begun that is not expected to end in time, judged by the longest.
    """
    begin = clock()
    steps = {side.name: _warmed(side, block_seconds) for side in sides}
    blocks: dict[str, list[Block]] = {side.name: [] for side in sides}
    longest, number = 0.0, 0
    while number == 0 or (
        any(sum(block.quiet for block in each) < rounds for each in blocks.values())
        and clock() - begin + longest <= seconds
    ):
        start, first = clock(), number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            blocks[side.name].append(side.block(steps[side.name]))
        longest = max(longest, clock() - start)
        number += 1
        say(
            f"round {number}: "
            + ", ".join(f"{side.name} {blocks[side.name][-1].rate:.4g} images/s" for side in sides)
        )
    return Laps(blocks, {side.name: side.facts for side in sides})


def _warmed(side: Runner, block_seconds: float) -> int:
    """Warm it up; how many steps make a block."""
    warm = side.block(LEAST_WARM)
    probe = side.block(max(1, math.ceil(0.25 * block_seconds * warm.steps / warm.seconds)), new_peak=True)
    return max(1, math.ceil(block_seconds * probe.steps / probe.seconds))


def ratio(ours: Sequence[float], theirs: Sequence[float], resampled: int = RESAMPLED) -> Ratio:
    """The ratio of two medians, with the 2.5th and 97.5th percentile of its bootstrap.

    Examples:
        >>> ratio([4.0, 4.0], [2.0, 2.0, 2.0])
        Ratio(ratio=2.0, low=2.0, high=2.0)
    """
    random = generator("bootstrap", len(ours), len(theirs))
    draws = [
        np.median(random.choice(np.asarray(rates), (resampled, len(rates))), axis=1)
        for rates in (ours, theirs)
    ]
    low, high = np.percentile(draws[0] / draws[1], [2.5, 97.5])
    return Ratio(statistics.median(ours) / statistics.median(theirs), float(low), float(high))


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios: their product's n-th root.

    Examples:
        >>> geometric_mean([2.0, 8.0])
        4.0
    """
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def fastest(rates: Mapping[str, Rate], of: str = OURS) -> str | None:
    """The quickest of the others; None if there is none."""
    others = [name for name in rates if name != of]
    return max(others, key=lambda name: rates[name].median, default=None)
