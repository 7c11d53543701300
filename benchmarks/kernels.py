"""A training step of the speedrun with the compiled kernels and without them, in turn, in one process.

    PYTHONPATH=src python benchmarks/kernels.py

At the sizes that it is trained on, on noise, as the rule has it trained: milliseconds of a step, median and fastest of
ten, and the ratio of the medians. PyTorch's threads wait as those of the command `convatlas`, unless GOMP_SPINCOUNT
says otherwise. A minute on two cores; the result goes to `benchmarks/results/kernels-DATE.json`. Measured, never
asserted.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from record import beside, dated

from convatlas.cli.process import SPINS
from convatlas.kernels import compiled
from convatlas.models import create_model
from convatlas.train.computed import arrange_memory, computed, laid_out
from convatlas.train.params import optimizer
from convatlas.train.recipes import recipes
from convatlas.train.speed import Device, rule

STEPS, FIRST = 10, 2  # timed, and before them
NETWORK, BATCH, SIZES = "speedrun_cifar", 500, (25, 28, 32)


def measured(pixels: int) -> dict[str, Any]:
    """Steps with and without, the one first and then the other."""
    recipe = recipes()["speedrun"]
    network = create_model(NETWORK, **dict(recipe.options)).train()
    speed = rule(network, (BATCH, 3, pixels, pixels), Device.here("cpu"))
    arrange_memory(speed)
    fabric = Fabric(accelerator="cpu", devices=1, precision=speed.engine)
    model, optimiser = fabric.setup(laid_out(network, speed), optimizer(network, recipe, speed))
    x = torch.randn(BATCH, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    has_numba = compiled.installed()
    with computed(network, speed):
        for turn in range(FIRST + STEPS):
            for wanted in ((True, False), (False, True))[turn % 2]:
                compiled.installed = lambda wanted=wanted: wanted and has_numba
                start = time.perf_counter()
                fabric.backward(torch.nn.functional.cross_entropy(model(x), y))
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if turn >= FIRST:
                    seconds[wanted].append(time.perf_counter() - start)
    compiled.installed = lambda: has_numba
    return {
        "network": NETWORK,
        "batch": BATCH,
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
    """All sizes, and the dated file."""
    if not compiled.installed():
        raise SystemExit("There is nothing to compare without numba: pip install 'convatlas[fast]'.")
    ceiling, rows = beside(), [measured(pixels) for pixels in SIZES]
    for row in rows:
        print(json.dumps(row))
    print(dated("kernels", {"spins": os.environ.get("GOMP_SPINCOUNT"), **ceiling, "rows": rows}))


if __name__ == "__main__":
    if "GOMP_SPINCOUNT" not in os.environ:  # is read when PyTorch is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GOMP_SPINCOUNT": SPINS})
    main()
