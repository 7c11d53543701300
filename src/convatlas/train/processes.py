"""Several processes train one run: who has started them, what Fabric is told of it, what they agree on.

One process computes on one device. torchrun or SLURM start the processes, on one machine or on many, and say by
environment variables who each of them is; on one machine `convatlas train --devices N` calls torchrun's agent itself.
A program of the user's is never started anew behind its back: where nothing has started the processes that are asked
for, that is an error which says how it is done.

What is decided before training (recipe, first weights, folder) is decided by rank 0. What only rank 0 does, and fails
to do, fails in every process, so that none waits for another that has gone.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from convatlas.errors import BadCheckpoint, ConvAtlasError, ResourceError, UsageError
from convatlas.train.recipe import Recipe

T = TypeVar("T")

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
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


@dataclass(frozen=True)
class Launched:
    """Processes as something has started them: `by` torchrun, SLURM or the environment; `local` of them on this
    machine, on `nodes` machines. None where the starter does not say.
    """

    by: str
    local: int | None
    nodes: int | None


def launched() -> Launched | None:
    """What has started this process as one of several; None if it stands alone.

    Raises `UsageError` inside a SLURM job of several tasks where `srun` was forgotten: the process would wait for
    others that nobody starts.
    """
    given = os.environ
    if TorchElasticEnvironment.detect():
        return Launched("torchrun", int(given["LOCAL_WORLD_SIZE"]), int(given.get("GROUP_WORLD_SIZE", "1")))
    if SLURMEnvironment.detect() and int(given["SLURM_NTASKS"]) > 1:
        if int(given.get("SLURM_STEP_NUM_TASKS", "1")) < int(given["SLURM_NTASKS"]):
            raise UsageError(
                f"this SLURM job has {given['SLURM_NTASKS']} tasks, and the command runs in its batch script, not in "
                "them. Put `srun` before it."
            )
        if "SLURM_NTASKS_PER_NODE" not in given:
            raise UsageError(
                f"this SLURM job has {given['SLURM_NTASKS']} tasks and does not say how many are on a machine. Give "
                "--ntasks-per-node to sbatch or srun, in place of --ntasks."
            )
        return Launched("SLURM", int(given["SLURM_NTASKS_PER_NODE"]), int(given.get("SLURM_NNODES", "1")))
    if "LOCAL_RANK" in given:
        return Launched("the environment", None, None)
    return None


def arrangement(devices: int | None, nodes: int | None, strategy: str) -> dict[str, Any]:
    """Fabric's `devices`, `num_nodes` and `strategy`, from what was asked for and what has been started.

    Raises `UsageError` where these differ, where nothing has been started, and for a strategy that is not supported.
    """
    if strategy not in STRATEGIES:
        raise UsageError(
            f"the strategy {strategy!r} is not supported; there are {', '.join(STRATEGIES)}. Each process holds the "
            "whole network, and rank 0 writes it."
        )
    there = launched()
    if there is None:
        local, machines = devices or 1, nodes or 1
        if local * machines > 1:
            raise UsageError(
                f"{local * machines} processes are wanted, and nothing has started them. `convatlas train --devices "
                f"{local}` does so for one machine; a program of your own is started by `torchrun --nproc-per-node "
                f"{local}{f' --nnodes {machines}' if machines > 1 else ''} PROGRAM`."
            )
    else:
        local, machines = there.local or devices or 1, there.nodes or nodes or 1
        for option, asked, found in (("--devices", devices, local), ("--nodes", nodes, machines)):
            if asked is not None and asked != found:
                raise UsageError(
                    f"{option} {asked} was asked for, but {there.by} has started {found}. Leave the option out: the "
                    "number is taken from there."
                )
    chosen: Any = "auto" if local * machines == 1 else _ddp(strategy)
    return {"devices": local, "num_nodes": machines, "strategy": chosen}


def _ddp(strategy: str) -> DDPStrategy:
    """DDP that exchanges gradients alone.

    By default it also sends rank 0's running statistics around before every pass, in validation too, where a process
    with an empty share makes no pass and the others would wait for it. Training does not read them; the loop shares
    them once before each validation.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    quiet = (
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    )  # until torch 2.14
    options: dict[str, Any] = {quiet: False, "find_unused_parameters": strategy.endswith("parameters_true")}
    return DDPStrategy(**options)


def engine(arranged: dict[str, Any], accelerator: str, precision: Any) -> Fabric:
    """Fabric, with all processes met. Raises `UsageError` for devices that are not there, `ResourceError` if they
    cannot reach each other.
    """
    try:
        fabric = Fabric(accelerator=accelerator, precision=precision, **arranged)
    except Exception as error:  # Fabric's own exceptions have no common class
        raise UsageError(f"these devices cannot be used: {' '.join(str(error).split())}") from error
    try:
        fabric.launch()
    except ValueError as error:
        raise UsageError(f"the processes are not those that were asked for: {error}") from error
    except RuntimeError as error:
        raise ResourceError(f"the processes cannot reach each other: {error}") from error
    return fabric


def of(fabric: Fabric, network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """For run.json: how many processes, on how many machines, what has started them, how they speak; and the kind of
    BatchNorm, if the network has one.
    """
    there = launched() if fabric.world_size > 1 else None
    return {
        "world": fabric.world_size,
        "nodes": int(getattr(fabric.strategy, "num_nodes", 1)),
        "backend": dist.get_backend() if there is not None else None,
        "started_by": there.by if there is not None else None,
        "batch_norm": recipe.batch_norm
        if any(isinstance(m, _BatchNorm) for m in network.modules())
        else None,
    }


def sentences(decided: Mapping[str, Any]) -> list[str]:
    """What a run's processes were, for people; nothing where there was one."""
    found = decided.get("processes") or {}
    world, nodes = found.get("world", 1), found.get("nodes", 1)
    if world == 1:
        return []
    share = decided["recipe"]["batch_size"] // world
    places = "1 machine" if nodes == 1 else f"{nodes} machines"
    norm = {
        "local": f"BatchNorm is local: statistics of the {share} images of each process",
        "sync": f"BatchNorm is synchronised: statistics of the {share * world} images of all processes",
        None: "the network has no BatchNorm",
    }[found.get("batch_norm")]
    return [f"{count(world)} on {places} ({found['backend']}), {share} images each in a step; {norm}"]


def options(decided: Mapping[str, Any]) -> list[str]:
    """What is to be added to a run's command for as many processes."""
    found = decided.get("processes") or {}
    world, nodes = found.get("world", 1), found.get("nodes", 1)
    machines = ["--nodes", str(nodes), "--rendezvous", "HOST:PORT"] if nodes > 1 else []
    return ["--devices", str(world // nodes), *machines] if world > 1 else []


# --- what they tell each other ----------------------------------------------------------------------------


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
                "be under the same path on every machine."
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


def count(number: int) -> str:
    """Examples:
    >>> count(1), count(2)
    ('1 process', '2 processes')
    """
    return "1 process" if number == 1 else f"{number} processes"


def data_workers(fabric: Fabric, asked: int | None) -> int:
    """Processes that decode, for each rank: as many as it has cores to itself, at most 8, unless they are given."""
    if asked is not None:
        return asked
    own = os.sched_getaffinity(0)
    here = os.uname().nodename
    neighbours = [cores for host, cores in each(fabric, (here, own)) if host == here]
    return max(1, min(8, len(set[int]().union(*neighbours)) // len(neighbours)))


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
