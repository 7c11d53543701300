"""What several processes agree on before they train, and how the end of one becomes the end of all.

What is decided (recipe, first weights, folder) is decided by rank 0. What only rank 0 does, and fails to do, fails in
every process, so that none waits for another that has gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist
from lightning_fabric import Fabric

from convatlas.data.dataset import Split
from convatlas.data.shares import homes, share_out, taken, whole_steps
from convatlas.errors import BadCheckpoint, ConvAtlasError, ResourceError, UsageError
from convatlas.train.processes import count, machines_of
from convatlas.train.recipe import Recipe

T = TypeVar("T")

PATIENCE_SECONDS = 30.0  # for a shared file system to show what another machine has written
_LOST = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "tcpstore",
    "timed out",
)


def first(fabric: Fabric, work: Callable[[], T]) -> T:
    """What `work` gives in rank 0, in every process; and if it fails there, that failure."""
    if fabric.world_size == 1:
        return work()
    outcome: tuple[T | None, ConvAtlasError | None] | None = None
    if fabric.is_global_zero:
        try:
            outcome = work(), None
        except ConvAtlasError as error:
            outcome = None, error
    value, error = cast("tuple[T, ConvAtlasError | None]", fabric.broadcast(outcome))
    if error is not None:
        error.of_rank_zero = not fabric.is_global_zero  # it has been told there
        raise error
    return value


def each(fabric: Fabric, value: T) -> list[T]:
    """The value of every process, by rank."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(values, value)
    return values


def check_same(fabric: Fabric, fingerprint: str, does: str) -> None:
    """Raise `UsageError` in every process where one of them has read other images than rank 0, or does another thing.

    `does` says what: "begins a run".
    """
    found = each(fabric, (os.uname().nodename, fingerprint, does))
    host, images, done = found[0]
    for rank, (own_host, own_images, own) in enumerate(found):
        if own != done:
            raise UsageError(
                f"process 0 on {host} {done}, and process {rank} on {own_host} {own}: --out has to be a folder that "
                "all machines share."
            )
        if own_images != images:
            raise UsageError(
                f"process {rank} on {own_host} has read other images than process 0 on {host}: the same files have to "
                "be under the same path on every machine (of train shards, at least their indexes)."
            )


def check_shares(fabric: Fabric, recipe: Recipe, images: int) -> None:
    """Raise `UsageError` where the images of a step, or all there are, cannot be shared by the processes."""
    batch, world = recipe.batch_size, fabric.world_size
    if batch % world:
        below = max(batch // world, 1) * world
        raise UsageError(
            f"a batch of {batch} cannot be shared equally by {world} processes; use --batch-size {below} or "
            f"{batch // world * world + world}."
        )
    if images < world:
        raise UsageError(f"{images} training images cannot be shared by {world} processes; use fewer.")


def shares(fabric: Fabric, train: Split, recipe: Recipe) -> list[list[str]] | None:
    """Names of the shards that each machine reads, where one lacks some; None where each has all of them.

    Raises, in every process, `DataError` for a shard that is on no machine and for a machine without any, `UsageError`
    for a batch that cannot be taken equally from all.
    """
    absent = _absent(fabric, train)
    if not any(absent):
        return None
    parts = train.parts()
    shared = share_out(parts, absent)
    whole_steps(homes(parts, shared), len(shared), recipe.batch_size)
    return [[train.part_names[part] for part in share] for share in shared]


def rows(fabric: Fabric, train: Split, shares: Sequence[Sequence[str]] | None) -> dict[str, Any]:
    """`rank` and `homes` of this process for `Batches`, from the shares that a run was begun with.

    Raises `BadCheckpoint`, in every process, where the machines do not hold what they are to read.
    """
    absent, rank = _absent(fabric, train), fabric.global_rank
    if not shares:
        if any(absent):
            raise BadCheckpoint(
                "the run was begun with all training images on every machine, and now some are missing on some. Put "
                "the shards back, or begin a new run."
            )
        return {"rank": rank}
    numbers = {name: number for number, name in enumerate(train.part_names)}
    if lost := [name for share in shares for name in share if name not in numbers]:
        raise BadCheckpoint(f"the run shared out other shards than these data have; {lost[0]} is missing.")
    own = [[numbers[name] for name in share] for share in shares]
    share_of, local = taken(own, absent), fabric.world_size // len(absent)
    if share_of is not None:
        rank = share_of[rank // local] + len(own) * (rank % local)
    return {"rank": rank, "homes": homes(train.parts(), own)}


def _absent(fabric: Fabric, train: Split) -> list[frozenset[int]]:
    """The parts of the training images that each machine lacks; its processes have ranks in a row.

    Raises `UsageError` where the machines have cut the images into different shards.
    """
    found, local = each(fabric, train.absent), fabric.world_size // machines_of(fabric)
    if any(found):
        cut = sha256(repr((list(train.part_names), train.parts().tolist())).encode()).hexdigest()
        if len(set(each(fabric, cut))) > 1:
            raise UsageError(
                "the machines have the same images in different shards: copy the same ones to all."
            )
    return [frozenset[int]().union(*found[first : first + local]) for first in range(0, len(found), local)]


def check_seen(fabric: Fabric, file: Path) -> None:
    """Raise `UsageError` in every process where one of them does not see a file that rank 0 has written."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    found = each(fabric, (file.exists(), os.uname().nodename))
    blind = sorted({host for seen, host in found if not seen})
    if blind:
        raise UsageError(
            f"{', '.join(blind[:5])} cannot see {file}, which {found[0][1]} has written: --out has to be a folder that "
            "all machines share."
        )


def check_world(fabric: Fabric, then: int, convert: bool) -> None:
    """Refuse to go on with another number of processes than the checkpoint was made by, unless it is wanted.

    Raises `BadCheckpoint`.
    """
    now = fabric.world_size
    if now == then or convert:
        return
    raise BadCheckpoint(
        f"the run was trained by {count(then)}, and now there {'is' if now == 1 else 'are'} {now}. Go on with "
        f"{then} for the same bits, or convert it with --convert-world: the same images make each step, in the same "
        "order, but additions are ordered anew, random draws within a network are others, and local BatchNorm takes "
        "its statistics of larger or smaller shares."
    )


@contextmanager
def together(fabric: Fabric) -> Generator[None]:
    """Within it, the end of another process is a `ResourceError` that says so, not a fault of this one."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or any(word in text for word in _LOST)
        if fabric.world_size == 1 or isinstance(error, ConvAtlasError) or not lost:
            raise
        raise ResourceError(
            f"process {fabric.global_rank} of {fabric.world_size} has lost the others: one of them has ended, or the "
            "network between them. What was saved stays; go on with --resume."
        ) from error


def data_workers(fabric: Fabric, asked: int | None) -> int:
    """Processes that decode, for each rank: as many as it has cores to itself, at most 8, unless they are given."""
    if asked is not None:
        return asked
    own = os.sched_getaffinity(0)
    here = os.uname().nodename
    neighbours = [cores for host, cores in each(fabric, (here, own)) if host == here]
    return max(1, min(8, len(set[int]().union(*neighbours)) // len(neighbours)))
