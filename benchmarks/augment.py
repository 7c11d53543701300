"""Augmentation by the batch beside torchvision's, image by image, in one run.

    python benchmarks/augment.py [--rounds N] [--only PATTERN] [--list] [--again] [--since DAY]

One thread; images per second of processor time, so that other processes matter little. The two take turns, round by
round, each with fresh pictures of its own; the figures are medians over rounds. An augmentation at a size is a cell: a
line of `benchmarks/augment-cells.jsonl`, after which the next call goes on. With all of them
`benchmarks/results/augment-DATE.json` is written, from which `python docs/speed_results.py` makes the table of
docs/augmentation.md. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from record import HERE, Records, add_options, ends, stamps, told
from torchvision.transforms import v2

from convatlas.data import Augment, Preprocessing
from convatlas.measure.timing import threads_set

CELLS = HERE / "augment-cells.jsonl"
BATCH = 128
BATCHES = {32: 40, 224: 4}  # of ours in a round, by the side of the pictures: CIFAR's and ImageNet's
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CASES: dict[str, tuple[Augment, list[v2.Transform]]] = {
    "shift and flip": (
        Augment(crop="shift", flip=True),
        [v2.RandomCrop(0, padding=4), v2.RandomHorizontalFlip()],
    ),
    "TrivialAugment": (Augment(trivial=True), [v2.TrivialAugmentWide()]),
    "shift, flip, TrivialAugment, erasing": (
        Augment(crop="shift", flip=True, trivial=True, erasing=0.25),
        [
            v2.RandomCrop(0, padding=4),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(),
            v2.RandomErasing(0.25),
        ],
    ),
}

Batch = Callable[[torch.Tensor, int], torch.Tensor]


def ours(augment: Augment, side: int) -> Batch:
    """Augment and normalise a batch at once."""
    prepare = Preprocessing((side, side), "crop", 3, MEAN, STD)
    ids = np.arange(BATCH)

    def batch(images: torch.Tensor, epoch: int) -> torch.Tensor:
        return prepare.normalise(augment(images, 0, epoch, ids), torch.channels_last)

    return batch


def theirs(transforms: list[v2.Transform], side: int) -> Batch:
    """Augment and normalise image by image, on tensors, and stack: a DataLoader's work without its processes."""
    parts = [
        v2.RandomCrop(side, padding=4) if isinstance(part, v2.RandomCrop) else part for part in transforms
    ]
    each = v2.Compose([*parts, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def batch(images: torch.Tensor, epoch: int) -> torch.Tensor:
        stacked = torch.stack([each(image) for image in images])
        return stacked.contiguous(memory_format=torch.channels_last)

    return batch


@dataclass(frozen=True)
class Case:
    """An augmentation at a size."""

    side: int
    augmentation: str  # of CASES
    rounds: int
    timed: bool = True

    @property
    def name(self) -> str:
        """`32 px, TrivialAugment, 9 rounds`."""
        return f"{self.case}, {self.rounds} rounds"

    @property
    def case(self) -> str:
        """`32 px, TrivialAugment`."""
        return f"{self.side} px, {self.augmentation}"

    def run(self, _: Records) -> dict[str, Any]:
        """Images a second of the processor's time, round by round; the first one warms up."""
        pictures = np.random.default_rng(0).integers(
            0, 256, (4 * BATCH, 3, self.side, self.side), dtype=np.uint8
        )
        store, batches = torch.from_numpy(pictures), BATCHES[self.side]
        augment, transforms = CASES[self.augmentation]
        runners = {"ours": ours(augment, self.side), "torchvision": theirs(transforms, self.side)}
        speeds: dict[str, list[float]] = {who: [] for who in runners}
        with threads_set(1):
            for turn in range(self.rounds + 1):
                for who, batch in runners.items():
                    count = batches if who == "ours" else max(batches // 8, 1)
                    begin = time.process_time()
                    for epoch in range(count):
                        start = epoch % 4 * BATCH
                        batch(store[start : start + BATCH], turn * batches + epoch)
                    if turn:
                        speeds[who].append(round(count * BATCH / (time.process_time() - begin)))
        return {"images_per_second": speeds}

    def words(self, record: Mapping[str, Any]) -> str:
        """Medians, and the ratio."""
        told = medians(record)
        return f"{told['ours']:,} against {told['torchvision']:,}, {told['ratio']} times"


def medians(record: Mapping[str, Any]) -> dict[str, float]:
    """Of both, and of the ratio of a round."""
    speeds = record["images_per_second"]
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["torchvision"], strict=True))
    return {who: round(statistics.median(each)) for who, each in speeds.items()} | {"ratio": round(ratio, 1)}


def report(found: Records, every: Sequence[Case], options: argparse.Namespace) -> dict[str, Any]:
    """Medians and turns of every case."""
    return {
        "command": f"python benchmarks/augment.py --rounds {options.rounds}",
        "unit": "images per second of processor time, one thread",
        "batch": BATCH,
        "rounds": options.rounds,
        "rows": [
            {"case": cell.case, **medians(found[cell.name]), "turns": found[cell.name]["images_per_second"]}
            for cell in every
        ],
        "cells": {cell.name: stamps(found[cell.name]) for cell in every},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    every = [Case(side, name, options.rounds) for side in BATCHES for name in CASES]
    return told("augment", every, options, lambda found: report(found, every, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--rounds", type=int, default=9)
    ends(main, parser.parse_args())
