"""Training speed beside torchvision, timm and Lightning: every cell of the table in docs/speed-results.md.

    pip install -e '.[bench]'
    python benchmarks/speed.py [--data DATA] [--only PATTERN] [--list] [--again] [--since DAY]
                               [--seconds S] [--rounds N]

A cell is a network with a batch, data (noise that is ready, or real pictures) and settings of the peers (their
defaults, or bf16 autocast with channels-last where the processor has bf16); one more is about memory, with activations
recomputed on our side. It is one command `convatlas bench ... --json`, in which the machine's ceiling is measured and
then all sides run in turn, and takes at most five minutes. A cell that is done is a line of
`benchmarks/speed-cells.jsonl`; a second call goes on after the last one, and runs a cell again only if the machine was
busy in it, if it is of another processor or PyTorch, or with `--again`. Real pictures come from DATA (else
CONVATLAS_DATA), which holds `mnist/`, `cifar10.zip` and `bccd.zip`.

When no cell is missing, everything is written to `benchmarks/results/speed-DATE.json`; the tables are made from it
by `python docs/speed_results.py`. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import HERE, RESULTS, add_since, append, called, ends, here, read

from convatlas.measure.machine import has_bf16

CELLS = HERE / "speed-cells.jsonl"
SECONDS, ROUNDS, STARTS, LIMIT = 50.0, 12, 2, 300.0
PEERS = ("torchvision", "timm", "lightning")
SETTINGS = ("default", "amp")  # of the peers

# network: (side in pixels, batch, its real pictures)
NETWORKS = {
    "lenet5": (32, 256, "mnist"),
    "resnet20_cifar": (32, 128, "cifar10"),
    "resnet18": (224, 16, "photos"),
    "resnet50": (224, 16, "photos"),
    "vgg16": (224, 16, "photos"),
    "densenet121": (224, 16, "photos"),
    "mobilenet_v2": (224, 16, "photos"),
    "efficientnet_b0": (224, 16, "photos"),
}
RECOMPUTE = (
    "recompute"  # in the place of settings: our side computes activations again, beside torchvision's loop
)


@dataclass(frozen=True)
class Cell:
    """One command."""

    network: str
    data: str  # synthetic, mnist, cifar10 or photos
    peers: str  # of SETTINGS, or RECOMPUTE

    @property
    def name(self) -> str:
        """`resnet18/photos/default`."""
        return f"{self.network}/{self.data}/{self.peers}"

    def words(self, where: str, seconds: float, rounds: int) -> list[str]:
        """The command's words after `convatlas`; `where` is what its data are called here."""
        recompute = self.peers == RECOMPUTE
        side, batch, _ = NETWORKS[self.network]
        against = PEERS[:1] if recompute else PEERS
        return [
            *("bench", self.network, "--train", "--batch", str(batch), "--image-size", str(side)),
            *("--data", where, "--seconds", str(seconds), "--rounds", str(rounds)),
            *("--starts", str(STARTS if has_bf16() else 1)),  # warming up takes long without it
            *(word for peer in against for word in ("--against", peer)),
            *(["--peer-amp"] if self.peers == "amp" else []),
            *(["--checkpoint-activations"] if recompute else []),
            "--json",
        ]


def cells() -> Iterator[Cell]:
    """Every cell, in the order in which they are run."""
    for network, (_, _, pictures) in NETWORKS.items():
        for data in ("synthetic", pictures):
            for peers in SETTINGS if has_bf16() else SETTINGS[:1]:
                yield Cell(network, data, peers)
    if "resnet50" in NETWORKS:
        yield Cell("resnet50", "synthetic", RECOMPUTE)


def where(data: str, folder: Path | None) -> str:
    """What `--data` is given: real pictures in the folder of data, photographs after they were cut."""
    if data == "synthetic" or folder is None:
        return data
    if data == "photos":
        from photos import photos

        return str(photos(folder / "bccd.zip", Path(tempfile.gettempdir()) / "convatlas-bench-photos").parent)
    return str(folder / {"mnist": "mnist", "cifar10": "cifar10.zip"}[data])


def done(record: Mapping[str, Any] | None, since: str = "") -> bool:
    """Whether a cell has been run on this processor, since that day, and nobody else worked meanwhile."""
    result = (record or {}).get("result")
    if result is None or not result["quiet"] or result["measured"] < since:
        return False
    there = {"torch": result["versions"]["torch"], "processor": result["machine"]["processor"]}
    return there == here()


def run(cell: Cell, folder: Path | None, seconds: float, rounds: int) -> dict[str, Any]:
    """Run a cell in a process of its own: its record, with the result or with the failure."""
    words = cell.words(where(cell.data, folder), seconds, rounds)
    begin = time.monotonic()
    told = shlex.join(
        ["convatlas", *cell.words(cell.data, seconds, rounds)]
    )  # names of data, not where they lie
    record: dict[str, Any] = {"cell": cell.name, "command": told}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "convatlas", *words],
            stdout=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
            text=True,
            cwd=HERE.parent,
        )
    except subprocess.TimeoutExpired:
        record["failure"] = f"it took more than {LIMIT:g} s"
    else:
        if ended.returncode:
            record["failure"] = f"exit code {ended.returncode}"
        else:
            record["result"] = json.loads(ended.stdout)
            record["result"]["cell"] |= {"data": cell.data, "held": ""}
    return record | {"seconds": round(time.monotonic() - begin, 1)}


def line(record: Mapping[str, Any]) -> str:
    """A cell's outcome in a line."""
    if "result" not in record:
        return f"{record['cell']}: {record['failure']}, after {record['seconds']} s"
    result = record["result"]
    ratios = ", ".join(f"{peer} {each['ratio']:.2f}" for peer, each in result["ratios"].items())
    rate = result["sides"]["convatlas"]["images_per_second"]["median"]
    busy = "" if result["quiet"] else "; the machine was busy, so it will be run again"
    return f"{record['cell']}: {rate:.4g} images/s; times faster than {ratios}; {record['seconds']} s{busy}"


def write(found: Mapping[str, Mapping[str, Any]], names: Sequence[str], folder: Path) -> Path:
    """The file with every cell, dated by the newest of them."""
    last = max((found[name]["result"] for name in names), key=lambda result: result["measured"])
    date = last["measured"][:10]
    report = {
        "date": date,
        "command": "python benchmarks/speed.py",
        "machine": last["machine"],
        "versions": last["versions"],
        "cells": [found[name] for name in names],
    }
    file = folder / f"{called('speed')}-{date}.json"
    file.write_text(json.dumps(report) + "\n")
    return file


def main(options: argparse.Namespace) -> int:
    """Run what is missing; 0 if nothing is missing any more."""
    chosen = [cell for cell in cells() if fnmatch.fnmatch(cell.name, options.only)]
    if not chosen:
        raise SystemExit(f"no cell is called {options.only!r}; --list prints all.")
    found = read(options.cells)
    if options.data is not None and not options.data.is_dir():
        raise SystemExit(
            f"{options.data} is no folder; --data is the one that holds mnist/, cifar10.zip and bccd.zip."
        )
    for cell in chosen:
        if options.list:
            print(f"{cell.name}{'  done' if done(found.get(cell.name), options.since) else ''}")
        elif cell.data != "synthetic" and options.data is None:
            print(f"{cell.name}: real pictures need --data DATA or CONVATLAS_DATA; left out.")
        elif options.again or not done(found.get(cell.name), options.since):
            record = run(cell, options.data, options.seconds, options.rounds)
            append(options.cells, record)
            print(line(record), flush=True)
    names = [cell.name for cell in cells()]
    found = read(options.cells)
    missing = [name for name in names if not done(found.get(name), options.since)]
    if missing:
        print(f"{len(missing)} of {len(names)} cells are missing.")
    else:
        print(write(found, names, options.results))
    return int(bool(missing) and options.only == "*" and not options.list)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA") or None)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'resnet18/*' or '*/default'")
    parser.add_argument("--list", action="store_true", help="print the cells, and run none")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    add_since(parser)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each side of a cell")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    ends(main, parser.parse_args())
