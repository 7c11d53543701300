"""Which machine reads which samples, where no machine holds all of them.

The samples lie in parts, as shards are. Every part is one machine's to read, of those that hold it; what a machine has
to read is its share. A step takes as many samples from each share, so that no machine waits for another's disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import BadCheckpoint, DataError

Shares = list[list[int]]  # the parts of each share


def share_out(parts: NDArray[np.int64], absent: Sequence[Collection[int]]) -> Shares:
    """A share for each machine. `parts`: of each sample; `absent`: the parts that each machine lacks.

    What few machines hold is given first, each part to the one that has least to read so far. A function of its
    arguments. Raises `DataError` for a part that no machine holds.

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
    return [sorted(share) for share in shares]


def taken(shares: Shares, absent: Sequence[Collection[int]]) -> list[int]:
    """The share that each machine takes when a run goes on: its own number's, or another where they were renumbered.

    Raises `BadCheckpoint` where the machines hold other parts than the shares need.

    Examples:
        >>> taken([[0, 2], [1]], [{1}, {0}]), taken([[0, 2], [1]], [{0}, {1}])
        ([0, 1], [1, 0])
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

    for machine in range(len(absent)):
        if len(shares) != len(absent) or not place(machine, set()):
            raise BadCheckpoint(
                f"the run has {len(shares)} machines that read a part of the training images each, and those that "
                f"there are now ({len(absent)}) do not hold the same parts: machine {machine} has none of them whole. "
                "Put the shards back, or share them out anew with --convert-world."
            )
    return [share for _, share in sorted((machine, share) for share, machine in machine_of.items())]


def homes(parts: NDArray[np.int64], shares: Shares) -> NDArray[np.int64]:
    """The share of each sample, by the part that it lies in.

    Examples:
        >>> homes(np.array([2, 1, 0]), [[0, 2], [1]]).tolist()
        [0, 1, 0]
    """
    share_of = {part: number for number, share in enumerate(shares) for part in share}
    return np.array([share_of[part] for part in parts.tolist()], np.int64)
