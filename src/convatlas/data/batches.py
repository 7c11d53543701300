"""Batches: which samples, in which order, decoded, augmented and normalised.

The order of an epoch is a function of (seed, epoch); what happens to a sample is a function of (seed, epoch, id).
So an epoch can be entered at any step, by any number of workers, and gives the same batches bit for bit.

Small pictures (a network's input of at most 64 pixels) are decoded and fitted once and kept as uint8, in
memory or, where they would take more than a quarter of what is free, in a memory-mapped file; a batch
is then a gather. Larger ones are decoded for every batch, by worker processes. What follows,
augmentation and normalisation, is done by the batch in this process, and is the same code for both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data import warp
from convatlas.data.augment import Augment
from convatlas.data.transforms import Images, Preprocessing, resample
from convatlas.data.workers import Workers
from convatlas.errors import ConvAtlasError, DataError, ResourceError, UsageError
from convatlas.randomness import generator

SMALL_SIDE = 64  # px: an input up to this size is fitted once and kept
SHARE_OF_FREE_MEMORY = 0.25
FITTED = -1  # in the place of an epoch: the evaluation geometry, no random box
_FILL_ROWS = 256  # pictures per job while the store is filled
_PROBED = 33  # pictures whose size is looked at

Job = tuple[int, NDArray[np.int64]]  # epoch or FITTED, and positions in the split


@dataclass
class Batch:
    """What a network is given: N samples.

    The target of sample i is its label, or, where pictures are mixed, `weight[i] labels[i] + (1 - weight[i]) other[i]`
    in the sense of one-hot vectors.

    Attributes:
        images: float32 (N, C, H, W), normalised.
        labels: int64 (N,).
        ids: int64 (N,), the samples' identities in the data.
        other: int64 (N,), labels of the pictures that are mixed in, or None.
        weight: float32 (N,) in [0, 1], or None.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    other: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            other=None if self.other is None else self.other.to(device, non_blocking=True),
            weight=None if self.weight is None else self.weight.to(device, non_blocking=True),
        )

    def split(self, pieces: int) -> list[Batch]:
        """The batch in at most `pieces` parts of equal size (the last may be smaller), for accumulation."""
        size = -(-len(self) // pieces)
        return [
            Batch(*(None if tensor is None else tensor[start : start + size] for tensor in self._tensors()))  # pyright: ignore[reportArgumentType]
            for start in range(0, len(self), size)
        ]

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.images, self.labels, self.ids, self.other, self.weight


@dataclass(frozen=True)
class Reader:
    """Reads pictures of a split and gives them the network's size; runs in this process or in a worker."""

    split: Images
    preprocessing: Preprocessing
    augment: Augment | None
    seed: int

    def image(self, position: int) -> NDArray[np.uint8]:
        """A decoded picture (H, W, C). Raises `DataError` with its name if it cannot be read any more."""
        try:
            return self.split.image(position)
        except (OSError, ValueError, KeyError, ConvAtlasError) as error:
            raise DataError(
                f"{self.split.keys[position]} could be read when the data were opened, but not now: {error}. "
                "Restore the file, or open the data again; `convatlas data check` lists every bad file."
            ) from error

    def fill(self, job: Job, row: int, out: NDArray[np.uint8]) -> None:
        """Put picture `row` of a job into `out`, uint8 (C, H, W)."""
        epoch, positions = job
        position = int(positions[row])
        image = self.image(position)
        if self.augment is None or epoch == FITTED:
            out[...] = self.preprocessing.fit(image).numpy()
            return
        size, ids = self.preprocessing.size, self.split.ids[position : position + 1]
        sides = np.array([[image.shape[1], image.shape[0]]])
        x0, y0, x1, y1 = self.augment.boxes(sides, size, self.seed, epoch, ids)[0].tolist()
        image = self.preprocessing.recolour(image)
        out[...] = resample(image, (x0, y0, x1, y1), size, self.preprocessing.interpolation).transpose(
            2, 0, 1
        )

    def describe(self, job: Job, row: int) -> str:
        """The name of the picture that a row is made from."""
        return self.split.keys[int(job[1][row])]


class Batches:
    """The batches of a split, epoch by epoch.

    Args:
        split: Named, labelled pictures.
        preprocessing: Geometry and normalisation.
        batch_size: Samples of a step, over all ranks together; a multiple of `world`.
        augment: What to do to training pictures; None for evaluation.
        seed: The first part of every random function's key.
        shuffle: Draw the order anew for each epoch; otherwise it is the split's.
        drop_last: Leave out the samples that do not fill a batch (a split smaller than one batch still
            gives one batch of all, or of as many as divide by `world`). Otherwise the last batch is short.
        workers: Processes that decode; 0 decodes in this one. The batches are the same.
        rank: This process among `world`; it gets rows `rank::world` of each batch.
        world: How many processes share the batches.
        balance: Draw the order so that every class is equally frequent; implies a new order each epoch.
        channels_last: Memory format of coloured images.

    Raises:
        UsageError: The batch size is not positive, or does not divide by `world`.
        DataError: While iterating: a picture that could be read before cannot be read now, or a worker died;
            the message names the file.

    Examples:
        >>> from convatlas.data.transforms import Preprocessing
        >>> class Dots:  # four pictures of one pixel
        ...     keys, labels, ids = list("abcd"), np.array([0, 1, 0, 1]), np.arange(4)
        ...     def __len__(self): return 4
        ...     def image(self, i, /): return np.full((1, 1, 1), 50 * i, dtype=np.uint8)
        >>> batches = Batches(Dots(), Preprocessing((1, 1), "pad", 1), batch_size=3, shuffle=True, drop_last=False)
        >>> [batch.ids.tolist() for batch in batches.epoch(0)] == [
        ...     [i for i in row if i >= 0] for row in batches.order(0).tolist()]
        True
    """

    def __init__(
        self,
        split: Images,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augment: Augment | None = None,
        seed: int = 0,
        shuffle: bool,
        drop_last: bool,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        balance: bool = False,
        channels_last: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}; it must be at least 1")
        if world < 1 or not 0 <= rank < world:
            raise UsageError(f"rank {rank} of {world} does not exist")
        if batch_size % world:
            raise UsageError(
                f"a batch of {batch_size} cannot be shared equally by {world} processes; "
                f"use {max(batch_size // world, 1) * world} or {(batch_size // world + 1) * world}"
            )
        if workers < 0:
            raise UsageError(f"{workers} workers; 0 or more were expected")
        self.split, self.preprocessing, self.augment = split, preprocessing, augment
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.shuffle, self.drop_last, self.balance = shuffle, drop_last, balance
        self.rank, self.world = rank, world
        self._layout = (
            torch.channels_last if channels_last and preprocessing.channels > 1 else torch.contiguous_format
        )
        full, rest = divmod(len(split), batch_size)
        self.steps = full + (1 if rest and (not drop_last or full == 0) else 0)
        # to learn from, every rank has as many samples in each step, or its gradient would weigh too much
        self._kept = len(split) // world * world if drop_last and not full else len(split)
        if len(split) and not self._kept:
            raise UsageError(f"{len(split)} samples cannot be shared by {world} processes; use fewer")
        self._reader = Reader(split, preprocessing, augment, seed)
        self.cached = max(preprocessing.size) <= SMALL_SIDE and not self._worth_full_size()
        self.in_memory = self.cached and self._bytes() <= SHARE_OF_FREE_MEMORY * free_memory()
        self._store: torch.Tensor | None = None
        self._pool: Workers[Job] | None = None

    def __len__(self) -> int:
        return self.steps

    def _worth_full_size(self) -> bool:
        """Whether random parts are cut from pictures that are larger than what would be kept of them."""
        if self.augment is None or not self.augment.resamples or not len(self.split):
            return False
        probed = np.unique(np.linspace(0, len(self.split) - 1, _PROBED).astype(np.int64))
        sides = [min(self._reader.image(int(i)).shape[:2]) for i in probed]
        return float(np.median(sides)) > SMALL_SIDE

    def _bytes(self) -> int:
        return len(self.split) * int(np.prod(self._shape()))

    def _shape(self) -> tuple[int, int, int]:
        return (self.preprocessing.channels, *self.preprocessing.size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the split, (steps, batch_size), over all ranks; -1 where a short last batch has none."""
        count = len(self.split)
        if self.balance:
            order = _balanced(self.split.labels, generator(self.seed, epoch, "order"))
        elif self.shuffle:
            order = generator(self.seed, epoch, "order").permutation(count)
        else:
            order = np.arange(count)
        table = np.full(self.steps * self.batch_size, -1, dtype=np.int64)
        kept = min(self._kept, len(table))
        table[:kept] = order[:kept]
        return table.reshape(self.steps, self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of an epoch for this rank, from step `start` on.

        With several ranks and a short last batch, a rank's share of it can be one sample less, or empty.
        """
        if not 0 <= start <= self.steps:
            raise UsageError(f"step {start} does not exist in an epoch of {self.steps} steps")
        rows = [row[row >= 0] for row in self.order(epoch)[start:, self.rank :: self.world]]
        for step, (positions, images) in enumerate(zip(rows, self._pixels(epoch, rows), strict=True), start):
            yield self._finish(images, positions, epoch, step)

    def _finish(self, images: torch.Tensor, positions: NDArray[np.int64], epoch: int, step: int) -> Batch:
        """Augment, normalise, mix."""
        ids = self.split.ids[positions]
        if self.augment is not None and len(ids):
            images = self.augment(images, self.seed, epoch, ids)
        batch = Batch(
            images=self.preprocessing.normalise(images, self._layout),
            labels=torch.from_numpy(self.split.labels[positions].astype(np.int64)),
            ids=torch.from_numpy(ids.astype(np.int64)),
        )
        if self.augment is not None and self.augment.mixes and len(ids):
            batch.images, partner, batch.weight = self.augment.mix(batch.images, self.seed, epoch, step)
            batch.other = batch.labels[partner]
        return batch

    # ---- pixels: uint8 (N, C, H, W), after the crop that resamples, before everything else -------------------

    def _pixels(self, epoch: int, rows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor]:
        if self.cached:
            store = self._filled()
            for positions in rows:
                images = store.index_select(0, torch.from_numpy(positions))
                yield self._cut(images, epoch, self.split.ids[positions])
        else:
            cut = self.augment is not None and self.augment.resamples
            for pixels in self._run([(epoch if cut else FITTED, positions) for positions in rows]):
                yield torch.from_numpy(pixels)

    def _cut(self, images: torch.Tensor, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
        """The boxes that a worker would cut from the full-size picture, cut from the kept one."""
        if self.augment is None or not self.augment.resamples or not len(ids):
            return images
        height, width = self.preprocessing.size
        sizes = np.tile(np.array([width, height]), (len(ids), 1))
        boxes = self.augment.boxes(sizes, self.preprocessing.size, self.seed, epoch, ids)
        return warp.cut(images, torch.from_numpy(boxes), self.preprocessing.size)

    def _run(self, jobs: Sequence[Job]) -> Iterator[NDArray[np.uint8]]:
        """Do the jobs, here or in the workers: arrays (rows, C, H, W) in their order."""
        if self.workers == 0:
            for job in jobs:
                out = np.empty((len(job[1]), *self._shape()), dtype=np.uint8)
                for row in range(len(out)):
                    self._reader.fill(job, row, out[row])
                yield out
        else:
            if self._pool is None:
                rows = _FILL_ROWS if self.cached else self.batch_size // self.world
                shape = (rows, *self._shape())
                self._pool = Workers(self.workers, self._reader.fill, self._reader.describe, shape)
            yield from self._pool.run((job, len(job[1])) for job in jobs)

    def _filled(self) -> torch.Tensor:
        """Every picture of the split, fitted: uint8 (len(split), C, H, W). Made on first use."""
        if self._store is None:
            shape = (len(self.split), *self._shape())
            store = np.empty(shape, dtype=np.uint8) if self.in_memory else _mapped(shape)
            starts = range(0, len(self.split), _FILL_ROWS)
            jobs = [(FITTED, np.arange(i, min(i + _FILL_ROWS, len(self.split)))) for i in starts]
            for i, pixels in zip(starts, self._run(jobs), strict=True):
                store[i : i + len(pixels)] = pixels
            if self._pool is not None:
                self._pool.close()  # the rest is a gather
            self._store = torch.from_numpy(store)
        return self._store

    def close(self) -> None:
        """Give back memory, the cache file and the workers. A later `epoch` makes them anew."""
        self._store = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _balanced(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """As many positions as labels, every class equally often (to within one), in random order.

    A class's samples are taken in turn, each round in a new order: no sample comes twice before every
    other of its class has come once.
    """
    classes = np.unique(labels)
    if not len(classes):
        return np.zeros(0, dtype=np.int64)
    share, rest = divmod(len(labels), len(classes))
    extra = set(random.permutation(len(classes))[:rest].tolist())
    drawn: list[NDArray[np.int64]] = []
    for number, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        wanted = share + (number in extra)
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([*rounds, members[:0]])[:wanted])
    return random.permutation(np.concatenate(drawn))


def free_memory() -> int:
    """Bytes that this process may still take: the system's available memory, or a container's if less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit ("max")
        return free
    return max(min(free, limit), 0)


def _mapped(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array in a file that has no name any more: it vanishes with the process, also after kill -9.

    Raises `ResourceError` if the disk has no room; found out here, it is not a bus error later.
    """
    size = int(np.prod(shape))
    folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)  # noqa: S108
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise ResourceError(
            f"cannot keep {size:,} bytes of decoded pictures in {folder or tempfile.gettempdir()}: "
            f"{error.strerror or error}. Make room, or set TMPDIR to a folder on a larger disk."
        ) from error
