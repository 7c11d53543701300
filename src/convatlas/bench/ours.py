"""Our own side: what a user of `convatlas train` gets, by the same loop, batches and rule of settings.

The recipe is plain SGD with momentum, as the peers' scripts have it, so that all sides do the same work; precision,
layout and kind of optimiser are what `convatlas train` would choose for this network. Nothing is printed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convatlas.bench.cell import Cell
from convatlas.bench.feeds import noise
from convatlas.bench.gate import ENDLESS, Gate
from convatlas.data import Batch, Batches, Data, Preprocessing, open_data, statistics
from convatlas.errors import UsageError
from convatlas.measure.timing import prepared
from convatlas.train import Compute, Observer, Recipe, RunFolder, agreement
from convatlas.train.computed import arrange_memory
from convatlas.train.feed import training_batches
from convatlas.train.loop import Loop
from convatlas.train.speed import Device, Speed, rule
from convatlas.train.task import Classification

PLAIN = Recipe(
    name="bench",
    source="SGD as the training scripts of torchvision have it, at a rate that breaks no network",
    epochs=10_000,
    optimizer="sgd",
    lr=1e-3,
    momentum=0.9,
    weight_decay=1e-4,
)
CROPS = {"none": "none", "shift": "shift", "box": "resized"}


def recipe_for(cell: Cell) -> Recipe:
    """The recipe of our side."""
    return replace(
        PLAIN,
        batch_size=cell.batch,
        epochs=1 if cell.synthetic else PLAIN.epochs,
        image_size=cell.shape[-1],
        resize="pad" if cell.augmentation == "none" else "squash",
        crop=CROPS[cell.augmentation],  # pyright: ignore[reportArgumentType]
        resized_scale=(0.08, 1.0),
        flip=cell.augmentation != "none",
    )


def speed_for(model: nn.Module, cell: Cell) -> Speed:
    """How our side computes: by the rule of `convatlas train`, unless something is set by hand."""
    by_hand: dict[str, Any] = {}
    if cell.dtype is not None:
        by_hand["precision"] = "bf16" if cell.dtype == "bf16" else "32"
    speed = replace(
        rule(model, (cell.batch, *cell.shape), Device.here(), **by_hand), recompute=cell.recompute
    )
    if cell.channels_last is None:
        return speed
    return replace(
        speed, channels_last=cell.channels_last, winograd=speed.winograd if cell.channels_last else ()
    )


# --- training -------------------------------------------------------------------------------------------


def training(model: nn.Module, cell: Cell, gate: Gate, root: Path, *, own_process: bool = False) -> None:
    """Train until nobody asks any more; the run lies below `root`.

    `own_process`: it was started for this by the command line, so its allocator may be set.
    """
    recipe, speed = recipe_for(cell), speed_for(model, cell)
    if own_process:
        arrange_memory(speed)
    fabric = Compute().fabric(speed)
    if cell.synthetic:
        train: Batches = Ready(cell, speed.channels_last)
        val, classes = Ready(cell, speed.channels_last, steps=1), tuple(map(str, range(cell.classes)))
        loader = "one batch of noise, ready made"
    else:
        data = open_data(cell.data, seed=0)
        train, val = _batches(data, cell, recipe, speed, agreement.data_workers(fabric, None))
        classes = data.classes
        loader = f"Batches, {'held in memory' if train.cached else f'{train.workers} workers'}"
    gate.facts |= {
        "followed": "convatlas.train.loop.Loop with the recipe that is given here",
        "optimiser": f"SGD 0.9{', fused' if speed.fused else ''}",
        "precision": "bf16 autocast" if speed.precision == "bf16" else "fp32",
        "layout": "channels-last" if speed.channels_last else "NCHW",
        "loader": loader,
        "threads": torch.get_num_threads(),
        "device": str(fabric.device),
        "recipe": recipe.to_json(),
        "speed": speed.to_json(),
    }
    Loop(
        task=Classification(classes, recipe),
        model=model,
        recipe=recipe,
        speed=speed,
        train=train,
        val=val,
        folder=RunFolder.create(root / "run"),
        fabric=fabric,
        spec={},
        observer=AtGate(gate, train.steps),
    ).run()


class AtGate(Observer):
    """Leads a training to the gate after each step."""

    def __init__(self, gate: Gate, steps: int) -> None:
        self.gate, self.steps = gate, steps

    def started(self, *, steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        """The first checkpoint comes after this: `saving` ends it."""
        self.gate.epoch(steps_per_epoch)

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """One step is over."""
        self.gate.step(images, loss)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """An epoch is over: the next one begins."""
        self.gate.epoch(self.steps)


def _batches(data: Data, cell: Cell, recipe: Recipe, speed: Speed, workers: int) -> tuple[Batches, Batches]:
    """Training batches as `convatlas train` makes them, and a small validation split, which nobody times."""
    channels, height, width = cell.shape
    plain = Preprocessing((height, width), recipe.resize, channels)
    mean, std = statistics(data.train, plain, seed=0)
    prepare = replace(plain, mean=tuple(mean), std=tuple(std))
    train = training_batches(
        data, recipe, prepare, seed=0, workers=workers, channels_last=speed.channels_last
    )
    few = data.val.subset(np.arange(min(len(data.val), cell.batch)))
    val = Batches(few, prepare, batch_size=cell.batch, shuffle=False, drop_last=False)
    return train, val


class _Nothing:
    """A split whose pictures are never asked for."""

    def __init__(self, count: int) -> None:
        self.keys = [f"noise {number}" for number in range(count)]
        self.labels = np.zeros(count, np.int64)
        self.ids = np.arange(count)

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, i: int, /) -> NDArray[np.uint8]:
        raise UsageError(f"picture {i} of a benchmark on noise does not exist.")


class Ready(Batches):
    """The same batch of noise again and again, in the layout that `Batches` would give."""

    def __init__(self, cell: Cell, channels_last: bool, steps: int = ENDLESS) -> None:
        channels, height, width = cell.shape
        super().__init__(
            _Nothing(cell.batch),
            Preprocessing((height, width), "squash", channels),
            batch_size=cell.batch,
            shuffle=False,
            drop_last=True,
            channels_last=channels_last,
        )
        self.steps = steps
        images, labels = noise(cell)
        layout = torch.channels_last if channels_last and channels > 1 else torch.contiguous_format
        self._batch = Batch(images.contiguous(memory_format=layout), labels, torch.arange(cell.batch))

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """`steps` times the batch."""
        for _ in range(start, self.steps):
            yield self._batch


# --- inference ------------------------------------------------------------------------------------------


def inference(model: nn.Module, cell: Cell, gate: Gate) -> None:
    """Forward passes over one batch of noise, as `convatlas predict` makes them, until nobody asks any more."""
    dtype, last = cell.dtype or "fp32", bool(cell.channels_last)
    gate.facts |= {
        "followed": "evaluation mode, no gradients, one batch again and again",
        "precision": dtype,
        "layout": "channels-last" if last else "NCHW",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    with prepared(model, cell.shape, batch=cell.batch, dtype=dtype, channels_last=last) as run:
        gate.epoch(ENDLESS)
        while True:
            run()
            gate.step(cell.batch)
