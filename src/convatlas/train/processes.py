"""Several processes train one run: who has started them, what Fabric is told of it, what is said of them.

One process computes on one device. torchrun or SLURM start the processes, on one machine or on many, and say by
environment variables who each of them is; on one machine `convatlas train --devices N` calls torchrun's agent itself.
A program of the user's is never started anew behind its back: where nothing has started the processes that are asked
for, that is an error which says how it is done.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from convatlas.errors import ResourceError, UsageError
from convatlas.train.recipe import Recipe

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


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
        "nodes": machines_of(fabric),
        "backend": dist.get_backend() if there is not None else None,
        "started_by": there.by if there is not None else None,
        "batch_norm": recipe.batch_norm
        if any(isinstance(m, _BatchNorm) for m in network.modules())
        else None,
    }


def machines_of(fabric: Fabric) -> int:
    """On how many machines the engine's processes are."""
    return int(getattr(fabric.strategy, "num_nodes", 1))


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
    told = [f"{count(world)} on {places} ({found['backend']}), {share} images each in a step; {norm}"]
    if shares := decided.get("shares"):
        numbers = ", ".join(str(len(parts)) for parts in shares)
        told.append(f"each machine reads its own shards of train: {numbers} of {sum(map(len, shares))}")
    return told


def options(decided: Mapping[str, Any]) -> list[str]:
    """What is to be added to a run's command for as many processes."""
    found = decided.get("processes") or {}
    world, nodes = found.get("world", 1), found.get("nodes", 1)
    machines = ["--nodes", str(nodes), "--rendezvous", "HOST:PORT"] if nodes > 1 else []
    return ["--devices", str(world // nodes), *machines] if world > 1 else []


def count(number: int) -> str:
    """So many, in words.

    Examples:
        >>> count(1), count(2)
        ('1 process', '2 processes')
    """
    return "1 process" if number == 1 else f"{number} processes"
