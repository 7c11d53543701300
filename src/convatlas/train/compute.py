"""Where and how a run is computed: what is wished for, and what comes of it here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from torch import nn

from convatlas.errors import UsageError
from convatlas.train import processes
from convatlas.train.observer import Observer
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder
from convatlas.train.speed import Device, Speed, rule
from convatlas.train.tune import candidates, measured


@dataclass(frozen=True)
class Compute:
    """Where and how a run is computed.

    `devices` on each of `nodes` machines, a process for each; None: as many as torchrun or SLURM have started, or one.
    `workers=None`: for images that are decoded while training, as many processes as a rank has cores, at most 8; none
    for those that are held in memory. `convert_world`: go on with another number of processes than before.
    `cache`: a folder in which decoded images are kept from run to run; it belongs to the run, which goes on with it.

    `precision` is a wish; what else `Speed` has is settled by rule, or with `tune="full"` by measuring here. With
    `checkpoint_activations` a step takes less memory and more time.
    """

    devices: int | None = None
    accelerator: str = "auto"
    strategy: str = "auto"
    workers: int | None = None
    cache: str | Path | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"
    tune: Literal["rule", "full"] = "rule"
    checkpoint_activations: bool = False
    own_process: bool = False  # the command line's: only there the allocator may be set
    nodes: int | None = None
    convert_world: bool = False

    @property
    def world(self) -> int:
        """How many processes share a batch: as many as have been started, or as are asked for."""
        there = processes.launched()
        local = there.local if there is not None else None
        return (local or self.devices or 1) * self.machines

    @property
    def machines(self) -> int:
        """On how many machines."""
        there = processes.launched()
        return (there.nodes if there is not None else None) or self.nodes or 1

    def reading(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments for `open_data`: on several machines, each may have its part of the training images."""
        return {**reading, "apart": self.machines > 1}

    def check(self) -> None:
        """Raise `UsageError` for what does not go together."""
        if self.tune == "full" and self.world > 1:
            raise UsageError(
                "--tune full measures with one process, and several would each choose for themselves. Measure on one "
                "device first (--epochs 1), then train with --from-run RUN."
            )

    def fabric(self, speed: Speed) -> Fabric:
        """The engine, with all processes met."""
        arranged = processes.arrangement(self.devices, self.nodes, self.strategy)
        return processes.engine(arranged, self.accelerator, speed.engine)

    def settle(
        self,
        network: nn.Module,
        decided: dict[str, Any],
        recipe: Recipe,
        like: str | os.PathLike[str] | None,
        observer: Observer | None,
    ) -> Speed:
        """How a run is computed: as the run `like`, by rule, or as measured here; kept in `decided`, for run.json."""
        device = Device.here(self.accelerator)
        height, width = decided["preprocessing"]["size"]
        per_process = max(recipe.batch_size // self.world, 1)
        shape = (per_process, decided["options"]["in_channels"], height, width)
        speed = rule(network, shape, device, precision=self.precision)
        if like is not None and self.precision == "auto":
            other = RunFolder.open(os.fspath(like)).read_run()
            if other["model"] == decided["model"]:  # of another network, only the recipe is repeated
                speed = Speed.of_run(other)
                speed = replace(speed, reason=f"as in {os.fspath(like)}: {speed.reason}")
        if self.checkpoint_activations:
            speed = replace(speed, recompute=True)
        if self.tune == "full":
            tried = candidates(network, speed, device)
            if observer is not None:
                observer.noted(f"measuring {len(tried)} ways to compute this, for two minutes or three")
            job = {name: decided[name] for name in ("model", "options", "task", "recipe", "seed")}
            job |= {"shape": shape, "classes": decided["data"]["classes"], "accelerator": self.accelerator}
            tuning = measured(tried, job)
            speed, decided["tuning"] = tuning.chosen, tuning.to_json()
        decided["speed"] = speed.to_json()
        return speed
