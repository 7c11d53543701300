"""Whole epochs of a standard ResNet-18 on CIFAR-10, in turn: through our loop, and through torchvision's in fp32.

    pip install -e '.[bench]'
    python benchmarks/epochs.py [--data DATA] [--epochs 3] [--seed 0] [--again] [--limit IMAGES]

ResNet-18 with a 3x3 stem and no max-pooling, as recipes for CIFAR-10 have it (11.2 M parameters, 557 M multiply-adds an
image): torchvision's network in torchvision's loop, ours in ours, by the recipe of loops.py, with a warm-up over a
fifth of the steps, its cosine ending with the last epoch. 5,000 of the 50,000 training images are val, the same for
both; test images are not looked at. Each side is a process, stopped while the other trains one epoch; the seconds are
those from the beginning of a part to the end of its last step, by the clock: the start of workers is in them,
validation and the checkpoint are not. Writes `benchmarks/results/epochs-DATE.json`: 40 minutes on two cores for three
epochs, and what was stopped goes on after the last whole part, which takes four minutes: an epoch of ours, half a one
of torchvision's.
`--limit` takes so many images only, to see that it works, and writes no result. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loops import BATCH, LR, SIDES, Pace, limited, ours, torchvision
from record import HERE, RESULTS, append, beside, dated, here, read
from torch import nn
from torchvision.models import resnet18

from convatlas.bench.gate import Pipe, resident
from convatlas.bench.pool import Side, channel, given_environment
from convatlas.cli.process import SPINS
from convatlas.data import Data, open_data

WARMUP = 0.2  # without one, a rate of 0.1 throws the first steps so far off that three epochs are luck
PARTS = {"ours": 1, "torchvision": 2}  # of an epoch
PATIENCE = 3600.0  # seconds for one part
ROOF = "ceiling_macs_per_second"
LINES = "epochs.jsonl"  # in the folder of what is not finished


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


def line(record: dict[str, Any]) -> dict[str, Any]:
    """A part of an epoch as a line of the file; `others` is None where the process that counts them was killed."""
    return {"cell": f"{record['side']}/{record['part']}", "part": record}


# --- in the process of a side ---------------------------------------------------------------------------


class InTurn(Pace):
    """Waits for a word before each part of an epoch, and answers when its checkpoint and its line are written."""

    def __init__(self, pipe: Pipe, side: str, lines: Path) -> None:
        super().__init__()
        self.pipe, self.side, self.lines, self.parent = pipe, side, lines, os.getppid()
        self.ready = False
        self.begin = self.seconds = 0.0
        self.images = 0
        self.val: float | None = None

    def answer(self) -> None:
        """Say what the part behind us took and gave; at first, how the side computes and how many it has had."""
        if self.ready:
            self.done += 1
            told = {"seconds": self.seconds, "images": self.images, "val": self.val}
            told |= {"peak_bytes": resident("VmHWM")}
            append(self.lines, line({"side": self.side, "part": self.done, **told, "others": None}))
            self.pipe.tell(told)
        else:
            self.pipe.tell({"ready": {**self.facts, "done": self.done}})
        self.ready = True

    def part(self) -> None:
        """Wait until it is our turn."""
        self.answer()
        self.pipe.ask()
        self.begin, self.seconds, self.images, self.val = time.perf_counter(), 0.0, 0, None

    def step(self, images: int) -> None:
        """The clock is read after every step, so that the last one counts."""
        if os.getppid() != self.parent:
            raise SystemExit("nobody asks any more.")
        self.images += images
        self.seconds = time.perf_counter() - self.begin

    def validated(self, accuracy: float) -> None:
        """It is to be said with the part that ends the epoch."""
        self.val = accuracy


def side(descriptor: str) -> None:
    """Train one side, part by part as it is asked."""
    pipe, task = channel(descriptor)
    data, epochs, seed, kept = images(task), task["epochs"], task["seed"], Path(task["kept"])
    pace, kept = InTurn(pipe, task["side"], kept / LINES), kept / task["side"]
    if task["side"] == "ours":
        how: Mapping[str, Any] = {"warmup": WARMUP, "own_process": True, "kept": kept}
        ours(data, "resnet18", {"stem": "3x3"}, epochs, seed, pace, **how)
    else:
        torchvision(data, standard, epochs, seed, pace, warmup=WARMUP, parts=PARTS["torchvision"], kept=kept)
    pace.answer()
    pipe.ask()  # stay, so that our time can be counted


# --- in the process that asks ---------------------------------------------------------------------------


def opened(name: str, wish: Mapping[str, Any]) -> Side:
    """A side that stands before its first part; ours in the environment that the command line makes for itself."""
    environment = given_environment()
    if name == "ours":
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
    command = [sys.executable, str(Path(__file__).resolve()), "--side"]
    return Side(name, command, {**wish, "side": name}, environment, PATIENCE)


def turns(sides: Mapping[str, Side], epochs: int) -> Iterator[dict[str, Any]]:
    """Every part that a side has not behind it; who is first changes from epoch to epoch."""
    for epoch in range(epochs):
        for name in SIDES if epoch % 2 == 0 else SIDES[::-1]:
            for part in range(epoch * PARTS[name], (epoch + 1) * PARTS[name]):
                if part >= sides[name].facts["done"]:
                    roof = beside()
                    told, others = sides[name].turn({})
                    yield {"side": name, "part": part + 1, **told, "others": others, **roof}


def whole(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The epochs that the parts add up to, in the order in which they ended."""
    behind: dict[str, list[Mapping[str, Any]]] = {name: [] for name in SIDES}
    epochs: list[dict[str, Any]] = []
    for record in records:
        name, parts = record["side"], behind[record["side"]]
        parts.append(record)
        if record["part"] % PARTS[name] == 0:
            epochs.append(
                {
                    "side": name,
                    "epoch": record["part"] // PARTS[name],
                    **{what: sum(part[what] for part in parts) for what in ("seconds", "images")},
                    "val": record["val"],
                    "peak_bytes": max(part["peak_bytes"] or 0 for part in parts) or None,
                    "others": max(
                        (part["others"] for part in parts if part["others"] is not None), default=None
                    ),
                }
            )
            parts.clear()
    return epochs


def counted(records: Iterable[dict[str, Any]], sides: Mapping[str, Side]) -> list[dict[str, Any]]:
    """What was timed before; raises `SystemExit` if that is not what the sides have behind them."""
    found = list(records)
    for name, each in sides.items():
        if each.facts["done"] != sum(record["side"] == name for record in found):
            raise SystemExit(
                f"{name} was killed between its checkpoint and its line; begin anew with --again."
            )
    return found


def main(options: argparse.Namespace) -> None:
    """Both sides in turn, then the dated file."""
    if options.data is None:
        raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
    archive = str((options.data / "cifar10.zip").resolve())
    kept = options.kept / f"epochs-{options.epochs}-{options.seed}-{options.limit}-{here()['torch']}"
    if options.again:
        shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    wish = {"data": archive, "limit": options.limit, "epochs": options.epochs, "seed": options.seed}
    wish |= {"kept": str(kept.resolve())}
    data, lines = images(wish), kept / LINES
    earlier = read(lines)
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in SIDES:
            sides[name] = opened(name, wish)
            stack.callback(sides[name].close)
        records = counted([record["part"] for record in earlier.values()], sides)
        for record in turns(sides, options.epochs):
            append(lines, line(record))
            records.append(record)
            print(json.dumps(record), flush=True)
        facts = {
            name: {what: fact for what, fact in each.facts.items() if what != "done"}
            for name, each in sides.items()
        }
    report = {
        "command": f"python benchmarks/epochs.py --epochs {options.epochs} --seed {options.seed}",
        "what": "whole epochs of ResNet-18 with a 3x3 stem on CIFAR-10, in turn, and accuracy on val after each",
        "batch": BATCH,
        "lr": LR,
        "warmup": WARMUP,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "facts": facts,
        "epochs": whole(records),
        "ceiling_macs_per_second": [each[ROOF] for each in records if ROOF in each],
    }
    print(json.dumps(report) if options.limit else dated("epochs", report, options.results))
    shutil.rmtree(kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="so many images, and write nothing")
    parser.add_argument(
        "--again", action="store_true", help="begin anew, also if an earlier call was stopped"
    )
    parser.add_argument("--kept", type=Path, default=HERE / "unfinished")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        side(chosen.side)
    else:
        main(chosen)
