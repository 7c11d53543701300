"""What a setting of a process changes that is in no recipe and no rule: how OpenMP's threads wait for each other.

    pip install -e '.[bench]'
    python benchmarks/settings.py [--turns N] [--only PATTERN] [--again] [--since DAY]

Training steps on noise, as `--tune full` measures them: SGD with momentum, precision and layout by the rule, on an idle
machine and beside two programs that take a core each. A process is born with the way in which its threads wait, so
each way has a process, one after the other, and a turn of all of them is a cell: a minute, and then a line of
`benchmarks/settings-cells.jsonl`, after which the next call goes on. With all of them
`benchmarks/results/settings-DATE.json` is written, from which `python docs/speed_results.py` makes the table of
docs/design/threads.md. A quarter of an hour on two cores, which nobody else should want. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from record import HERE, RESULTS, append, dated, observed, quiet, read
from rule import OURS, built, environment, rates, shape_of
from speed import NETWORKS

from convatlas.train.speed import Device, rule

CELLS = HERE / "settings-cells.jsonl"
WAITING: Mapping[str, Mapping[str, str]] = {  # how threads wait: what the environment says
    "300,000 spins, as libgomp has it": {},
    "10,000": OURS,
    "none (`OMP_WAIT_POLICY=PASSIVE`)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BESIDE = {"idle": ("resnet20_cifar", "mobilenet_v2"), "busy": ("resnet20_cifar", "resnet18")}
SPIN = [sys.executable, "-c", "while True: pass"]


@contextmanager
def busy(programs: int) -> Generator[None]:
    """So many programs that take a core each."""
    started = [subprocess.Popen(SPIN) for _ in range(programs)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


@dataclass(frozen=True)
class Cell:
    """A turn of all ways."""

    beside: str  # of BESIDE
    network: str
    turn: int

    @property
    def name(self) -> str:
        """`idle/mobilenet_v2/2`."""
        return f"{self.beside}/{self.network}/{self.turn}"

    def run(self) -> dict[str, Any]:
        """Its record: images a second for each way in which threads wait; who begins changes from turn to turn."""
        first = self.turn % len(WAITING)
        ways = (*list(WAITING)[first:], *list(WAITING)[:first])
        return {"cell": self.name, **observed(partial(self._rates, ways))}

    def _rates(self, ways: tuple[str, ...]) -> dict[str, Any]:
        batch, found = NETWORKS[self.network][1], dict[str, float]()
        speed = rule(built(self.network), shape_of(self.network, batch), Device.here("cpu"))
        with busy(2 if self.beside == "busy" else 0):
            for way in ways:
                with environment(WAITING[way]):
                    (row,) = rates(self.network, batch, [speed])
                found[way] = round(median(row["turns"]), 2)
        return {"images_per_second": {way: found[way] for way in WAITING}}


def cells(turns: int) -> Iterator[Cell]:
    """Every cell, in the order in which they are run."""
    for beside, names in BESIDE.items():
        for turn in range(turns):
            for name in names:
                yield Cell(beside, name, turn)


def report(found: Mapping[str, Mapping[str, Any]], turns: int) -> dict[str, Any]:
    """The result: a row for each network and way, turn by turn."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells(turns):
        for way, rate in found[cell.name]["images_per_second"].items():
            facts = {"network": cell.network, "pixels": NETWORKS[cell.network][0]}
            facts |= {"batch": NETWORKS[cell.network][1], "way": way, "beside": cell.beside}
            row = rows.setdefault((cell.beside, cell.network, way), facts | {"images_per_second": []})
            row["images_per_second"].append(rate)
    beside = ("measured", "ceiling_macs_per_second", "others", "seconds")
    return {
        "command": f"python benchmarks/settings.py --turns {turns}",
        "waiting": list(rows.values()),
        "cells": [{name: found[cell.name][name] for name in ("cell", *beside)} for cell in cells(turns)],
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    found, every = read(options.cells), list(cells(options.turns))
    for cell in every:
        if not fnmatch.fnmatch(cell.name, options.only):
            continue
        if options.again or not quiet(found.get(cell.name), options.since):
            record = cell.run()
            append(options.cells, record)
            print(cell.name, *(f"{rate:.4g}" for rate in record["images_per_second"].values()), flush=True)
    found = read(options.cells)
    missing = [cell.name for cell in every if not quiet(found.get(cell.name), options.since)]
    if missing:
        print(f"{len(missing)} of {len(every)} cells are missing.")
        return int(options.only == "*")
    day = max(found[cell.name]["measured"][:10] for cell in every)
    print(dated("settings", report(found, options.turns), options.results, day))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=4, help="processes for each way in which threads wait")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'busy/*'")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument(
        "--since", default="", metavar="DAY", help="what is older than it, as 2026-11-30, is missing"
    )
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    raise SystemExit(main(parser.parse_args()))
