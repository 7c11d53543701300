"""Whole epochs of a standard ResNet-18 on CIFAR-10, in turn: through our loop, and through torchvision's in fp32.

    pip install -e '.[bench]'
    python benchmarks/epochs.py [--data DATA] [--epochs 3] [--seed 0] [--limit IMAGES]

ResNet-18 with a 3x3 stem and no max-pooling, as recipes for CIFAR-10 have it (11.2 M parameters, 557 M multiply-adds an
image): torchvision's network in torchvision's loop, ours in ours, by the recipe of loops.py, with a warm-up over a
fifth of the steps, its cosine ending with the last epoch. 5,000 of the 50,000 training images are val, the same for
both; test images are not looked at. Each side is a process, stopped while the other trains one epoch; the seconds are
those from the beginning of an epoch to the end of its last step, by the clock: the start of workers and the checkpoint
of the epoch before are in them, validation is not. Writes `benchmarks/results/epochs-DATE.json`: 40 minutes on two
cores for three epochs. `--limit` takes so many images only, to see that it works, and writes nothing. Measured, never
asserted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loops import BATCH, LR, SIDES, Pace, limited, ours, torchvision
from torch import nn
from torchvision.models import resnet18

from convatlas.bench.gate import Pipe, resident
from convatlas.bench.pool import Side, channel, given_environment
from convatlas.cli.process import SPINS
from convatlas.data import Data, open_data
from convatlas.measure.machine import machine, versions
from convatlas.measure.roof import measure_roof

RESULTS = Path(__file__).parent / "results"
WARMUP = 0.2  # without one, a rate of 0.1 throws the first steps so far off that three epochs are luck
PATIENCE = 3600.0  # seconds for one epoch


def standard() -> nn.Module:
    """torchvision's resnet18 for images of 32 px."""
    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def images(wish: Mapping[str, Any]) -> Data:
    """The images of both sides."""
    data = open_data(wish["data"], seed=0)
    return limited(data, wish["limit"]) if wish["limit"] else data


# --- in the process of a side ---------------------------------------------------------------------------


class InTurn(Pace):
    """Waits for a word before each epoch, and answers after its validation."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe, self.ready = pipe, False
        self.begin = self.seconds = 0.0
        self.images = 0

    def epoch(self) -> None:
        """Wait until it is our turn."""
        if not self.ready:
            self.pipe.tell({"ready": self.facts})
            self.ready = True
        self.pipe.ask()
        self.begin, self.images = time.perf_counter(), 0

    def step(self, images: int) -> None:
        """The clock is read after every step, so that the last one counts."""
        self.images += images
        self.seconds = time.perf_counter() - self.begin

    def validated(self, accuracy: float) -> None:
        """Say what the epoch took and gave."""
        told = {"seconds": self.seconds, "images": self.images, "val": accuracy}
        self.pipe.tell(told | {"peak_bytes": resident("VmHWM")})


def side(descriptor: str) -> None:
    """Train one side, epoch by epoch as it is asked."""
    pipe, task = channel(descriptor)
    data, epochs, seed, pace = images(task), task["epochs"], task["seed"], InTurn(pipe)
    if task["side"] == "ours":
        ours(data, "resnet18", {"stem": "3x3"}, epochs, seed, pace, warmup=WARMUP, own_process=True)
    else:
        torchvision(data, standard, epochs, seed, pace, warmup=WARMUP)


# --- in the process that asks ---------------------------------------------------------------------------


def opened(name: str, wish: Mapping[str, Any]) -> Side:
    """A side that stands before its first epoch; ours in the environment that the command line makes for itself."""
    environment = given_environment()
    if name == "ours":
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
    command = [sys.executable, str(Path(__file__).resolve()), "--side"]
    return Side(name, command, {**wish, "side": name}, environment, PATIENCE)


def turns(sides: Mapping[str, Side], epochs: int) -> Iterator[dict[str, Any]]:
    """Every epoch of every side; who is first changes from epoch to epoch."""
    for epoch in range(epochs):
        for name in SIDES if epoch % 2 == 0 else SIDES[::-1]:
            told, others = sides[name].turn({})
            yield {"side": name, "epoch": epoch + 1, **told, "others": others}


def ceiling() -> dict[str, float]:
    """Multiply-adds a second of the convolutions that `convatlas bench` measures."""
    rates = measure_roof(8.0).rates
    return {kernel: rates[kernel].per_second for kernel in ("conv fp32", "conv bf16")}


def main(options: argparse.Namespace) -> None:
    """Both sides in turn, then the dated file."""
    if options.data is None:
        raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
    archive = str((options.data / "cifar10.zip").resolve())
    wish = {"data": archive, "limit": options.limit, "epochs": options.epochs, "seed": options.seed}
    data, before, records = images(wish), ceiling(), list[dict[str, Any]]()
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in SIDES:
            sides[name] = opened(name, wish)
            stack.callback(sides[name].close)
        for record in turns(sides, options.epochs):
            records.append(record)
            print(json.dumps(record), flush=True)
        facts = {name: each.facts for name, each in sides.items()}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "command": f"python benchmarks/epochs.py --epochs {options.epochs} --seed {options.seed}",
        "what": "whole epochs of ResNet-18 with a 3x3 stem on CIFAR-10, in turn, and accuracy on val after each",
        "batch": BATCH,
        "lr": LR,
        "warmup": WARMUP,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "facts": facts,
        "epochs": records,
        "ceiling_macs_per_second": [before, ceiling()],
        "machine": machine(),
        "versions": versions(),
    }
    if options.limit:
        print(json.dumps(report))
        return
    file = options.results / f"epochs-{date}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="so many images, and write nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        side(chosen.side)
    else:
        main(chosen)
