"""Turns, dropped blocks, and figures from canned times against hand computation."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.bench.cell import Cell
from convatlas.bench.pool import QUIET, Block
from convatlas.bench.race import Laps, Rate, Ratio, fastest, geometric_mean, joined, race, ratio
from convatlas.bench.result import Result
from convatlas.errors import UsageError

BUSY = 2 * QUIET


class Canned:
    """A side whose steps take a known time; `others` is what disturbs its blocks, one after another."""

    def __init__(self, name: str, step: float, log: list[str], now: list[float], *others: float) -> None:
        self.name, self.facts, self.step = name, {"precision": "fp32"}, step
        self.log, self.now, self.others, self.asked = log, now, list(others), list[int]()

    def block(self, steps: int, *, new_peak: bool = False) -> Block:
        self.log.append(self.name)
        self.asked.append(steps)
        self.now[0] += steps * self.step
        warm = len(self.asked) <= 2
        others = 0.0 if warm or not self.others else self.others.pop(0)
        return Block(steps * self.step, steps, 16 * steps, others, peak_bytes=len(self.asked))


def canned(
    rounds: int, seconds: float, *steps: float, others: tuple[float, ...] = ()
) -> tuple[Laps, list[Canned], str]:
    log, now = list[str](), [0.0]
    sides = [Canned(name, step, log, now, *others) for name, step in zip("abc", steps, strict=False)]
    laps = race(sides, rounds=rounds, seconds=seconds, block_seconds=4.0, clock=lambda: now[0])
    return laps, sides, "".join(log)


def test_sides_take_turns_and_a_block_is_as_long_as_was_asked() -> None:
    laps, sides, log = canned(3, 1000, 0.5, 1.0, 7.0)
    assert log == "aabbcc" + "abc" + "bca" + "cab"
    assert [side.asked for side in sides] == [[2, 2, 8, 8, 8], [2, 1, 4, 4, 4], [2, 1, 1, 1, 1]]
    assert {name: rate.median for name, rate in laps.rates().items()} == {"a": 32.0, "b": 16.0, "c": 16 / 7}


def test_disturbed_blocks_are_dropped_and_made_good() -> None:
    laps, _, log = canned(3, 1000, 1.0, others=(0.0, BUSY, QUIET, BUSY, 0.01))
    assert len(log) == 2 + 5
    rate = laps.rates()["a"]
    assert (rate.blocks, rate.dropped, rate.quiet) == (3, 2, True)
    assert laps.quiet


def test_time_ends_a_race_on_a_busy_machine() -> None:
    laps, _, log = canned(3, 20, 1.0, others=(BUSY,) * 50)
    assert len(log) == 2 + 4  # 3 s of warm-up, and as many blocks of 4 s as end before 20 s
    rate = laps.rates()["a"]
    assert (rate.blocks, rate.dropped, rate.quiet) == (
        4,
        0,
        False,
    )  # nothing is hidden: all of them, and it is said
    assert not laps.quiet


def test_races_of_new_processes_are_put_together() -> None:
    first, sides, _ = canned(2, 1000, 1.0, 2.0, others=(0.0, BUSY, 0.0))
    second, _, _ = canned(2, 1000, 0.5, 2.0)
    laps = joined([first, second])
    assert [block.rate for block in laps.blocks["a"]] == [16.0, 16.0, 16.0, 32.0, 32.0]
    assert laps.rates()["a"].dropped == 1
    assert laps.ratios("a")["b"].ratio == 24.0 / 8.0
    assert laps.facts["a"] is sides[0].facts
    assert (first.starts, laps.starts) == (1, 2)
    assert joined([first]) == first


def test_there_is_always_one_round() -> None:
    assert canned(5, 0.0, 1.0)[2] == "aaa"


def block(images: float, others: float = 0.0) -> Block:
    return Block(1.0, 1, images, others)  # pyright: ignore[reportArgumentType]


def test_figures_by_hand() -> None:
    laps = Laps(
        {
            "convatlas": [block(30), block(34), block(32), block(1000, BUSY)],
            "torchvision": [block(10), block(11), block(12)],
            "timm": [block(16), block(16), block(16)],
        }
    )
    assert laps.rates()["convatlas"] == Rate(32, 31, 33, 3, 1, True)
    ratios = laps.ratios()
    assert ratios["torchvision"].ratio == 32 / 11
    assert ratios["torchvision"].low == pytest.approx(30 / 12)  # medians of three draws reach the extremes
    assert ratios["torchvision"].high == pytest.approx(34 / 10)
    assert ratios["timm"] == Ratio(2.0, 30 / 16, 34 / 16)
    assert fastest(laps.rates()) == "timm"
    assert fastest({"convatlas": laps.rates()["convatlas"]}) is None


@given(
    st.lists(st.floats(1, 100), min_size=1, max_size=9), st.lists(st.floats(1, 100), min_size=1, max_size=9)
)
def test_an_interval_holds_what_can_be(ours: list[float], theirs: list[float]) -> None:
    found = ratio(ours, theirs, resampled=200)
    assert found.ratio == statistics.median(ours) / statistics.median(theirs)
    assert min(ours) / max(theirs) <= found.low * (1 + 1e-12)
    assert found.low <= found.high
    assert found.high <= max(ours) / min(theirs) * (1 + 1e-12)
    assert ratio(ours, theirs, resampled=200) == found


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_mean_of_ratios(ratios: list[float]) -> None:
    assert geometric_mean(ratios) == pytest.approx(statistics.geometric_mean(ratios))
    assert geometric_mean([1 / each for each in ratios]) == pytest.approx(1 / geometric_mean(ratios))


def test_a_result_is_json_and_adds_up() -> None:
    cell = Cell("resnet18", (3, 224, 224), 10, 16, True)
    laps = Laps(
        {"convatlas": [block(32), block(32)], "timm": [block(8), block(8, BUSY)]}, {"convatlas": {"a": 1}}
    )
    told: dict[str, Any] = json.loads(json.dumps(Result(cell, laps, None, None).to_json()))
    assert Cell.from_json(told["cell"]) == cell
    assert told["ratios"]["timm"] == {"ratio": 4.0, "low": 4.0, "high": 4.0}
    assert told["fastest_peer"] == "timm"
    assert told["sides"]["convatlas"]["latency_seconds"] == 0.5
    assert told["sides"]["timm"]["images_per_second"]["dropped"] == 1
    assert len(told["sides"]["timm"]["blocks"]) == 2  # also the dropped one
    assert told["roofline"] is None
    assert {"machine", "versions", "measured", "format", "ceiling"} <= told.keys()
    assert math.isfinite(told["quiet_below_cores"])


def test_cells_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="at least one image"):
        Cell("resnet18", (3, 8, 8), 10, 0, True)
    with pytest.raises(UsageError, match="noise"):
        Cell("resnet18", (3, 8, 8), 10, 1, False, data="photos")
