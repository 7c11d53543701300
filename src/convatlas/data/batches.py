"""Batches: which samples, in which order, decoded, augmented and normalised.

The order of an epoch is a function of (seed, epoch); what happens to a sample is a function of (seed, epoch, id).
So an epoch can be entered at any step, by any number of workers, and gives the same batches bit for bit.

Small pictures (a network's input of at most 64 pixels) are decoded and fitted once and kept as uint8, in
memory or, where they would take more than a quarter of what is free, in a memory-mapped file; a batch
is then a gather. Larger ones are decoded for every batch, by worker processes. What follows,
augmentation and normalisation, is done by the batch in this process, and is the same code for both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data import warp
from convatlas.data.augment import Augment
from convatlas.data.batch import Batch
from convatlas.data.buffers import Buffers
from convatlas.data.cache import Told, silent
from convatlas.data.dataset import Split
from convatlas.data.reader import Job, Reader, Surveyed
from convatlas.data.shares import whole_steps
from convatlas.data.store import SHARE_OF_FREE_MEMORY, fitted, shrunk
from convatlas.data.transforms import Images, Preprocessing
from convatlas.data.workers import Workers
from convatlas.errors import UsageError
from convatlas.memory import free_memory
from convatlas.randomness import generator

SMALL_SIDE = 64  # px: an input up to this size is fitted once and kept
_PROBED = 33  # pictures whose size is looked at


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
        homes: Where each machine can read its share of the samples alone: the share of each sample, from 0. Of n shares
            share k gives rows k, k + n, ... of each batch, so that with a multiple of n ranks, rank r reads share r % n
            alone. An epoch ends with the smallest share, and leaves out others of the larger ones each time. Implies
            `drop_last`.
        balance: Draw the order so that every class is equally frequent; implies a new order each epoch.
        channels_last: Memory format of coloured images.
        cache: Folder in which decoded pictures are kept from run to run; needs a split of `open_data`.
        pin: Give images in memory from which a CUDA device copies while the host goes on.

    Raises:
        UsageError: The batch size is not positive, or does not divide by `world`; a share is too small for a batch.
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
        homes: NDArray[np.int64] | None = None,
        balance: bool = False,
        channels_last: bool = True,
        cache: Path | None = None,
        pin: bool = False,
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
        self._shares, readable = [np.arange(len(split))], split
        self._own = None  # positions that this process may read, where it may not read all
        if homes is not None:
            if not isinstance(split, Split):
                raise UsageError("shares of several machines need data that `open_data` gave")
            count = int(homes.max()) + 1
            self._shares = [np.flatnonzero(homes == share) for share in range(count)]
            full = self.steps = whole_steps(homes, count, batch_size)
            if world % count == 0:
                self._own = self._shares[rank % count]
                readable = split.subset(self._own)
        self.cache = cache
        self._cuts = augment is not None and augment.resamples
        # to learn from, every rank has as many samples in each step, or its gradient would weigh too much
        self._kept = len(split) // world * world if drop_last and not full else len(split)
        if len(split) and not self._kept:
            raise UsageError(f"{len(split)} samples cannot be shared by {world} processes; use fewer")
        self._reader = Reader(readable, preprocessing, augment, seed)
        small = max(preprocessing.size) <= SMALL_SIDE and not self._worth_full_size()
        self.cached = small or (cache is not None and not self._cuts)
        self.in_memory = small and self._bytes() <= SHARE_OF_FREE_MEMORY * free_memory()
        self._pin = pin
        self._buffers = Buffers(pin)
        self._store: torch.Tensor | None = None
        self._pool: Workers[Job] | None = None

    def __len__(self) -> int:
        return self.steps

    def _worth_full_size(self) -> bool:
        """Whether random parts are cut from pictures that are larger than what would be kept of them."""
        if not self._cuts or not len(self.split):
            return False
        probed = np.unique(np.linspace(0, len(self.split) - 1, _PROBED).astype(np.int64))
        if isinstance(self.split, Surveyed):
            sides = self.split.sizes[probed].min(axis=1)
        else:
            sides = [min(self._reader.image(int(i)).shape[:2]) for i in probed]
        return float(np.median(sides)) > SMALL_SIDE

    def _bytes(self) -> int:
        return len(self._reader.split) * int(np.prod(self._shape()))

    def _shape(self) -> tuple[int, int, int]:
        return (self.preprocessing.channels, *self.preprocessing.size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the split, (steps, batch_size), over all ranks; -1 where a short last batch has none."""
        table = np.full((self.steps, self.batch_size), -1, dtype=np.int64)
        for share, positions in enumerate(self._shares):  # by turns, as ranks have rows
            rows = np.full(table[:, share :: len(self._shares)].shape, -1, dtype=np.int64)
            kept = min(self._kept, rows.size)
            rows.reshape(-1)[:kept] = self._drawn(positions, epoch, share)[:kept]
            table[:, share :: len(self._shares)] = rows
        return table

    def _drawn(self, positions: NDArray[np.int64], epoch: int, share: int) -> NDArray[np.int64]:
        """The positions of a share in the order of an epoch."""
        if not (self.balance or self.shuffle):
            return positions
        random = generator(self.seed, epoch, "order", *([share] if len(self._shares) > 1 else []))
        if self.balance:
            return positions[_balanced(self.split.labels[positions], random)]
        return positions[random.permutation(len(positions))]

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
        """Normalise, mix."""
        ids = self.split.ids[positions]
        memory = self._buffers.lend(tuple(images.shape), self._layout)
        batch = Batch(
            images=self.preprocessing.normalise(
                images, self._layout, memory, serial=self._pool is not None and self.workers > 0
            ),
            labels=torch.from_numpy(self.split.labels[positions].astype(np.int64)),
            ids=torch.from_numpy(ids.astype(np.int64)),
        )
        if self.augment is not None and self.augment.mixes and len(ids):
            batch.images, partner, batch.weight = self.augment.mix(batch.images, self.seed, epoch, step)
            batch.other = batch.labels[partner]
        return batch

    # ---- pixels: uint8 (N, C, H, W), augmented but for the mixing ---------------------------------------------

    def prepare(self, told: Told = silent) -> None:
        """Make now what is kept of the pictures, if anything is; `told` is given what is written to a cache."""
        if self.cached and self._store is None:
            self._store = fitted(
                self._reader, self.workers, in_memory=self.in_memory, cache=self.cache, told=told
            )
        elif self.cache is not None and not self.cached and self._reader.kept is None:
            self._reader = replace(self._reader, kept=shrunk(self._reader, self.workers, self.cache, told))

    def _pixels(self, epoch: int, rows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor]:
        self.prepare()
        if self._own is not None:  # the reader knows no others
            rows = [np.searchsorted(self._own, positions) for positions in rows]
        if self._store is not None:
            for positions in rows:
                images = self._store.index_select(0, torch.from_numpy(positions))
                yield self._augmented(images, epoch, self._reader.split.ids[positions])
        else:
            if self._pool is None:
                shape = (self.batch_size // self.world, *self.preprocessing.size, self.preprocessing.channels)
                reader = self._reader
                self._pool = Workers(self.workers, reader.fill, reader.describe, shape, reader.finish)
            for pixels in self._pool.run(((epoch, positions), len(positions)) for positions in rows):
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _augmented(self, images: torch.Tensor, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
        """What a worker does to pictures, done to kept ones; boxes are cut from these, not from the full size."""
        if self.augment is None or not len(ids):
            return images
        if self.augment.resamples:
            height, width = self.preprocessing.size
            sizes = np.tile(np.array([width, height]), (len(ids), 1))
            boxes = self.augment.boxes(sizes, self.preprocessing.size, self.seed, epoch, ids)
            images = warp.cut(images, torch.from_numpy(boxes), self.preprocessing.size)
        return self.augment(images, self.seed, epoch, ids)

    def close(self) -> None:
        """Give back memory and the workers. A later `epoch` makes them anew."""
        self._store = None
        self._buffers = Buffers(self._pin)
        self._reader = replace(self._reader, kept=None)
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
