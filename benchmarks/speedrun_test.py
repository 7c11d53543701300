"""The speedrun as it is frozen: seconds and test accuracy of five seeds, in turn with the recipe that it comes from.

    pip install -e '.[bench,fast]'
    python benchmarks/speedrun_test.py [--data DATA] [--only PATTERN] [--list] [--again] [--since DAY]

Every training learns all 50,000 images of `cifar10.zip` (in DATA, or CONVATLAS_DATA) by `convatlas train` in a process
of its own. Test images are looked at once after each of `speedrun`, by one view and by six; of `speedrun-2024` only the
seconds are asked for. A cell is a training, five to seven minutes on two cores with bf16: a line of
`benchmarks/speedrun-test-cells.jsonl`, and the next call goes on after it. With all of them
`benchmarks/results/speedrun-test-DATE.json` is written. Nothing is to be chosen by it. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import HERE, Records, add_options, ends, stamps, told
from speedrun import trained

CELLS = HERE / "speedrun-test-cells.jsonl"
OURS, THEIRS = "speedrun", "speedrun-2024"
SEEDS, IN_TURN = range(20, 25), range(21, 24)  # those of docs/speedrun.md


@dataclass(frozen=True)
class Training:
    """A recipe with a seed."""

    recipe: str  # OURS or THEIRS
    seed: int
    data: Path | None
    timed: bool = True

    @property
    def name(self) -> str:
        """`speedrun/20`."""
        return f"{self.recipe}/{self.seed}"

    def run(self, _: Records) -> dict[str, Any]:
        """The record of a training."""
        if self.data is None or not (self.data / "cifar10.zip").is_file():
            raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
        with tempfile.TemporaryDirectory(prefix="speedrun-") as folder:
            wish = argparse.Namespace(
                data=self.data / "cifar10.zip", name=self.recipe, recipe=self.recipe, seed=self.seed,
                settings=[], options=[], out=Path(folder) / "run", all_of_train=True,
                views=["one", "shift"] if self.recipe == OURS else [],
            )  # fmt: skip
            return {"run": trained(wish, ["test"])}

    def words(self, record: Mapping[str, Any]) -> str:
        """Seconds, and what it reached."""
        run = record["run"]
        reached = f", test {run['test_top1_pct_shift']:.2f} % in six views" if self.recipe == OURS else ""
        return f"{run['training_seconds']} s{reached}"


def cells(data: Path | None) -> list[Training]:
    """Every cell, in the order in which they are run."""
    every: list[Training] = []
    for seed in SEEDS:
        every.append(Training(OURS, seed, data))
        every += [Training(THEIRS, seed, data)] if seed in IN_TURN else []
    return every


def report(found: Records, every: Sequence[Training]) -> dict[str, Any]:
    """The record of every training."""
    return {
        "command": "python benchmarks/speedrun_test.py",
        "runs": [found[cell.name]["run"] for cell in every],
        "cells": {cell.name: stamps(found[cell.name]) for cell in every},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    every = cells(options.data)
    return told("speedrun-test", every, options, lambda found: report(found, every))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    ends(main, parser.parse_args())
