"""Is it as good, too? One recipe through our loop with its default settings, and through torchvision's loop in fp32.

    pip install -e '.[bench]'
    python benchmarks/accuracy.py [--data DATA] [--epochs 10] [--seeds 3] [--only ours|torchvision] [--limit IMAGES]

resnet20_cifar on CIFAR-10: SGD with momentum 0.9, weight decay 5e-4 on everything, batches of 128, shift by 4 px and
mirror, a cosine from 0.1 to 0 over all steps. 5,000 of the 50,000 training images are val, the same for both sides and
all seeds; the figure is val accuracy after the last epoch. Test images are not looked at. A run that is done is a line
of `benchmarks/accuracy-runs.jsonl`, and a second call goes on after the last one; with all of them,
`benchmarks/results/accuracy-DATE.json` is written. About an hour on two cores for three seeds. `--limit` takes so many
images only, to see that it works, and writes nothing. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import append, read
from torch import nn
from torchvision import transforms

from convatlas import api
from convatlas.bench import feeds
from convatlas.bench.cell import Cell
from convatlas.bench.peers import torchvision_epoch
from convatlas.data import Data, Split, open_data
from convatlas.measure.machine import machine, versions
from convatlas.models import create_model

HERE = Path(__file__).parent
RUNS = HERE / "accuracy-runs.jsonl"
RESULTS = HERE / "results"
NETWORK, BATCH, LR, DECAY = "resnet20_cifar", 128, 0.1, 5e-4
SIDES = ("ours", "torchvision")


def ours(data: Data, epochs: int, seed: int) -> float:
    """Accuracy on val, in [0, 1], after the last epoch."""
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "lr": LR,
        "momentum": 0.9,
        "weight_decay": DECAY,
        "decay_all": True,
        "schedule": "cosine",
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "clip_norm": 0.0,
        "ema": 0.0,
        "resize": "squash",
        "crop": "shift",
        "flip": True,
        "trivial": False,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "mean": list(feeds.MEAN),
        "std": list(feeds.STD),
    }
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(data, NETWORK, out=Path(folder) / "run", seed=seed, settings=settings)
        lines = run.folder.metrics_path.read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "val"][-1]["top1"]


class Always:
    """A gate that lets everything pass, and steps the schedule."""

    def __init__(self, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.schedule = schedule

    def epoch(self, steps: int) -> None:
        """Nothing waits."""

    def step(self, images: int, loss: float | None = None) -> None:
        """One step of the schedule."""
        self.schedule.step()


def torchvision(data: Data, epochs: int, seed: int) -> float:
    """Accuracy on val, in [0, 1], after the last epoch."""
    torch.manual_seed(seed)
    network = create_model(NETWORK, num_classes=len(data.classes))
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY)
    cell = Cell(NETWORK, (3, 32, 32), len(data.classes), BATCH, True, data="cifar10", augmentation="shift")
    with tempfile.TemporaryDirectory() as folder:
        held = {
            split.name: _held(split, Path(folder) / f"{split.name}.npz") for split in (data.train, data.val)
        }
        augmented = feeds.Held(held["train"], transforms.Compose(list(feeds.steps(cell))))
        plain = feeds.Held(held["val"], transforms.Compose(list(feeds.steps(cell))[-3:]))
        loader = torch.utils.data.DataLoader(
            augmented, BATCH, shuffle=True, drop_last=True, num_workers=feeds.workers(16)
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs * len(loader))
        for _ in range(epochs):
            torchvision_epoch(network, nn.CrossEntropyLoss(), optimiser, loader, Always(schedule), cell)  # pyright: ignore[reportArgumentType]
        return _accuracy(network, torch.utils.data.DataLoader(plain, 256))


def _held(split: Split, file: Path) -> Path:
    images = np.stack([split.image(row) for row in range(len(split))])
    np.savez(file, images=images, labels=split.labels)
    return file


@torch.inference_mode()
def _accuracy(network: nn.Module, loader: Any) -> float:
    network.eval()
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)


def limited(data: Data, images: int) -> Data:
    """The first so many images of train and val, in the order of a seed."""
    from dataclasses import replace

    few = {
        split.name: split.subset(np.random.default_rng(0).permutation(len(split))[:images])
        for split in (data.train, data.val)
    }
    return replace(data, **few)


def main(options: argparse.Namespace) -> None:
    """Run what is missing."""
    wanted = [f"{side}/{options.epochs}/{seed}" for seed in range(options.seeds) for side in SIDES]
    found = {} if options.limit else read(options.runs)
    missing = [name for name in wanted if name not in found and name.startswith(options.only)]
    if missing and options.data is None:
        raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
    if missing:
        data = open_data(options.data / "cifar10.zip", seed=0)
        data = limited(data, options.limit) if options.limit else data
    for name in missing:
        side, _, seed = name.split("/")
        begin = time.monotonic()
        accuracy = {"ours": ours, "torchvision": torchvision}[side](data, options.epochs, int(seed))
        record = {"cell": name, "val": accuracy, "val_images": len(data.val), "train_images": len(data.train)}
        record["seconds"] = round(time.monotonic() - begin, 1)
        print(json.dumps(record), flush=True)
        if not options.limit:
            append(options.runs, record)
    found = {} if options.limit else read(options.runs)
    if all(name in found for name in wanted):
        print(write(found, wanted, options))


def write(found: dict[str, dict[str, Any]], wanted: list[str], options: argparse.Namespace) -> Path:
    """The dated file: every run, means, and their difference in points."""
    values = {side: [found[name]["val"] for name in wanted if name.startswith(side)] for side in SIDES}
    means = {side: statistics.mean(each) for side, each in values.items()}
    spread = {side: statistics.stdev(each) if len(each) > 1 else 0.0 for side, each in values.items()}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "command": f"python benchmarks/accuracy.py --epochs {options.epochs} --seeds {options.seeds}",
        "what": "share of CIFAR-10's val images that resnet20_cifar names right after the last epoch",
        "runs": [found[name] for name in wanted],
        "mean": means,
        "deviation": spread,
        "difference_points": 100 * (means["ours"] - means["torchvision"]),
        "machine": machine(),
        "versions": versions(),
    }
    file = options.results / f"accuracy-{date}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="ours or torchvision")
    parser.add_argument("--limit", type=int, default=0, help="so many images, and write nothing")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    main(parser.parse_args())
