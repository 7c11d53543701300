"""Training steps on noise, in processes like that of the command line: SGD with momentum, as `--tune full` has them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from speed import NETWORKS
from torch import nn

from convatlas.bench.gate import forget_peak, resident
from convatlas.cli.process import SPINS
from convatlas.layers.blueprint import blueprint
from convatlas.models import create_model, find
from convatlas.train.computed import arrange_memory, computed, laid_out
from convatlas.train.params import optimizer
from convatlas.train.recipe import Recipe
from convatlas.train.speed import NAMES, Speed
from convatlas.train.tune import measured

RECIPE = Recipe(name="benchmark", optimizer="sgd", momentum=0.9, weight_decay=1e-4)
CLASSES = 10
OURS = {"GOMP_SPINCOUNT": SPINS}  # what the command line sets for itself
WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
FIRST, HELD = 2, 8  # steps before a peak counts, and steps in which it does


@contextmanager
def environment(said: Mapping[str, str] = OURS) -> Generator[None]:
    """What children are born with: how threads wait as said, and no other word of it."""
    before = dict(os.environ)
    for name in WAITS:
        os.environ.pop(name, None)
    os.environ.update(said)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def built(name: str) -> nn.Module:
    """A network as its paper has it, without numbers."""
    with blueprint():
        return create_model(name)


def shape_of(name: str, batch: int) -> tuple[int, ...]:
    """(N, C, H, W) of its images."""
    return (batch, find(name).channels, *[NETWORKS[name][0]] * 2)


def rates(name: str, batch: int, tried: Sequence[Speed]) -> list[dict[str, Any]]:
    """Images a second of each way to compute a network, turn by turn, and the problem that it has, if it has one.

    Raises `ResourceError` if the first way cannot be measured.
    """
    job: dict[str, Any] = {"model": name, "options": {"num_classes": CLASSES}, "task": find(name).task}
    job |= {"recipe": RECIPE.to_json(), "classes": list(range(CLASSES)), "accelerator": "cpu", "seed": 0}
    rows: list[dict[str, Any]] = []
    for trial in measured(tried, {**job, "shape": shape_of(name, batch)}).trials:
        found = {"turns": [round(rate, 2) for rate in trial.rates]} if trial.rates else {}
        rows.append(found | ({"problem": trial.problem} if trial.problem else {}))
    return rows


def peak(name: str, batch: int, speed: Speed) -> int:
    """Bytes that a process of its own holds at most in training steps, but the first ones."""
    words = [sys.executable, str(Path(__file__).resolve()), name, str(batch)]
    for field in ("precision", "memory"):
        words += [f"--{field}", getattr(speed, field)]
    words += ["--channels-last"] * speed.channels_last
    for field in NAMES:
        words += [f"--{field}", *getattr(speed, field)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def held(name: str, batch: int, speed: Speed) -> int:
    """The same for this process."""
    shape = shape_of(name, batch)
    network = create_model(name, num_classes=CLASSES).train()
    arrange_memory(speed)
    fabric = Fabric(accelerator="cpu", devices=1, precision=speed.engine)
    images, labels = torch.randn(shape), torch.arange(batch) % CLASSES
    if speed.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with computed(laid_out(network, speed), speed):
        model, optimiser = fabric.setup(network, optimizer(network, RECIPE, speed))
        for step in range(FIRST + HELD):
            if step == FIRST:
                forget_peak()
            fabric.backward(nn.functional.cross_entropy(model(images), labels))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    most = resident("VmHWM")
    if most is None:
        raise SystemExit("what a process holds is known on Linux only.")
    return most


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("batch", type=int)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--memory", default="usual")
    parser.add_argument("--channels-last", action="store_true")
    for field in NAMES:
        parser.add_argument(f"--{field}", nargs="*", default=[])
    told = vars(parser.parse_args())
    told |= {field: tuple(told[field]) for field in NAMES}
    print(held(told.pop("name"), told.pop("batch"), Speed(**told)))
