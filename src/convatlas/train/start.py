"""From a folder of images to a running loop: begin a run, or go on with one."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from convatlas.data import Batches, Data, Preprocessing, open_data
from convatlas.errors import BadCheckpoint, DataError, UsageError
from convatlas.files import newest
from convatlas.layers.init import INITIALISATIONS, initialise
from convatlas.measure.machine import machine, versions
from convatlas.measure.trace import trace
from convatlas.models import create_model, find
from convatlas.randomness import generator, key, preserved
from convatlas.train.feed import training_batches
from convatlas.train.loop import Loop, Safety
from convatlas.train.observer import Observer
from convatlas.train.origin import again
from convatlas.train.params import held
from convatlas.train.plan import check_wishes, plan
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder
from convatlas.train.task import find_task

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Compute:
    """Where a run is computed. `workers=None`: as many processes as there are cores, at most 8, for images
    that are decoded while training; none for those that are held in memory.
    """

    devices: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    workers: int | None = None

    def fabric(self, recipe: Recipe) -> Fabric:
        """The engine, launched. Under torchrun it takes the number of processes from there."""
        world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        devices = world if "TORCHELASTIC_RUN_ID" in os.environ else self.devices
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=devices,
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            strategy="ddp" if devices > 1 and self.strategy == "auto" else self.strategy,
            precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        )
        fabric.launch()
        return fabric


def begin(
    where: str | Path | Data,
    *,
    model: str | None = None,
    recipe: str | Recipe = "quick",
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    safety: Safety | None = None,
    observer: Observer | None = None,
    notify: Notify | None = None,
    find_rate: bool = False,
    reading: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Train on `where` and give the run's folder.

    `settings` replace fields of the recipe; `reading` goes to `open_data` (val_share, group_by, on_bad);
    `weights` is a wish of `origin.check_wish`; `options` go to the network's constructor;
    `notify` is given what has been decided (run.json) before the first step; `find_rate` looks for the
    learning rate first. Raises `DataError`, `UsageError`, `BadCheckpoint`, `NumericError`, `ResourceError`,
    `Interrupted`.
    """
    compute, safety, reading = compute or Compute(), safety or Safety(), dict(reading or {})
    if out is not None and (Path(out) / "run.json").exists():
        RunFolder.create(Path(out))  # refuses, before any work is done
    check_wishes(model, recipe, settings, weights, options)
    data = (
        where if isinstance(where, Data) else open_data(where, seed=seed, workers=compute.workers, **reading)
    )
    _check_trainable(data, validated=reading.get("val_share") != 0)
    decision = plan(data, model, recipe, settings, seed, weights, options)
    final, spec = decision.recipe, find(decision.model)
    if final.early_stopping and not len(data.val):
        raise UsageError(
            f"early_stopping = {final.early_stopping} needs images to validate with, and there are none: leave it out, "
            "or hold some out (--val-share 0.1)."
        )
    start: dict[str, Any] = decision.start.to_json()
    decided: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(
            data, model, recipe, settings, seed, weights, options, safety, reading, find_rate
        ),
        "task": find_task(spec.task).name,
        "model": decision.model,
        "options": dict(decision.options),
        "weights": weights,
        "start": start,
        "choice": decision.reason,
        "recipe_name": final.name,
        "recipe": final.to_json(),
        "notes": list(decision.notes),
        "seed": seed,
        "where": str(data.where),
        "reading": reading,
        "data": data.summary(),
        "fingerprint": data.fingerprint,
        "preprocessing": decision.preprocessing.to_json(),
        "safety": {"on_nan": safety.on_nan, "checkpoint_steps": safety.checkpoint_steps},
        "workers": compute.workers,
        "versions": versions(),
        "machine": machine(),
    }
    network = _network(decided)
    _check_size(network, decision.model, decision.preprocessing, final)
    _initialise(network, final, data, decision.preprocessing, seed)
    if decision.start.learnt:
        start |= decision.start.read(data.classes).fill(network)
    start["held"] = list(held(network, final))
    if find_rate:
        from convatlas.train.lr_finder import find_learning_rate

        found = find_learning_rate(
            network,
            data,
            final,
            decision.preprocessing,
            find_task(spec.task),
            seed=seed,
            accelerator=compute.accelerator,
        )
        final = replace(final, lr=found.suggestion)
        decided["recipe"], decided["lr_finder"] = final.to_json(), found.to_json()
    fabric = compute.fabric(final)
    folder = _new_folder(Path(out) if out else None, decision.model, data, fabric)
    if fabric.is_global_zero:
        folder.write_samples(data.samples_csv())
        folder.write_run(decided)
    fabric.barrier()
    if notify is not None and fabric.is_global_zero:
        notify({**decided, "path": str(folder.path)})
    _loop(folder, decided, data, fabric, compute, safety, observer, network).run()
    return folder


def _command(
    data: Data,
    model: str | None,
    recipe: str | Recipe,
    settings: Mapping[str, Any] | None,
    seed: int,
    weights: str | None,
    options: Mapping[str, Any] | None,
    safety: Safety,
    reading: Mapping[str, Any],
    find_rate: bool,
) -> list[str]:
    """The command that does the same again, also for a run that Python began. A folder for it is not named."""
    fields = dict(settings or {})
    if isinstance(recipe, Recipe):
        fields = recipe.to_json() | fields
        del fields["name"], fields["source"]
    words = ["convatlas", "train", str(data.where)]
    words += ["--model", model] if model else []
    words += ["--recipe", recipe] if isinstance(recipe, str) else []
    for option, chosen in (("--set", fields), ("--option", options or {})):
        for field, value in chosen.items():
            words += [option, f"{field}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--seed", str(seed)]
    given = {**reading, "on_nan": safety.on_nan, "weights": weights}
    usual = {"on_bad": "error", "val_share": 0.1, "on_nan": "stop"}
    for option, value in given.items():
        if value is not None and value != usual.get(option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    return [*words, "--find-lr"] if find_rate else words


def resume(
    path: str | Path,
    *,
    where: str | Path | Data | None = None,
    compute: Compute | None = None,
    safety: Safety | None = None,
    observer: Observer | None = None,
    notify: Notify | None = None,
) -> RunFolder:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had never stopped.

    `where` says where the data are now, if they have moved. Raises `BadCheckpoint` if the folder is no
    run or the data are not the same images any more.
    """
    folder = RunFolder.open(path)
    decided = folder.read_run()
    compute = compute or Compute(workers=decided.get("workers"))
    safety = safety or Safety(**decided["safety"])
    source = where if where is not None else decided["where"]
    if not isinstance(source, Data):
        source = open_data(source, seed=decided["seed"], workers=compute.workers, **decided["reading"])
    if source.fingerprint != decided["fingerprint"]:
        raise BadCheckpoint(
            f"the images at {source.where} are not those that {folder.path} was trained on "
            f"(fingerprint {source.fingerprint[:12]}, expected {decided['fingerprint'][:12]}). "
            "Going on would mix two data sets; begin a new run instead."
        )
    recipe = Recipe.from_json(decided["recipe"])
    fabric = compute.fabric(recipe)
    if notify is not None and fabric.is_global_zero:
        notify({**decided, "path": str(folder.path)})
    network = _network(decided)
    if newest(folder.checkpoints)[0] is None:  # it was stopped before its first checkpoint
        prepared = Preprocessing.from_json(decided["preprocessing"])
        _initialise(network, recipe, source, prepared, decided["seed"])
        if reading := again(decided.get("start", {}), find(decided["model"])):
            reading.fill(network)
    _loop(folder, decided, source, fabric, compute, safety, observer, network).run()
    return folder


def _loop(
    folder: RunFolder,
    decided: Mapping[str, Any],
    data: Data,
    fabric: Fabric,
    compute: Compute,
    safety: Safety,
    observer: Observer | None,
    network: nn.Module,
) -> Loop:
    recipe = Recipe.from_json(decided["recipe"])
    preprocessing = Preprocessing.from_json(decided["preprocessing"])
    task = find_task(decided["task"]).of(data, recipe)
    workers = compute.workers if compute.workers is not None else min(len(os.sched_getaffinity(0)), 8)
    place: dict[str, Any] = {"workers": workers, "rank": fabric.global_rank, "world": fabric.world_size}
    train = training_batches(data, recipe, preprocessing, seed=decided["seed"], **place)
    val = Batches(
        data.val,
        preprocessing,
        batch_size=recipe.batch_size * -(-64 // recipe.batch_size),
        shuffle=False,
        drop_last=False,
        channels_last=recipe.channels_last,
        **place,
    )
    return Loop(
        task=task,
        model=network,
        recipe=recipe,
        train=train,
        val=val,
        folder=folder,
        fabric=fabric,
        spec={
            "task": task.name,
            "model": decided["model"],
            "options": decided["options"],
            "preprocessing": decided["preprocessing"],
            "recipe": decided["recipe_name"],
            "fingerprint": decided["fingerprint"],
            **task.to_json(),
        },
        seed=decided["seed"],
        safety=safety,
        observer=observer,
    )


def _network(decided: Mapping[str, Any]) -> nn.Module:
    """The run's network as it is drawn: a function of the seed."""
    with preserved():
        torch.manual_seed(key(decided["seed"], "weights"))
        return create_model(decided["model"], **decided["options"])


def _initialise(
    network: nn.Module, recipe: Recipe, data: Data, preprocessing: Preprocessing, seed: int
) -> None:
    """Draw the weights as the recipe says: a function of the seed and, where that start looks at images, of so many
    training images, not augmented.
    """
    if not recipe.init:
        return
    seen: dict[str, Any] = {}
    if "batch" in inspect.signature(INITIALISATIONS[recipe.init]).parameters:
        count = min(recipe.init_images, len(data.train))
        chosen = generator(seed, "init").choice(len(data.train), count, replace=False)
        fitted = torch.stack([preprocessing.fit(data.train.image(int(i))) for i in chosen])
        seen["batch"] = preprocessing.normalise(fitted)
    with preserved():
        torch.manual_seed(key(seed, "init"))
        initialise(network, recipe.init, **seen)


def _check_trainable(data: Data, *, validated: bool) -> None:
    """Raises `DataError` where classes or images are missing. Without `validated`, none to validate with is a wish."""
    if len(data.classes) < 2:
        raise DataError(
            f"{data.where} has one class ({data.classes[0]!r}); telling images apart needs at least two."
            if data.classes
            else f"{data.where} has no classes: images are expected in one folder per class."
        )
    for split, role in ((data.train, "learn from"), (data.val, "validate with")):
        if len(split) == 0 and (validated or split is data.train):
            raise DataError(
                f"{data.where} leaves no images to {role} ({data.summary()['counts']}); more are needed."
            )


def _check_size(network: nn.Module, name: str, prepared: Preprocessing, recipe: Recipe) -> None:
    """Refuse images that are too small for the network before a run exists."""
    least = min((side for _, side in recipe.sizes), default=max(prepared.size))
    height, width = (min(side, least) for side in prepared.size)
    try:
        trace(network, (len(prepared.mean), height, width))
    except UsageError as error:
        raise UsageError(
            f"{name} cannot be trained on images of {height}x{width} pixels; choose larger ones with --image-size "
            f"(its paper's: {find(name).image}). {error}"
        ) from error


def _new_folder(out: Path | None, model: str, data: Data, fabric: Fabric) -> RunFolder:
    """`out`, or runs/DATA-MODEL with the first free number; chosen by rank 0."""
    name = ""
    if fabric.is_global_zero:
        base = Path("runs") / f"{Path(str(data.where)).name.split('.')[0] or 'images'}-{model}"
        candidate, number = out or base, 2
        while out is None and candidate.exists():
            candidate, number = base.with_name(f"{base.name}-{number}"), number + 1
        RunFolder.create(candidate)
        name = str(candidate)
    return RunFolder(Path(str(fabric.broadcast(name))))
