"""Which machine reads which samples, where no machine holds all of them.

The samples lie in parts, as shards are. Every part is one machine's to read, of those that hold it; what a machine has
to read is its share. A step takes as many samples from each share, so that no machine waits for another's disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import BadCheckpoint, DataError, UsageError

Shares = list[list[int]]  # the parts of each share


def share_out(parts: NDArray[np.int64], absent: Sequence[Collection[int]]) -> Shares:
    """A share for each machine. `parts`: of each sample; `absent`: the parts that each machine lacks.

    What few machines hold is given first, each part to the one that has least to read so far. A function of its
    arguments. Raises `DataError` for a part that no machine holds, and for a machine that would have none.

    Examples:
        >>> share_out(np.array([0, 0, 1, 1, 2, 2]), [{1}, {0}])  # both hold part 2
        [[0, 2], [1]]
    """
    numbers, counts = np.unique(parts, return_counts=True)
    samples = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    holders = {part: [m for m, lacks in enumerate(absent) if part not in lacks] for part in samples}
    if lost := [part for part, machines in holders.items() if not machines]:
        raise DataError(
            f"{len(lost)} of {len(samples)} parts of the training images are on none of the {len(absent)} machines; "
            f"the first is number {lost[0]}."
        )
    shares, load = [list[int]() for _ in absent], [0] * len(absent)
    for part in sorted(samples, key=lambda part: (len(holders[part]), part)):
        machine = min(holders[part], key=load.__getitem__)
        shares[machine].append(part)
        load[machine] += samples[part]
    if 0 in load:
        raise DataError(
            f"machine {load.index(0)} of {len(absent)} has no part of the training images to itself: there are "
            f"{len(samples)} parts. Write smaller shards, or put some on each machine."
        )
    return [sorted(share) for share in shares]


def taken(shares: Shares, absent: Sequence[Collection[int]]) -> list[int] | None:
    """The share that each machine takes when a run goes on: its own number's, or another where they were renumbered.

    None where every machine has every part, so that any process can read anything, however many there are. Raises
    `BadCheckpoint` where the machines do not hold what the shares need.

    Examples:
        >>> taken([[0, 2], [1]], [{1}, {0}]), taken([[0, 2], [1]], [{0}, {1}]), taken([[0, 2], [1]], [set()])
        ([0, 1], [1, 0], None)
    """
    fits = [[not set(share) & set(lacks) for share in shares] for lacks in absent]
    machine_of: dict[int, int] = {}  # by share

    def place(machine: int, seen: set[int]) -> bool:
        """Find a share for the machine; others move where that helps (Kuhn's augmenting path)."""
        for share in sorted(range(len(shares)), key=lambda share: share != machine):
            if fits[machine][share] and share not in seen:
                seen.add(share)
                if share not in machine_of or place(machine_of[share], seen):
                    machine_of[share] = machine
                    return True
        return False

    if len(shares) == len(absent) and all(place(machine, set()) for machine in range(len(absent))):
        return [share for _, share in sorted((machine, share) for share, machine in machine_of.items())]
    if not all(map(all, fits)):
        raise BadCheckpoint(
            f"the run's training images are shared by {len(shares)} machines, and the {len(absent)} that there are now "
            "do not hold these shares. Put the shards back where they were, or all of them on every machine."
        )
    return None


def homes(parts: NDArray[np.int64], shares: Shares) -> NDArray[np.int64]:
    """The share of each sample, by the part that it lies in. Raises `BadCheckpoint` for a part that is in none.

    Examples:
        >>> homes(np.array([2, 1, 0]), [[0, 2], [1]]).tolist()
        [0, 1, 0]
    """
    share_of = {part: number for number, share in enumerate(shares) for part in share}
    if not set(parts.tolist()) <= share_of.keys():
        raise BadCheckpoint("the run shared out other shards than these data have.")
    return np.array([share_of[part] for part in parts.tolist()], np.int64)


def whole_steps(homes: NDArray[np.int64], shares: int, batch_size: int) -> int:
    """Steps of an epoch: as many whole batches as the smallest share has samples for. Raises `UsageError` for none."""
    if batch_size % shares:
        raise UsageError(
            f"a batch of {batch_size} cannot be taken equally from {shares} machines; use --batch-size "
            f"{max(batch_size // shares, 1) * shares}."
        )
    each, least = batch_size // shares, int(np.bincount(homes, minlength=shares).min())
    if least < each:
        raise UsageError(
            f"a machine has {least} training images to itself, and each gives {each} to a batch of {batch_size}: use a "
            "smaller --batch-size, or give it more shards."
        )
    return least // each
