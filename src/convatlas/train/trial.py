"""The process in which candidates for `--tune full` are measured: a job as JSON in, a line of JSON per turn out.

The network is built as for the run and trained on noise at a rate of 0: the same arithmetic, and the weights stay what
they are, so that the losses of all candidates can be compared. A turn is a step that is not timed and a few that are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from convatlas.data import Batch, Data
from convatlas.models import create_model
from convatlas.randomness import seed_step
from convatlas.train import params
from convatlas.train.computed import arrange_memory, computed, laid_out
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Speed
from convatlas.train.step import Step
from convatlas.train.task import find_task

TIMED = 2  # steps of a turn, or more, until
SECONDS = 0.3  # are over
ROUNDS = 7  # turns of a candidate, time permitting


def main() -> None:
    """Measure until the time is over; every candidate that is not compiled has at least one turn."""
    job: dict[str, Any] = json.load(sys.stdin)
    speeds = [Speed.from_json(value) for value in job["speeds"]]
    torch.manual_seed(job["seed"])
    network = create_model(job["model"], **job["options"]).train()
    begin, parent = time.monotonic(), os.getppid()
    broken: set[int] = set()
    eager = [number for number, speed in enumerate(speeds) if not speed.compile]
    for turn in range(ROUNDS):
        if turn and time.monotonic() - begin > job["seconds"] * turn / (turn + 1):
            break
        for number in (*eager[turn % len(eager) :], *eager[: turn % len(eager)]):
            if os.getppid() != parent:  # nobody listens any more
                return
            if number not in broken:
                told = _turn(network, speeds[number], job)
                broken |= {number} if "problem" in told else set()
                _say(number=number, **told)
    for number in set(range(len(speeds))) - set(eager):
        _say(number=number, **_turn(network, speeds[number], job, steps=5 * TIMED))


def _say(**told: Any) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201 - to the process that started this one


def _turn(network: nn.Module, speed: Speed, job: dict[str, Any], steps: int = TIMED) -> dict[str, Any]:
    """Images a second and the loss, or what went wrong."""
    arrange_memory(speed)
    try:
        with computed(laid_out(network, speed), speed):
            return _timed(network, speed, job, steps)
    except Exception as error:  # whatever a candidate does, it is out, and the others are measured
        return {
            "problem": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        }
    finally:
        network.zero_grad(set_to_none=True)


def _timed(network: nn.Module, speed: Speed, job: dict[str, Any], steps: int) -> dict[str, Any]:
    recipe = replace(Recipe.from_json(job["recipe"]), lr=0.0, balance="none")
    fabric = Fabric(accelerator=job["accelerator"], devices=1, precision=speed.engine)
    images = _images(job["shape"], speed, job["seed"])
    labels = torch.arange(len(images)) % len(job["classes"])
    batch = Batch(images, labels, torch.arange(len(images))).to(fabric.device)
    params.hold(network, recipe)
    wrapped, optimizer = fabric.setup(network, params.optimizer(network, recipe, speed))
    task = find_task(job["task"]).of(cast(Data, SimpleNamespace(classes=job["classes"])), recipe)
    step = Step(task, wrapped, network, recipe, fabric)
    loss, done, start = 0.0, -1, 0.0
    while done < steps or time.perf_counter() - start < SECONDS:
        if done == 0:
            start = time.perf_counter()
        seed_step(job["seed"], 0)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = step.gradients(batch)  # reads numbers, so that a GPU has done all but the update by then
        optimizer.step()
        done += 1
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return {"rate": done * len(images) / (time.perf_counter() - start), "loss": loss}


def _images(shape: list[int], speed: Speed, seed: int) -> torch.Tensor:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return images.contiguous(memory_format=torch.channels_last) if speed.channels_last else images


if __name__ == "__main__":
    main()
