"""From a folder of images to a running loop: begin a run, or go on with one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from convatlas.data import Batches, Data, Preprocessing, open_data
from convatlas.data.colour import components
from convatlas.data.dataset import VAL_SHARE
from convatlas.errors import BadCheckpoint, DataError, UsageError
from convatlas.files import newest
from convatlas.layers.init import INITIALISATIONS, initialise
from convatlas.layers.sync_batch_norm import synchronise
from convatlas.measure.machine import machine, versions
from convatlas.measure.trace import trace
from convatlas.models import create_model, find
from convatlas.randomness import generator, key, preserved
from convatlas.train import agreement, checkpoint, processes
from convatlas.train.command import check_same_command, command_for
from convatlas.train.compute import Compute
from convatlas.train.computed import arrange_memory
from convatlas.train.feed import training_batches
from convatlas.train.loop import Loop
from convatlas.train.observer import Observer
from convatlas.train.origin import again
from convatlas.train.params import held
from convatlas.train.plan import check_wishes, plan, to_read
from convatlas.train.recipe import Recipe
from convatlas.train.run import RUN, RunFolder
from convatlas.train.safety import Safety
from convatlas.train.speed import Speed
from convatlas.train.task import find_task

Notify = Callable[[dict[str, Any]], None]


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
    like: str | os.PathLike[str] | None = None,
    auto_resume: bool = False,
) -> RunFolder:
    """Train on `where` and give the run's folder.

    `settings` replace fields of the recipe; `reading` goes to `open_data` (val_share, group_by, on_bad);
    `weights` is a wish of `origin.check_wish`; `options` go to the network's constructor;
    `notify` is given what has been decided (run.json) before the first step; `find_rate` looks for the
    learning rate first; `like` is a run whose `Speed` is taken; `auto_resume` goes on with the run in `out`, if the
    same command has begun one there (for launchers that start a command again). Raises `DataError`, `UsageError`,
    `BadCheckpoint`, `NumericError`, `ResourceError`, `Interrupted`.
    """
    compute, safety, reading = compute or Compute(), safety or Safety(), dict(reading or {})
    compute.check()
    if out is not None and not auto_resume:
        RunFolder.check_free(Path(out))  # before any work is done
    check_wishes(model, recipe, settings, weights, options)
    if isinstance(where, Data):
        data, reading = where, {"val_share": VAL_SHARE, **reading}  # as `open_data` has it by itself
    else:
        reading = to_read(recipe, settings, reading)
        data = open_data(where, seed=seed, workers=compute.workers, **compute.reading(reading))
    _check_trainable(data, validated=reading.get("val_share") != 0)
    command = command_for(
        data, model, recipe, settings, seed, weights, options, safety, reading, find_rate, compute, like
    )
    if auto_resume and out is not None and (Path(out) / RUN).exists():
        check_same_command(Path(out), command)
        return resume(out, where=data, compute=compute, safety=safety, observer=observer, notify=notify)
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
        "command": command,
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
        "cache": os.path.abspath(compute.cache) if compute.cache else None,
        "versions": versions(),
        "machine": machine(),
    }
    network = _network(decided)
    _check_size(network, decision.model, decision.preprocessing, final)
    _initialise(network, final, data, decision.preprocessing, seed)
    if decision.start.learnt:
        start |= decision.start.read(data.classes).fill(network)
    start["held"] = list(held(network, final))
    speed = compute.settle(network, decided, final, like, observer)
    fabric = compute.fabric(speed)
    agreement.check_same(fabric, data.fingerprint, "begins a run")
    agreement.check_shares(fabric, final, len(data.train))
    decided["processes"] = processes.of(fabric, network, final)
    if (shares := agreement.shares(fabric, data.train, final)) is not None:
        decided |= {"shares": shares, "reading": {**reading, "apart": True}}
        if final.pca:
            decided["components"] = agreement.first(fabric, lambda: components(data.train.here()))
    if find_rate:
        from convatlas.train.lr_finder import find_learning_rate

        task = find_task(spec.task)
        look = partial(find_learning_rate, network, data.here(), final, decision.preprocessing, task, speed)
        found = agreement.first(fabric, partial(look, seed=seed, accelerator=compute.accelerator))
        decided["recipe"] = replace(final, lr=found.suggestion).to_json()
        decided["lr_finder"] = found.to_json()
    decided = agreement.first(fabric, lambda: decided)  # where machines differ in a last digit
    folder = agreement.first(fabric, partial(_new_folder, Path(out) if out else None, data, decided["model"]))
    if "tuning" in decided:  # the same command would measure again, and might choose otherwise
        decided["asked"] = command
        decided["command"] = ["convatlas", "train", str(data.where), "--from-run", str(folder.path)]
    agreement.first(fabric, partial(_write, folder, data, decided))
    agreement.check_seen(fabric, folder.path / RUN)
    if notify is not None and fabric.is_global_zero:
        notify({**decided, "path": str(folder.path)})
    with agreement.together(fabric):
        _loop(folder, decided, data, fabric, compute, safety, observer, network).run()
    return folder


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
        reading = compute.reading(decided["reading"])
        source = open_data(source, seed=decided["seed"], workers=compute.workers, **reading)
    if source.fingerprint != decided["fingerprint"]:
        raise BadCheckpoint(
            f"the images at {source.where} are not those that {folder.path} was trained on "
            f"(fingerprint {source.fingerprint[:12]}, expected {decided['fingerprint'][:12]}). "
            "Going on would mix two data sets; begin a new run instead."
        )
    recipe = Recipe.from_json(decided["recipe"])
    fabric = compute.fabric(Speed.of_run(decided))
    agreement.check_same(fabric, source.fingerprint, "goes on with a run")
    agreement.check_shares(fabric, recipe, len(source.train))
    network = _network(decided)
    decided = _converted(
        folder, decided, processes.of(fabric, network, recipe), fabric, compute.convert_world
    )
    if notify is not None and fabric.is_global_zero:
        notify({**decided, "path": str(folder.path)})
    if newest(folder.checkpoints)[0] is None:  # it was stopped before its first checkpoint
        prepared = Preprocessing.from_json(decided["preprocessing"])
        _initialise(network, recipe, source, prepared, decided["seed"])
        if reading := again(decided.get("start", {}), find(decided["model"])):
            reading.fill(network)
    with agreement.together(fabric):
        _loop(folder, decided, source, fabric, compute, safety, observer, network).run()
    return folder


def _converted(
    folder: RunFolder, decided: dict[str, Any], now: dict[str, Any], fabric: Fabric, convert: bool
) -> dict[str, Any]:
    """What was decided, with the processes that go on, where they are others than before and may be.

    Raises `BadCheckpoint` where they may not.
    """
    then, step = checkpoint.world(folder.checkpoints)
    if step:
        agreement.check_world(fabric, then, convert)
    if (decided.get("processes") or {"world": then})["world"] == now["world"]:
        return decided
    note = f"{processes.count(then)} until step {step}, {processes.count(now['world'])} from there"
    decided = {**decided, "processes": now, "notes": [*decided["notes"], *([note] if step else [])]}
    agreement.first(fabric, partial(folder.write_run, decided))
    return decided


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
    recipe, speed = Recipe.from_json(decided["recipe"]), Speed.of_run(decided)
    if compute.own_process:
        arrange_memory(speed)
    preprocessing = Preprocessing.from_json(decided["preprocessing"])
    task = find_task(decided["task"]).of(data, recipe)
    if recipe.batch_norm == "sync" and fabric.world_size > 1:
        network = synchronise(network, accelerator=fabric.device.type != "cpu")
    cache = _cache(decided, compute)
    place: dict[str, Any] = {
        "workers": agreement.data_workers(fabric, compute.workers),
        "rank": fabric.global_rank,
        "world": fabric.world_size,
        "channels_last": speed.channels_last,
        "cache": cache,
        "pin": fabric.device.type == "cuda",
    }
    shared = place | agreement.rows(fabric, data.train, decided.get("shares"))
    shared |= {"seed": decided["seed"], "components": decided.get("components")}
    train = training_batches(data, recipe, preprocessing, **shared)
    val = Batches(
        data.val,
        preprocessing,
        batch_size=recipe.batch_size * -(-64 // recipe.batch_size),
        shuffle=False,
        drop_last=False,
        **place,
    )
    if cache is not None:  # before the first step, where a Ctrl-C is obeyed at once
        told = observer.noted if observer is not None and fabric.is_global_zero else Observer().noted
        train.prepare(told)
        val.prepare(told)
    return Loop(
        task=task,
        model=network,
        recipe=recipe,
        speed=speed,
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


def _cache(decided: Mapping[str, Any], compute: Compute) -> Path | None:
    """The folder of decoded images. Cached images may be smaller ones, so a run has them from its first step or not."""
    begun = decided.get("cache")
    if compute.cache and not begun:
        raise UsageError(
            "the run began without a cache of decoded images, and goes on as it began: leave out --cache."
        )
    return Path(compute.cache or begun) if begun else None


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
        train = data.train.here()
        count = min(recipe.init_images, len(train))
        chosen = generator(seed, "init").choice(len(train), count, replace=False)
        fitted = torch.stack([preprocessing.fit(train.image(int(i))) for i in chosen])
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
    if len(data.train) and not len(data.train.here()):
        raise DataError(
            f"{data.where}: no shard of train is on this machine, and each machine that trains needs its part of them."
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
        advice = f"choose larger ones with --image-size (its paper's: {find(name).image})"
        if least < max(prepared.size):
            advice = (
                f"the recipe's sizes begin there, and --set 'sizes=[]' trains at {max(prepared.size)} alone"
            )
        raise UsageError(
            f"{name} cannot be trained on images of {height}x{width} pixels; {advice}. {error}"
        ) from error


def _new_folder(out: Path | None, data: Data, model: str) -> RunFolder:
    """An empty run at `out`, or at runs/DATA-MODEL with the first free number."""
    where = Path(str(data.where))
    where = where.parent if "{" in where.name else where  # a pattern for shards
    base = Path("runs") / f"{where.name.split('.')[0] or 'images'}-{model}"
    candidate, number = out or base, 2
    while out is None and candidate.exists():
        candidate, number = base.with_name(f"{base.name}-{number}"), number + 1
    return RunFolder.create(candidate)


def _write(folder: RunFolder, data: Data, decided: dict[str, Any]) -> None:
    """What is known of a run before its first step."""
    folder.write_samples(data.samples_csv())
    folder.write_run(decided)
