"""What each of several ranks does in the tests of processes: train on digits, and tell what it saw and wrote."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convatlas.data import Batch, open_data
from convatlas.data.dataset import Split
from convatlas.files import AppendLog, newest
from convatlas.train import Compute, Safety, agreement, begin, checkpoint, resume
from convatlas.train.task import Classification

# without momentum, small differences of a first step stay small
SMALL: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 64,
    "optimizer": "sgd",
    "momentum": 0.0,
    "lr": 0.05,
}


def train(
    rank: int,
    out: str,
    *,
    model: str = "lenet5",
    settings: dict[str, Any] | None = None,
    devices: int | None = None,
    images: int | None = None,
    double: bool = False,
    go_on: bool = False,
    convert: bool = False,
    val: int | None = None,
    kill: tuple[int, int] | None = None,
    slow: float = 0.0,
    checkpoint_steps: int = 5,
    shares: bool = False,
) -> dict[str, Any]:
    """Begin a run, or go on with it. Gives the ids of each batch that was learnt from and measured, how many times a
    training image was decoded, and how many lines of a log were written.

    `images`, `val`: only so many images to learn from and to measure on. `double`: compute in float64, where the order
    of additions is all but lost. `kill`: (rank, batch) at which a process ends itself by SIGKILL. `shares`: pieces of a
    batch, for `accumulate`, are the rows that as many processes would have.
    """
    told: dict[str, Any] = {"learnt": [], "measured": [], "decoded": 0, "lines": 0}
    losses, measure, image, append = (
        Classification.losses,
        Classification.measure,
        Split.image,
        AppendLog.append,
    )

    def in_kind(batch: Batch) -> Batch:
        return replace(batch, images=batch.images.to(torch.get_default_dtype()))

    def learnt(self: Any, model: Any, batch: Any) -> Any:
        time.sleep(slow)
        if kill is not None and [rank, len(told["learnt"])] == list(kill):
            os.kill(os.getpid(), signal.SIGKILL)
        told["learnt"].append(batch.ids.tolist())
        return losses(self, model, in_kind(batch))

    def measured(self: Any, model: Any, batch: Any, metrics: Any) -> None:
        told["measured"].append(batch.ids.tolist())
        measure(self, model, in_kind(batch), metrics)

    def decoded(self: Any, i: int) -> Any:
        told["decoded"] += self.name == "train"
        return image(self, i)

    def written(self: Any, record: Any) -> None:
        told["lines"] += 1
        append(self, record)

    def shared(self: Batch, pieces: int) -> list[Batch]:
        parts = [slice(number, None, pieces) for number in range(pieces)]
        return [Batch(self.images[part], self.labels[part], self.ids[part]) for part in parts]

    Classification.losses, Classification.measure, AppendLog.append = learnt, measured, written
    if shares:
        Batch.split = shared
    data = open_data("digits", seed=7)
    if images is not None:
        data = replace(data, train=data.train.subset(np.arange(images)))
    if val is not None:
        data = replace(data, val=data.val.subset(np.arange(val)))
    if double:
        torch.set_default_dtype(torch.float64)
    Split.image = decoded
    common: dict[str, Any] = {
        "compute": Compute(
            devices=devices,
            accelerator="cpu",
            workers=0,
            precision="32" if double else "auto",
            convert_world=convert,
        ),
        "safety": Safety(checkpoint_steps=checkpoint_steps),
    }
    if go_on:
        resume(out, where=data, **common)
    else:
        begin(data, model=model, out=out, seed=7, settings={**SMALL, **(settings or {})}, **common)
    return told


def train_with_a_late_one(rank: int, out: str) -> list[str]:
    """Begin a run in which rank 1 looks for a checkpoint only when rank 0 could have written one, or after seconds.

    Gives what rank 1 finds.
    """
    load, found = checkpoint.load, list[str]()

    def late(parent: Path, *others: Any) -> Any:
        if rank == 1:
            end = time.monotonic() + 3
            while newest(parent)[0] is None and time.monotonic() < end:
                time.sleep(0.02)
            found.extend(path.name for path in parent.glob("*"))
        return load(parent, *others)

    checkpoint.load = late
    train(rank, out, devices=2)
    return found


def train_on_own_images(rank: int, out: str, devices: int) -> None:
    """Begin a run in which each process has split the images in its own way."""
    data = open_data("digits", seed=rank)
    begin(data, model="lenet5", out=out, settings=SMALL, compute=Compute(devices, "cpu", workers=0))


def train_on_a_part(
    rank: int,
    folders: list[str],
    out: str,
    *,
    settings: dict[str, Any] | None = None,
    go_on: bool = False,
    shares: Any = None,
    convert: bool = False,
    kill_at: int = 0,
) -> list[str]:
    """Begin a run, or go on with it, as a machine that has the shards in the folder of its rank alone.

    `shares` stands in place of what the processes would agree on; at the step `kill_at` rank 1 ends itself. Gives the
    keys of the training images that were read.
    """
    read, scaled = set[str](), Split.scaled

    def noted(self: Split, i: int, *others: Any) -> Any:
        if self.name == "train":
            read.add(self.keys[i])
        return scaled(self, i, *others)

    losses, steps = Classification.losses, count(1)

    def learnt(self: Any, model: Any, batch: Any) -> Any:
        if next(steps) == kill_at and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(self, model, batch)

    Split.scaled, Classification.losses = noted, learnt
    if shares is not None:
        agreement.shares = lambda *_: shares
    common: dict[str, Any] = {
        "compute": Compute(accelerator="cpu", workers=0, convert_world=convert),
        "safety": Safety(checkpoint_steps=1),
    }
    if go_on:
        resume(out, where=folders[rank], **common)
    else:
        begin(
            folders[rank], model="lenet5", out=out, seed=7, settings={**SMALL, **(settings or {})}, **common
        )
    return sorted(read)


def command(rank: int, words: list[str]) -> int:
    """Run `convatlas WORDS`; its exit code."""
    from convatlas.cli import main

    try:
        main.run(words)
    except SystemExit as left:
        return int(left.code or 0)
