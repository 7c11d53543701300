"""A training step with the compiled kernels and without them, in turn, in one process.

    GOMP_SPINCOUNT=10000 PYTHONPATH=src python benchmarks/kernels.py [NETWORK ...]

Networks of the table below, on noise, as the rule has them trained: milliseconds of a step, median and fastest of ten,
and the ratio of the medians. GOMP_SPINCOUNT lets PyTorch's threads wait as the command `convatlas` does. Two minutes on
two cores; the result goes to `benchmarks/results/kernels-DATE.json`. Measured, never asserted.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from convatlas.kernels import compiled
from convatlas.measure.machine import machine, versions
from convatlas.models import create_model
from convatlas.train.computed import arrange_memory, computed, laid_out
from convatlas.train.params import optimizer
from convatlas.train.recipes import recipes
from convatlas.train.speed import Device, rule

RESULTS = Path(__file__).parent / "results"
STEPS, FIRST = 10, 2  # timed, and before them
CASES = (
    *(("speedrun_cifar", 500, pixels) for pixels in (25, 28, 32)),
    *((name, 16, 224) for name in ("resnet18", "resnet50", "densenet121", "vgg16")),
)


def measured(name: str, batch: int, pixels: int) -> dict[str, Any]:
    """Steps of one network, with and without in turn."""
    speedrun = name == "speedrun_cifar"
    recipe = recipes()["speedrun" if speedrun else "quick"]
    network = create_model(name, **(dict(recipe.options) if speedrun else {})).train()
    speed = rule(network, (batch, 3, pixels, pixels), Device.here("cpu"))
    arrange_memory(speed)
    fabric = Fabric(accelerator="cpu", devices=1, precision=speed.engine)
    model, optimiser = fabric.setup(laid_out(network, speed), optimizer(network, recipe, speed))
    x = torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    has_numba = compiled.installed()
    with computed(network, speed):
        for turn in range(FIRST + STEPS):
            for wanted in (True, False):
                compiled.installed = lambda wanted=wanted: wanted and has_numba
                start = time.perf_counter()
                fabric.backward(torch.nn.functional.cross_entropy(model(x), y))
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if turn >= FIRST:
                    seconds[wanted].append(time.perf_counter() - start)
    compiled.installed = lambda: has_numba
    return {
        "network": name,
        "batch": batch,
        "pixels": pixels,
        "speed": speed.words(),
        **{
            f"ms_{'with' if wanted else 'without'}": {
                "median": round(1e3 * statistics.median(taken), 1),
                "fastest": round(1e3 * min(taken), 1),
            }
            for wanted, taken in seconds.items()
        },
        "ratio": round(statistics.median(seconds[False]) / statistics.median(seconds[True]), 3),
    }


def main() -> None:
    """All cases, or those of the networks that are named."""
    if not compiled.installed():
        raise SystemExit("There is nothing to compare without numba: pip install 'convatlas[fast]'.")
    rows = [measured(*case) for case in CASES if not sys.argv[1:] or case[0] in sys.argv[1:]]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = RESULTS / f"kernels-{date}.json"
    report = {
        "date": date,
        "spins": os.environ.get("GOMP_SPINCOUNT"),
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
    }
    file.write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
