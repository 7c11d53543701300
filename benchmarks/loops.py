"""One recipe for CIFAR-10 through two loops: ours with its default settings, and torchvision's in fp32.

SGD with momentum 0.9, weight decay 5e-4 on everything, batches of 128, shift by 4 px and mirror, a cosine from 0.1 to 0
over all steps, on request after a linear warm-up from a hundredth; val after every epoch. Both see the same images, and
validate on the same ones. With a folder to keep what they have, both go on to the same bits: ours after its last whole
epoch, torchvision's also after a part of one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import transforms

from convatlas import api
from convatlas.bench import feeds
from convatlas.bench.cell import Cell
from convatlas.bench.peers import torchvision_epoch
from convatlas.data import Data, Split
from convatlas.train import Compute, Observer, RunFolder, Safety

BATCH, LR, MOMENTUM, DECAY = 128, 0.1, 0.9, 5e-4
WARMUP_START = 0.01  # torchvision's --lr-warmup-decay
SIDES = ("ours", "torchvision")
WHOLE = Safety(checkpoint_seconds=1e9)  # nothing is saved within an epoch
SETTINGS: dict[str, Any] = {
    "batch_size": BATCH,
    "optimizer": "sgd",
    "lr": LR,
    "momentum": MOMENTUM,
    "weight_decay": DECAY,
    "decay_all": True,
    "schedule": "cosine",
    "warmup_start": WARMUP_START,
    "label_smoothing": 0.0,
    "clip_norm": 0.0,
    "ema": 0.0,
    "image_size": 32,
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


def limited(data: Data, images: int) -> Data:
    """The first so many images of train and val, in the order of a seed."""
    few = {
        split.name: split.subset(np.random.default_rng(0).permutation(len(split))[:images])
        for split in (data.train, data.val)
    }
    return replace(data, **few)


class Pace:
    """Is told how a training goes, and may keep it waiting; this one does neither.

    `facts` say how it computes, `done` how many parts of epochs it had behind it when it began. Where nothing else is
    said, a part is an epoch.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.done = 0

    def part(self) -> None:
        """A part of an epoch begins when this returns; what was before it is on the disk."""

    def step(self, images: int) -> None:
        """A step with so many images is over."""

    def validated(self, accuracy: float) -> None:
        """An epoch is over: the share of val that is named right, in [0, 1]."""


def ours(
    data: Data,
    model: str,
    options: Mapping[str, Any],
    epochs: int,
    seed: int,
    pace: Pace,
    *,
    warmup: float = 0.0,
    own_process: bool = False,
    kept: Path | None = None,
) -> float:
    """Train one of our networks: accuracy on val, in [0, 1], after the last epoch.

    `warmup`: a share of all steps. `own_process`: the process is there for this alone, so its allocator may be set, as
    `convatlas train` does. `kept`: a folder from which a training that was stopped goes on.
    """
    with _folder(kept) as folder:
        out = folder / "run"
        run = api.train(
            data,
            model,
            out=out,
            seed=seed,
            options=options,
            settings={**SETTINGS, "epochs": epochs, "warmup": warmup},
            compute=Compute(own_process=own_process),
            safety=WHOLE,
            auto_resume=True,
            observer=_Led(pace, RunFolder(out)),
        )
        return [record for record in run.folder.metrics() if record["kind"] == "val"][-1]["top1"]


class _Led(Observer):
    """Leads our loop at a pace."""

    def __init__(self, pace: Pace, folder: RunFolder) -> None:
        self.pace, self.folder = pace, folder

    def started(self, *, steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        """Also how it computes has been settled."""
        speed = self.folder.read_run()["speed"]
        self.pace.facts = {
            "precision": "bf16 autocast" if speed["precision"] == "bf16" else "fp32",
            "layout": "channels-last" if speed["channels_last"] else "NCHW",
            "threads": torch.get_num_threads(),
        }
        self.pace.done = step // steps_per_epoch

    def begun(self, *, epoch: int) -> None:
        """An epoch waits until it may begin."""
        self.pace.part()

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """One step is over."""
        self.pace.step(images)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """An epoch is over, but for its checkpoint."""
        self.pace.validated(record["top1"])


def torchvision(
    data: Data,
    make: Callable[[], nn.Module],
    epochs: int,
    seed: int,
    pace: Pace,
    *,
    warmup: float = 0.0,
    parts: int = 1,
    kept: Path | None = None,
) -> float:
    """Train a network as torchvision's training script does: accuracy on val, in [0, 1], after the last epoch.

    `warmup`: a share of all steps. `parts`: of an epoch, each with a loader of its own. `kept`: a folder from which a
    training that was stopped goes on; as in the script, a checkpoint is written after each epoch, here after each part.
    """
    torch.manual_seed(seed)
    network = make()
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    cell = Cell("", (3, 32, 32), len(data.classes), BATCH, True, data="cifar10", augmentation="shift")
    pace.facts = {"precision": "fp32", "layout": "NCHW", "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as own, _folder(kept) as folder:
        held = {split.name: _held(split, Path(own) / f"{split.name}.npz") for split in (data.train, data.val)}
        augmented = feeds.Held(held["train"], transforms.Compose(list(feeds.steps(cell))))
        plain = feeds.Held(held["val"], transforms.Compose(list(feeds.steps(cell))[-3:]))
        steps = len(augmented) // BATCH
        rate = schedule(optimiser, epochs * steps, warmup)
        accuracy, order, saved = 0.0, torch.empty(0), folder / "checkpoint.pt"
        kinds = {"network": network, "optimiser": optimiser, "rate": rate}
        if saved.exists():
            told = torch.load(saved, weights_only=True)
            for name, each in kinds.items():
                each.load_state_dict(told[name])
            torch.set_rng_state(told["random"])
            pace.done, order, accuracy = told["done"], told["order"], told["val"]
        for done in range(pace.done, epochs * parts):
            part = done % parts
            pace.part()
            if part == 0:
                order = torch.randperm(len(augmented))[: steps * BATCH]
            drawn = order[part * steps // parts * BATCH : (part + 1) * steps // parts * BATCH]
            loader = torch.utils.data.DataLoader(
                augmented, BATCH, sampler=drawn.tolist(), num_workers=feeds.workers(16)
            )
            gate: Any = _Gate(pace, rate)
            torchvision_epoch(network, nn.CrossEntropyLoss(), optimiser, loader, gate, cell)
            if part + 1 == parts:
                accuracy = _accuracy(network, torch.utils.data.DataLoader(plain, 256))
                pace.validated(accuracy)
            state: dict[str, Any] = {name: each.state_dict() for name, each in kinds.items()}
            state |= {"done": done + 1, "order": order, "val": accuracy, "random": torch.get_rng_state()}
            torch.save(state, saved.with_suffix(".new"))
            os.replace(saved.with_suffix(".new"), saved)
        return accuracy


@contextmanager
def _folder(kept: Path | None) -> Generator[Path]:
    """The folder that is kept, or one for the moment."""
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept


def schedule(
    optimiser: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """As torchvision's script puts it together, but for steps in the place of epochs."""
    warm = round(warmup * steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps - warm)
    if not warm:
        return cosine
    linear = torch.optim.lr_scheduler.LinearLR(optimiser, WARMUP_START, total_iters=warm)
    return torch.optim.lr_scheduler.SequentialLR(optimiser, [linear, cosine], milestones=[warm])


class _Gate:
    """What torchvision's loop is told, as it tells a benchmark's gate; it steps the schedule."""

    def __init__(self, pace: Pace, rate: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.pace, self.rate = pace, rate

    def epoch(self, steps: int) -> None:
        """Nothing waits here."""

    def step(self, images: int, loss: float | None = None) -> None:
        """One step of the schedule."""
        self.rate.step()
        self.pace.step(images)


def _held(split: Split, file: Path) -> Path:
    images = np.stack([split.image(row) for row in range(len(split))])
    np.savez(file, images=images, labels=split.labels)
    return file


@torch.inference_mode()
def _accuracy(network: nn.Module, loader: Any) -> float:
    network.eval()
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)
