"""The peers: loops as the training scripts of torchvision and timm are by default, and a plain Lightning Trainer.

The scripts are not in the wheels of their libraries, so each loop is written here from the library's own parts, in
the order of its script; `FOLLOWED` says what was followed. Left out on all sides: printing, validation, checkpoints,
and what is off by default. The learning rate is 0.001 everywhere, since networks without normalisation break at the
scripts' 0.1 on noise; it changes no arithmetic.

`amp` is what a user gets from the script's own `--amp --channels-last`, with bf16, which is what processors have. The
script of torchvision has no channels-last, and its autocast is CUDA's alone; it is given both here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.bench import feeds
from convatlas.bench.cell import Cell
from convatlas.bench.gate import ENDLESS, Gate
from convatlas.errors import UsageError

LR = 1e-3
MOMENTUM = 0.9
LAST = torch.channels_last
PLAIN = torch.contiguous_format
Autocast = Callable[[], AbstractContextManager[Any]]

FOLLOWED = {
    "torchvision": "references/classification/train.py of pytorch/vision, train_one_epoch: zero_grad after the forward "
    "pass, SGD with momentum 0.9 and weight decay 1e-4, CrossEntropyLoss, top-1 and top-5 of every batch; DataLoader "
    "with 16 workers (here at most the number of cores), pin_memory, RandomResizedCrop and flip by Pillow",
    "timm": "train.py of pytorch-image-models: create_loader with its prefetcher, 4 workers (here at most the number "
    "of cores) and its default augmentation, create_optimizer_v2 (SGD with Nesterov momentum 0.9, weight decay 2e-5, "
    "none on vectors), label smoothing 0.1, cosine schedule stepped every update",
    "lightning": "a LightningModule with training_step (cross-entropy) and configure_optimizers (SGD, momentum 0.9, "
    "weight decay 1e-4) under Trainer with its defaults; torchvision's transforms, DataLoader with as many workers as "
    "cores; no progress bar",
}


def device() -> torch.device:
    """Where everybody computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(cell: Cell) -> Autocast:
    """bf16 for what it is safe for, or nothing."""
    if not cell.peer_amp:
        return nullcontext
    return partial(torch.autocast, device_type=device().type, dtype=torch.bfloat16)


def laid_out(model: nn.Module, cell: Cell) -> nn.Module:
    """The network where it computes, channels-last if that was asked for."""
    model = model.to(device())
    return model.to(memory_format=LAST) if cell.peer_amp else model  # pyright: ignore[reportCallIssue]


def told(gate: Gate, name: str, cell: Cell, optimiser: str, loader: Any) -> None:
    """Put into the facts what is run."""
    gate.facts |= {
        "followed": FOLLOWED[name],
        "optimiser": optimiser,
        "precision": "bf16 autocast" if cell.peer_amp else "fp32",
        "layout": "channels-last" if cell.peer_amp else "NCHW",
        "loader": "one batch of noise, ready made"
        if cell.synthetic
        else f"{type(loader).__name__}, {getattr(getattr(loader, 'loader', loader), 'num_workers', 0)} workers",
        "threads": torch.get_num_threads(),
        "device": str(device()),
    }


# --- torchvision ----------------------------------------------------------------------------------------


def torchvision(model: nn.Module, cell: Cell, gate: Gate, root: str) -> None:
    """Train until nobody asks any more; `root` is for what a peer writes, and this one writes nothing."""
    model = laid_out(model, cell)
    loader = feeds.loader(cell, 16, pin_memory=True, drop_last=False)
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=1e-4)
    told(gate, "torchvision", cell, "SGD 0.9", loader)
    while True:
        torchvision_epoch(model, criterion, optimiser, loader, gate, cell)


def torchvision_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimiser: torch.optim.Optimizer,
    loader: Any,
    gate: Gate,
    cell: Cell,
) -> None:
    """The steps of one epoch."""
    model.train()
    casting, place, layout = autocast(cell), device(), LAST if cell.peer_amp else PLAIN
    meters: list[tuple[float, float, float]] = []
    gate.epoch(len(loader))
    for image, target in loader:
        image, target = image.to(place, memory_format=layout), target.to(place)
        with casting():
            output = model(image)
            loss = criterion(output, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        top1, top5 = _accuracy(output, target)
        meters.append((loss.item(), top1.item(), top5.item()))
        del meters[:-20]  # the script's windows
        gate.step(len(image), meters[-1][0])


@torch.inference_mode()
def _accuracy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Per cent of the batch whose class is the first, and is among the first five (or all, where there are fewer)."""
    best = output.topk(min(5, output.shape[1]), 1)[1].t()
    right = best == target[None]
    return tuple(right[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in (1, 5))  # pyright: ignore[reportReturnType]


# --- timm -----------------------------------------------------------------------------------------------


def timm(model: nn.Module, cell: Cell, gate: Gate, root: str) -> None:
    """Train until nobody asks any more; nothing is written to `root`."""
    from timm import utils
    from timm.loss import LabelSmoothingCrossEntropy  # pyright: ignore[reportPrivateImportUsage]
    from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
    from timm.scheduler import create_scheduler_v2  # pyright: ignore[reportPrivateImportUsage]

    utils.random_seed(42, 0)  # pyright: ignore[reportPrivateImportUsage]
    model = laid_out(model, cell)
    optimiser = create_optimizer_v2(model, opt="sgd", lr=LR, weight_decay=2e-5, momentum=MOMENTUM)
    loader = _timm_loader(cell)
    schedule, _ = create_scheduler_v2(
        optimiser, sched="cosine", num_epochs=300, warmup_epochs=0, min_lr=0.0, updates_per_epoch=len(loader)
    )
    criterion = LabelSmoothingCrossEntropy(smoothing=0.1)
    told(gate, "timm", cell, "SGD 0.9, Nesterov", loader)
    epoch = 0
    while True:
        timm_epoch(model, criterion, optimiser, schedule, loader, gate, cell, epoch)
        epoch += 1


def timm_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    loader: Any,
    gate: Gate,
    cell: Cell,
    epoch: int = 0,
) -> None:
    """The steps of one epoch."""
    from timm import utils

    losses = utils.AverageMeter()  # pyright: ignore[reportPrivateImportUsage]
    casting = autocast(cell)
    model.train()
    optimiser.zero_grad()
    updates = epoch * len(loader)
    gate.epoch(len(loader))
    for image, target in loader:
        if cell.synthetic:
            image, target = image.to(device()), target.to(device())
        if cell.peer_amp:
            image = image.contiguous(memory_format=LAST)
        with casting():
            loss = criterion(model(image), target)
        loss.backward()
        optimiser.step()
        losses.update(loss.item(), len(image))
        updates += 1
        optimiser.zero_grad()
        if schedule is not None:
            schedule.step_update(num_updates=updates, metric=losses.avg)
        gate.step(len(image), losses.val)


def _timm_loader(cell: Cell) -> Any:
    from timm.data import ImageDataset, create_loader  # pyright: ignore[reportPrivateImportUsage]

    if cell.synthetic:
        return feeds.Again(feeds.noise(cell))
    pictures = feeds.Held(Path(cell.held)) if cell.held else ImageDataset(str(feeds.folder(cell)))
    channels = cell.shape[0]
    return create_loader(
        pictures,  # pyright: ignore[reportArgumentType]
        input_size=cell.shape,  # pyright: ignore[reportArgumentType]
        batch_size=cell.batch,
        is_training=True,
        no_aug=cell.augmentation == "none",
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        interpolation="random" if cell.augmentation != "none" else "bilinear",
        mean=feeds.MEAN[:channels],
        std=feeds.STD[:channels],
        num_workers=feeds.workers(4),
        device=device(),
    )


# --- Lightning ------------------------------------------------------------------------------------------


def lightning(model: nn.Module, cell: Cell, gate: Gate, root: str) -> None:
    """Train until nobody asks any more. `root` is a folder for what the Trainer writes."""
    import lightning as pl  # pyright: ignore[reportMissingImports]

    loader = feeds.loader(cell, feeds.workers(10**6), pin_memory=False, drop_last=False)
    told(gate, "lightning", cell, "SGD 0.9", loader)
    trainer = pl.Trainer(
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if cell.peer_amp else "32-true",
        default_root_dir=root,
        enable_progress_bar=False,
        callbacks=[_lightning_gate(gate, cell)],
    )
    trainer.fit(lightning_module(laid_out(model, cell), cell), loader)


def lightning_module(model: nn.Module, cell: Cell) -> Any:
    """The network with a step and an optimiser, as Lightning's pages show it."""
    import lightning as pl  # pyright: ignore[reportMissingImports]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            image, target = batch
            if cell.peer_amp:
                image = image.contiguous(memory_format=LAST)
            loss = nn.functional.cross_entropy(self.model(image), target)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=1e-4)

    return Module()


def _lightning_gate(gate: Gate, cell: Cell) -> Any:
    import lightning as pl  # pyright: ignore[reportMissingImports]

    class AtGate(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            gate.epoch(min(int(trainer.num_training_batches), ENDLESS))

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            gate.step(len(batch[0]), float(outputs["loss"]))

    return AtGate()


# --- inference ------------------------------------------------------------------------------------------


def inference(model: nn.Module, cell: Cell, gate: Gate) -> None:
    """Forward passes over one batch of noise, as the scripts' evaluation makes them, until nobody asks any more."""
    model = laid_out(model, cell).eval()
    images = feeds.noise(cell)[0].to(device(), memory_format=LAST if cell.peer_amp else PLAIN)
    casting = autocast(cell)
    gate.facts |= {
        "followed": "evaluation mode, torch.inference_mode, one batch again and again",
        "precision": "bf16 autocast" if cell.peer_amp else "fp32",
        "layout": "channels-last" if cell.peer_amp else "NCHW",
        "threads": torch.get_num_threads(),
        "device": str(device()),
    }
    gate.epoch(ENDLESS)
    with torch.inference_mode():
        while True:
            with casting():
                model(images)
            gate.step(cell.batch)


LOOPS: dict[str, Callable[[nn.Module, Cell, Gate, str], None]] = {
    "torchvision": torchvision,
    "timm": timm,
    "lightning": lightning,
}


def needed(name: str) -> None:
    """Raise `UsageError` if a peer is unknown, or its library is not installed."""
    from importlib.util import find_spec

    if name not in LOOPS:
        raise UsageError(f"there is no peer {name!r}; known: {', '.join(LOOPS)}.")
    if find_spec(name) is None:
        raise UsageError(
            f"--against {name} needs {name}, which is not installed: pip install 'convatlas[bench]'."
        )
