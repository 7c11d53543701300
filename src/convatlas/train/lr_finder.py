"""The learning-rate range test: raise the rate at every step and watch the loss.

Smith, "Cyclical learning rates for training neural networks" (2015), section 3.3. Training images only;
the network that is tried is a copy, thrown away afterwards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from convatlas.data import Batch, Batches, Data, Preprocessing
from convatlas.errors import NumericError
from convatlas.randomness import preserved, seed_step
from convatlas.train import params
from convatlas.train.computed import computed, laid_out
from convatlas.train.feed import training_batches
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Speed
from convatlas.train.task import Classification

SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # the test ends at so many times the best smoothed loss


@dataclass(frozen=True)
class LrFinding:
    """The rates tried, the smoothed loss at each, and the rate at which the loss fell fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return {"rates": list(self.rates), "losses": list(self.losses), "suggestion": self.suggestion}


def find_learning_rate(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    preprocessing: Preprocessing,
    task: type[Classification],
    speed: Speed,
    *,
    seed: int = 0,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 120,
    accelerator: str = "auto",
) -> LrFinding:
    """Raise the rate from `lowest` to `highest` by equal factors over `steps` steps of the recipe's optimiser.

    The suggestion is the rate at the steepest fall of the smoothed loss. Raises `NumericError` if the loss
    is not finite from the start, or never falls.
    """
    fabric = Fabric(
        accelerator=accelerator,
        devices=1,
        precision=speed.engine,
    )
    trial = laid_out(copy.deepcopy(model), speed)
    # without momentum's warm-up or clipping the loss answers to the rate of this very step
    plain = replace(recipe, clip_norm=0.0)
    params.hold(trial, plain)
    network, optimizer = fabric.setup(trial, params.optimizer(trial, plain, speed))
    objective = task.of(data, plain)
    batches = training_batches(data, recipe, preprocessing, seed=seed, channels_last=speed.channels_last)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with preserved(), closing(batches), computed(trial, speed):
        network.train()
        for step, batch in zip(range(steps), _endless(batches), strict=False):
            seed_step(seed, step)
            rate = lowest * (highest / lowest) ** (step / (steps - 1))
            params.set_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            loss = torch.stack(list(objective.losses(network, batch.to(fabric.device)).values())).sum()
            value = loss.item()
            mean = SMOOTHING * mean + (1 - SMOOTHING) * value
            smooth = mean / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(value) or (losses and smooth > DIVERGED * min(losses)):
                break
            rates.append(rate)
            losses.append(smooth)
            fabric.backward(loss)
            optimizer.step()
    return LrFinding(tuple(rates), tuple(losses), _steepest(rates, losses))


def _steepest(rates: list[float], losses: list[float]) -> float:
    """The rate where the loss falls most per factor of the rate."""
    if len(losses) < 3:
        raise NumericError(
            "the learning-rate test found no finite loss; look at the images and their normalisation."
        )
    falls = [before - after for before, after in zip(losses, losses[2:], strict=False)]
    best = max(range(len(falls)), key=falls.__getitem__)
    if falls[best] <= 0:
        raise NumericError("the loss did not fall at any learning rate that was tried.")
    return float(f"{rates[best + 1]:.2g}")


def _endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in count():
        yield from batches.epoch(epoch)
