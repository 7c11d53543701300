"""Augmentation by the batch beside torchvision's, image by image, in one run.

    PYTHONPATH=src python benchmarks/augment.py [ROUNDS]

One thread; images per second of processor time, so that other processes matter little. The two take turns, round by
round, each with fresh pictures of its own; the figures are medians over rounds, with the slowest and the fastest.
The result goes to `benchmarks/results/augment-DATE.json`. Measured, never asserted.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

from convatlas.data import Augment, Preprocessing
from convatlas.measure.machine import machine, versions

BATCH = 128
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


def measure(side: int, batches: int, rounds: int) -> dict[str, dict[str, dict[str, float] | float]]:
    """Images per processor second for each case: {case: {ours, torchvision, ratio}}."""
    store = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (4 * BATCH, 3, side, side), dtype=np.uint8)
    )
    result: dict[str, dict[str, dict[str, float] | float]] = {}
    for name, (augment, transforms) in CASES.items():
        runners = {"ours": ours(augment, side), "torchvision": theirs(transforms, side)}
        speeds: dict[str, list[float]] = {who: [] for who in runners}
        for turn in range(rounds + 1):  # the first warms up
            for who, batch in runners.items():
                count = batches if who == "ours" else max(batches // 8, 1)
                begin = time.process_time()
                for epoch in range(count):
                    start = epoch % 4 * BATCH
                    batch(store[start : start + BATCH], turn * batches + epoch)
                if turn:
                    speeds[who].append(count * BATCH / (time.process_time() - begin))
        result[name] = {
            who: {
                "median": round(statistics.median(each)),
                "slowest": round(min(each)),
                "fastest": round(max(each)),
            }
            for who, each in speeds.items()
        }
        ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["torchvision"], strict=True))
        result[name]["ratio"] = round(ratio, 1)
        print(f"{side} px, {name}: {result[name]}", flush=True)
    return result


def main(rounds: int) -> None:
    """Run every case at CIFAR's and at ImageNet's size, and write the result."""
    torch.set_num_threads(1)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": date,
        "command": "python benchmarks/augment.py",
        "unit": "images per second of processor time, one thread",
        "batch": BATCH,
        "rounds": rounds,
        "machine": machine(),
        "versions": versions(),
        "32 px": measure(32, 40, rounds),
        "224 px": measure(224, 4, rounds),
    }
    path = Path(__file__).parent / "results" / f"augment-{date}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
