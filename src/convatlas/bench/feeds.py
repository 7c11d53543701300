"""What peers are fed with: noise that is ready, or pictures through their own loaders.

Small pictures lie in memory as uint8, as torchvision's MNIST and CIFAR10 keep them; large ones are files in a folder
for each class. Every peer decodes by Pillow, augments image by image and puts batches together in worker processes:
as many as its script asks for, but not more than there are cores, as PyTorch itself advises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from convatlas.bench.cell import Cell
from convatlas.bench.gate import ENDLESS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Transform = Callable[[Image.Image], Any]


class Again:
    """An epoch of the same batch: `steps` times."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int = ENDLESS) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            yield self.batch


def noise(cell: Cell) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) of normal noise and labels (N,): the same for every side."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(cell.batch, *cell.shape, generator=generator)
    return images, torch.randint(cell.classes, (cell.batch,), generator=generator)


class Held(Dataset[Any]):
    """Small pictures in memory, one at a time as Pillow images through `transform`."""

    def __init__(self, file: Path, transform: Transform | None = None) -> None:
        with np.load(file, allow_pickle=False) as arrays:
            self.images, self.labels = arrays["images"], arrays["labels"]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


def workers(wanted: int) -> int:
    """So many, or as many as there are cores."""
    return min(wanted, len(os.sched_getaffinity(0)))


def folder(cell: Cell) -> Path:
    """Where the folders of the classes are: below train/, or at once."""
    root = Path(cell.data)
    return root / "train" if (root / "train").is_dir() else root


def dataset(cell: Cell) -> Dataset[Any]:
    """The training pictures with torchvision's transforms."""
    transform = transforms.Compose(list(steps(cell)))
    return Held(Path(cell.held), transform) if cell.held else ImageFolder(str(folder(cell)), transform)


def steps(cell: Cell) -> Iterator[Any]:
    """Augmentation on Pillow's image, then a tensor, then its normalisation."""
    channels, *size = cell.shape
    if cell.augmentation == "box":
        yield transforms.RandomResizedCrop(size)
    elif cell.augmentation == "shift":
        yield transforms.RandomCrop(size, padding=4, pad_if_needed=True)
    else:
        yield transforms.CenterCrop(size)  # pads what is smaller
    if cell.augmentation != "none":
        yield transforms.RandomHorizontalFlip()
    yield transforms.PILToTensor()
    yield transforms.ConvertImageDtype(torch.float)
    yield transforms.Normalize(MEAN[:channels], STD[:channels])


def loader(cell: Cell, wanted: int, *, pin_memory: bool, drop_last: bool) -> Any:
    """Batches of noise, or of the pictures in random order, as a DataLoader makes them."""
    if cell.synthetic:
        return Again(noise(cell))
    pictures = dataset(cell)
    return DataLoader(
        pictures,
        batch_size=cell.batch,
        sampler=RandomSampler(pictures),  # pyright: ignore[reportArgumentType]
        num_workers=workers(wanted),
        pin_memory=pin_memory,
        drop_last=drop_last,
    )
