"""Is it as good, too? One recipe through our loop with its default settings, and through torchvision's loop in fp32.

    pip install -e '.[bench]'
    python benchmarks/accuracy.py [--data DATA] [--epochs 10] [--seeds 3] [--only PATTERN] [--list] [--again]
                                   [--since DAY]

resnet20_cifar on CIFAR-10 by the recipe of loops.py. 5,000 of the 50,000 training images are val, the same for both
sides and all seeds; the figure is val accuracy after the last epoch. Test images are not looked at. A cell is two
epochs of a training, from where the one before it stopped: a line of `benchmarks/accuracy-cells.jsonl`, and the next
call goes on after it, to the same bits. With all of them, `benchmarks/results/accuracy-DATE.json` is written. About an
hour on two cores for three seeds. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from loops import SIDES, Pace, ours, torchvision
from record import HERE, Records, add_options, ends, here, stamps, told

from convatlas.data import Data, open_data
from convatlas.models import create_model

CELLS = HERE / "accuracy-cells.jsonl"
UNFINISHED = HERE / "unfinished"
NETWORK = "resnet20_cifar"
EACH = 2  # epochs of a cell


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """As many epochs as were wished are behind a training."""


class UpTo(Pace):
    """Lets a training go on up to an epoch."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.behind = last, -1

    def part(self) -> None:
        """An epoch may begin, unless it is enough."""
        self.behind = self.done if self.behind < 0 else self.behind + 1
        if self.behind >= self.last:
            raise Enough


@dataclass(frozen=True)
class Epochs:
    """The epochs of a training that end with `last`, from where it was stopped; all up to it where nothing is kept."""

    side: str  # of SIDES
    epochs: int  # of the whole training
    seed: int
    last: int
    data: Path | None
    kept: Path
    timed: bool = False

    @property
    def run_name(self) -> str:
        """`ours/10/0`."""
        return f"{self.side}/{self.epochs}/{self.seed}"

    @property
    def name(self) -> str:
        """`ours/10/0/4`."""
        return f"{self.run_name}/{self.last}"

    def run(self, _: Records) -> dict[str, Any]:
        """How many images there were, and after the last epoch of all accuracy on val, in [0, 1]."""
        if self.data is None:
            raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
        data = images(self.data / "cifar10.zip")
        folder = self.kept / f"accuracy-{self.run_name.replace('/', '-')}-{here()['torch']}"
        if self.last <= EACH:
            shutil.rmtree(folder, ignore_errors=True)
        counts = {"train_images": len(data.train), "val_images": len(data.val)}
        try:
            val = self.trained(data, folder)
        except Enough:
            return counts
        shutil.rmtree(folder)
        return {"val": val, **counts}

    def trained(self, data: Data, folder: Path) -> float:
        """Train on; raises `Enough` before an epoch that is not asked for."""
        pace = UpTo(self.last)
        if self.side == "ours":
            return ours(data, NETWORK, {}, self.epochs, self.seed, pace, kept=folder)
        make = partial(create_model, NETWORK, num_classes=len(data.classes))
        return torchvision(data, make, self.epochs, self.seed, pace, kept=folder)

    def words(self, record: Mapping[str, Any]) -> str:
        """How it ended, or how far it is."""
        how = f"val {100 * record['val']:.2f} %" if "val" in record else "goes on"
        return f"{self.last} of {self.epochs} epochs, {how}"


@cache
def images(archive: Path) -> Data:
    """The same ones for all."""
    return open_data(archive, seed=0)


def cells(options: argparse.Namespace) -> Iterator[Epochs]:
    """Every cell, in the order in which they are run."""
    for seed in range(options.seeds):
        for side in SIDES:
            for last in (*range(EACH, options.epochs, EACH), options.epochs):
                yield Epochs(side, options.epochs, seed, last, options.data, options.kept)


def report(found: Records, options: argparse.Namespace) -> dict[str, Any]:
    """Every run, means, and their difference in points."""
    final = [cell for cell in cells(options) if cell.last == cell.epochs]
    runs = [{"cell": cell.run_name, **ended(found[cell.name])} for cell in final]
    values = {side: [run["val"] for run in runs if run["cell"].startswith(side)] for side in SIDES}
    means = {side: statistics.mean(each) for side, each in values.items()}
    return {
        "command": f"python benchmarks/accuracy.py --epochs {options.epochs} --seeds {options.seeds}",
        "what": f"share of CIFAR-10's val images that {NETWORK} names right after the last epoch",
        "runs": runs,
        "mean": means,
        "deviation": {
            side: statistics.stdev(each) if len(each) > 1 else 0.0 for side, each in values.items()
        },
        "difference_points": 100 * (means["ours"] - means["torchvision"]),
        "cells": {name: stamps(record) for name, record in found.items()},
    }


def ended(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's last cell says of it."""
    return {name: record[name] for name in ("val", "train_images", "val_images")}


def main(options: argparse.Namespace) -> int:
    """Run what is missing; 0 if nothing is missing any more."""
    return told("accuracy", list(cells(options)), options, partial(report, options=options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kept", type=Path, default=UNFINISHED, help=argparse.SUPPRESS)
    ends(main, parser.parse_args())
