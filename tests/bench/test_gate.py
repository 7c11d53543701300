"""The gate: which steps are in a block, by a clock that moves where the loop lets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from convatlas.bench.gate import Gate, Over, forget_peak, resident


class Asker:
    """Commands in a row, and what was told."""

    def __init__(self, *steps: int) -> None:
        self.left, self.told = list(steps), list[Mapping[str, Any]]()

    def tell(self, message: Mapping[str, Any]) -> None:
        self.told.append(message)

    def ask(self) -> dict[str, Any]:
        if not self.left:
            raise EOFError
        return {"steps": self.left.pop(0)}

    @property
    def blocks(self) -> list[tuple[float, int, int]]:
        return [(told["seconds"], told["steps"], told["images"]) for told in self.told if "steps" in told]


def walk(asker: Asker, epochs: int, steps: int, seconds: float = 1.0, between: float = 100.0) -> None:
    """A loop whose steps take `seconds`, with something long between its epochs."""
    now = [0.0]
    gate = Gate(asker, {"who": "test"}, clock=lambda: now[0])
    for _ in range(epochs):
        gate.epoch(steps)
        for step in range(steps):
            now[0] += seconds * (step + 1)  # each step longer than the one before
            gate.step(8, loss=float(step))
        now[0] += between


def test_a_block_is_as_long_as_its_steps() -> None:
    asker = Asker(2, 3)
    with pytest.raises(Over):
        walk(asker, epochs=1, steps=10)
    assert asker.told[0] == {"ready": {"who": "test"}}
    assert asker.blocks == [(1 + 2, 2, 16), (3 + 4 + 5, 3, 24)]
    assert asker.told[2]["loss"] == 4.0


def test_no_block_holds_the_end_of_an_epoch() -> None:
    asker = Asker(3, 3)
    with pytest.raises(Over):
        walk(asker, epochs=2, steps=5)
    # the second block finds two steps left: they pass, and so does the first step of the next epoch
    assert asker.blocks == [(1 + 2 + 3, 3, 24), (2 + 3 + 4, 3, 24)]


def test_a_block_is_never_longer_than_an_epoch() -> None:
    asker = Asker(99, 99)
    with pytest.raises(Over):
        walk(asker, epochs=3, steps=4)
    assert asker.blocks == [(1 + 2 + 3, 3, 24), (2 + 3 + 4, 3, 24)]


def test_facts_may_come_until_the_first_epoch() -> None:
    asker = Asker(1)
    gate = Gate(asker, {"a": 1})
    gate.facts["b"] = 2
    gate.epoch(9)
    assert asker.told == [{"ready": {"a": 1, "b": 2}}]


def test_a_peak_begins_anew() -> None:
    block = bytearray(200 * 2**20)
    for place in range(0, len(block), 4096):
        block[place] = 1
    high = resident("VmHWM")
    assert high is not None
    assert high >= (resident("VmRSS") or 0)
    assert high >= 200 * 2**20
    del block
    forget_peak()
    low = resident("VmHWM")
    assert low is not None
    assert low <= high - 150 * 2**20
    assert resident("NoSuchField") is None
