"""What settings of a process change that change no bit, or only its threads: how memory is kept, how threads wait.

    pip install -e '.[bench]'
    python benchmarks/settings.py [--turns N]

Training steps on noise, as `--tune full` measures them: SGD with momentum, precision and layout by the rule. Three
tables: freed memory kept or not, for the networks of speed.py; how OpenMP's threads wait for each other, on an idle
machine and beside two programs that take a core each; one thread or all of them for a small network. What is
compared takes turns, in one process or, where a process is born with it, in processes one after the other. Writes
`benchmarks/results/settings-DATE.json`, from which `python docs/speed_results.py` makes the tables of the docs. A
quarter of an hour on two cores, which nobody else should want. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from speed import NETWORKS

from convatlas.measure.machine import machine, versions
from convatlas.models import create_model, find
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Device, Speed, rule
from convatlas.train.tune import measured

RESULTS = Path(__file__).parent / "results"
RECIPE = Recipe(name="settings", optimizer="sgd", momentum=0.9, weight_decay=1e-4)
CLASSES = 10
SMALL, BATCHES = "lenet5", (32, 64, 256)
WAITING = {  # how threads wait: what the environment says
    "300,000 spins, as libgomp has it": {},
    "10,000": {"GOMP_SPINCOUNT": "10000"},
    "none (`OMP_WAIT_POLICY=PASSIVE`)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OURS = WAITING["10,000"]  # what the command line sets for itself
BESIDE = {"idle": ("resnet20_cifar", "mobilenet_v2"), "busy": ("resnet20_cifar", "resnet18")}
SPIN = [sys.executable, "-c", "while True: pass"]


@contextmanager
def environment(said: Mapping[str, str]) -> Generator[None]:
    """What children are born with: how threads wait as said, and no other word of it."""
    words = {name for each in WAITING.values() for name in each}
    given = {name: value for name, value in os.environ.items() if name not in words}
    with mock.patch.dict(os.environ, {**given, **said}, clear=True):
        yield


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


def rates(name: str, batch: int, ways: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each way to compute the network: what it changes of the rule, and its images a second turn by turn."""
    side = NETWORKS[name][0]
    channels = 1 if name == SMALL else 3
    options = {"num_classes": CLASSES, "in_channels": channels}
    network, shape = create_model(name, **options), (batch, channels, side, side)
    first = rule(network, shape, Device.here("cpu"))
    job: dict[str, Any] = {"model": name, "options": options, "task": find(name).task, "seed": 0}
    job |= {"recipe": RECIPE.to_json(), "classes": list(range(CLASSES)), "accelerator": "cpu", "shape": shape}
    tried: Sequence[Speed] = [replace(first, **changes) for changes in ways.values()]
    for way, trial in zip(ways, measured(tried, job).trials, strict=True):
        row = {"network": name, "pixels": side, "batch": batch, "way": way, "speed": trial.speed.words()}
        yield {**row, "images_per_second": [round(rate, 2) for rate in trial.rates]}


def told(row: dict[str, Any]) -> dict[str, Any]:
    """The row, printed."""
    print(
        f"{row['network']}, {row['batch']}, {row['way']}: {median(row['images_per_second']):.4g}", flush=True
    )
    return row


def kept() -> list[dict[str, Any]]:
    """Freed memory given back, as glibc does by itself, or kept."""
    ways = {"not kept": {"memory": "usual"}, "kept": {"memory": "kept"}}
    with environment(OURS):
        return [
            told(row)
            for name, (_, batch, _) in NETWORKS.items()
            if name != SMALL
            for row in rates(name, batch, ways)
        ]


def waiting(turns: int) -> list[dict[str, Any]]:
    """How threads wait: a process for each turn, whose rate is the median of its own."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for beside, names in BESIDE.items():
        with busy(2 if beside == "busy" else 0):
            for turn in range(turns):
                for name in names:
                    for way in (*list(WAITING)[turn % 3 :], *list(WAITING)[: turn % 3]):
                        with environment(WAITING[way]):
                            (row,) = rates(name, NETWORKS[name][1], {way: {}})
                        whole = found.setdefault(
                            (beside, name, way), row | {"beside": beside, "images_per_second": []}
                        )
                        whole["images_per_second"].append(median(row["images_per_second"]))
    return [told(row) for row in found.values()]


def small() -> list[dict[str, Any]]:
    """One thread, or as many as there are."""
    ways = {
        f"{'float32' if precision == '32' else precision}, {'one thread' if threads else 'all threads'}": {
            "precision": precision,
            "threads": threads,
        }
        for precision in ("32", "bf16")
        for threads in (0, 1)
    }
    with environment(OURS):
        return [told(row) for batch in BATCHES for row in rates(SMALL, batch, ways)]


def main(turns: int, results: Path) -> None:
    """Measure all three, and write the result."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": date,
        "command": f"python benchmarks/settings.py --turns {turns}",
        "machine": machine(),
        "versions": versions(),
        "load_at_start": os.getloadavg(),
        "kept": kept(),
        "waiting": waiting(turns),
        "threads": small(),
    }
    file = results / f"settings-{date}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=4, help="processes for each way in which threads wait")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    main(chosen.turns, chosen.results)
