"""What a setting of a process changes that is in no recipe and no rule: how OpenMP's threads wait for each other.

    pip install -e '.[bench]'
    python benchmarks/settings.py [--turns N] [--only PATTERN] [--list] [--again] [--since DAY]

Training steps on noise, with precision and layout by the rule, on an idle machine and beside two programs that take a
core each. A process is born with the way in which its threads wait, so each way has a process, one after the other,
and a turn of all of them is a cell: a minute or two, and then a line of `benchmarks/settings-cells.jsonl`, after which
the next call goes on. With all of them `benchmarks/results/settings-DATE.json` is written, from which `python
docs/speed_results.py` makes the table of docs/design/threads.md. A quarter of an hour on two cores, which nobody else
should want. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from record import HERE, Records, add_options, ends, stamps, told
from speed import NETWORKS
from steps import OURS, built, environment, rates, shape_of

from convatlas.train.speed import Device, rule

CELLS = HERE / "settings-cells.jsonl"
WAITING: Mapping[str, Mapping[str, str]] = {  # how threads wait: what the environment says
    "300,000 spins, as libgomp has it": {},
    "10,000": OURS,
    "none (`OMP_WAIT_POLICY=PASSIVE`)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BESIDE = {"idle": ("resnet20_cifar", "mobilenet_v2"), "busy": ("resnet20_cifar", "resnet18")}
# is given who began it, and ends by itself when that process has gone
SPIN = [sys.executable, "-c", "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"]


@contextmanager
def busy(programs: int) -> Generator[None]:
    """So many programs that take a core each."""
    started = [subprocess.Popen([*SPIN, str(os.getpid())]) for _ in range(programs)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


@dataclass(frozen=True)
class Turn:
    """A turn of all ways in which threads wait; who begins changes from turn to turn."""

    beside: str  # of BESIDE
    network: str
    number: int
    timed: bool = True

    @property
    def name(self) -> str:
        """`idle/mobilenet_v2/2`."""
        return f"{self.beside}/{self.network}/{self.number}"

    def run(self, _: Records) -> dict[str, Any]:
        """Images a second for each way."""
        first, batch = self.number % len(WAITING), NETWORKS[self.network][1]
        speed = rule(built(self.network), shape_of(self.network, batch), Device.here("cpu"))
        found: dict[str, float] = {}
        with busy(2 if self.beside == "busy" else 0):
            for way in (*list(WAITING)[first:], *list(WAITING)[:first]):
                with environment(WAITING[way]):
                    (row,) = rates(self.network, batch, [speed])
                found[way] = round(median(row["turns"]), 2)
        return {"images_per_second": {way: found[way] for way in WAITING}}

    def words(self, record: Mapping[str, Any]) -> str:
        """The rates in the order of the ways."""
        return ", ".join(f"{rate:.4g}" for rate in record["images_per_second"].values())


def cells(turns: int) -> Iterator[Turn]:
    """Every cell, in the order in which they are run."""
    for beside, names in BESIDE.items():
        for number in range(turns):
            for name in names:
                yield Turn(beside, name, number)


def report(found: Records, turns: int) -> dict[str, Any]:
    """The result: a row for each network and way, turn by turn."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells(turns):
        for way, rate in found[cell.name]["images_per_second"].items():
            side, batch, _ = NETWORKS[cell.network]
            facts = {
                "network": cell.network,
                "pixels": side,
                "batch": batch,
                "way": way,
                "beside": cell.beside,
            }
            row = rows.setdefault((cell.beside, cell.network, way), facts | {"images_per_second": []})
            row["images_per_second"].append(rate)
    return {
        "command": f"python benchmarks/settings.py --turns {turns}",
        "waiting": list(rows.values()),
        "cells": {cell.name: stamps(found[cell.name]) for cell in cells(turns)},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    return told("settings", list(cells(options.turns)), options, lambda found: report(found, options.turns))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--turns", type=int, default=4, help="processes for each way in which threads wait")
    ends(main, parser.parse_args())
