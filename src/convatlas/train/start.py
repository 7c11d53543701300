"""From a folder of images to a running loop: begin a run, or go on with one."""

from __future__ import annotations

import inspect
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from convatlas import allocator
from convatlas.data import Batches, Data, Preprocessing, open_data
from convatlas.errors import BadCheckpoint, DataError, UsageError
from convatlas.files import newest
from convatlas.layers.init import INITIALISATIONS, initialise
from convatlas.layers.sync_batch_norm import synchronise
from convatlas.measure.machine import machine, versions
from convatlas.measure.trace import trace
from convatlas.models import create_model, find
from convatlas.randomness import generator, key, preserved
from convatlas.train import agreement, checkpoint, processes
from convatlas.train.feed import training_batches
from convatlas.train.loop import Loop
from convatlas.train.observer import Observer
from convatlas.train.origin import again
from convatlas.train.params import held
from convatlas.train.plan import check_wishes, plan
from convatlas.train.recipe import Recipe
from convatlas.train.run import RUN, RunFolder
from convatlas.train.safety import Safety
from convatlas.train.speed import Device, Speed, rule
from convatlas.train.task import find_task
from convatlas.train.tune import candidates, measured

Notify = Callable[[dict[str, Any]], None]


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
        local, nodes = (there.local, there.nodes) if there is not None else (None, None)
        return (local or self.devices or 1) * (nodes or self.nodes or 1)

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
        precision = "bf16-mixed" if speed.precision == "bf16" else "32-true"
        return processes.engine(arranged, self.accelerator, precision)


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
    data = (
        where if isinstance(where, Data) else open_data(where, seed=seed, workers=compute.workers, **reading)
    )
    _check_trainable(data, validated=reading.get("val_share") != 0)
    command = _command(
        data, model, recipe, settings, seed, weights, options, safety, reading, find_rate, compute, like
    )
    if auto_resume and out is not None and (Path(out) / RUN).exists():
        _check_command(Path(out), command)
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
    speed = _speed(network, decided, final, compute, like, observer)
    fabric = compute.fabric(speed)
    agreement.check_same(fabric, data.fingerprint, "begins a run")
    agreement.check_shares(fabric, final, len(data.train))
    decided["processes"] = processes.of(fabric, network, final)
    if find_rate:
        from convatlas.train.lr_finder import find_learning_rate

        task = find_task(spec.task)
        look = partial(find_learning_rate, network, data, final, decision.preprocessing, task, speed)
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
    compute: Compute,
    like: str | os.PathLike[str] | None,
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
    given = {**reading, "cache": compute.cache, "on_nan": safety.on_nan, "weights": weights}
    usual = {"on_bad": "error", "val_share": 0.1, "on_nan": "stop"}
    for option, value in given.items():
        if value is not None and value != usual.get(option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    words += ["--precision", compute.precision] if compute.precision != "auto" else []
    words += ["--from-run", str(like)] if like is not None else []
    flags = {"--find-lr": find_rate, "--checkpoint-activations": compute.checkpoint_activations}
    return words + [flag for flag, given in flags.items() if given]


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
    if compute.own_process and speed.keep_memory:
        allocator.keep()
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
    train = training_batches(data, recipe, preprocessing, seed=decided["seed"], **place)
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


def _speed(
    network: nn.Module,
    decided: dict[str, Any],
    recipe: Recipe,
    compute: Compute,
    like: str | os.PathLike[str] | None,
    observer: Observer | None,
) -> Speed:
    """How the run is computed: as the run `like`, by rule, or as measured here; kept in `decided`."""
    device = Device.here(compute.accelerator)
    height, width = decided["preprocessing"]["size"]
    per_process = max(recipe.batch_size // compute.world, 1)
    shape = (per_process, decided["options"]["in_channels"], height, width)
    speed = rule(network, shape, device, precision=compute.precision)
    if like is not None and compute.precision == "auto":
        other = RunFolder.open(os.fspath(like)).read_run()
        if other["model"] == decided["model"]:  # of another network, only the recipe is repeated
            speed = Speed.of_run(other)
            speed = replace(speed, reason=f"as in {os.fspath(like)}: {speed.reason}")
    if compute.checkpoint_activations:
        speed = replace(speed, recompute=True)
    if compute.tune == "full":
        tried = candidates(network, speed, device)
        if observer is not None:
            observer.noted(f"measuring {len(tried)} ways to compute this, for two minutes or three")
        job = {name: decided[name] for name in ("model", "options", "task", "recipe", "seed")}
        job |= {"shape": shape, "classes": decided["data"]["classes"], "accelerator": compute.accelerator}
        tuning = measured(tried, job)
        speed, decided["tuning"] = tuning.chosen, tuning.to_json()
    decided["speed"] = speed.to_json()
    return speed


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


def _check_command(out: Path, command: list[str]) -> None:
    """Raise `UsageError` if the run at `out` was begun by another command."""
    decided = RunFolder.open(out).read_run()
    begun = decided.get("asked") or decided["command"]
    if begun != command:
        raise UsageError(
            f"{out} holds a run that another command has begun: {shlex.join(map(str, begun))}. Choose another --out, "
            f"or go on with that one: convatlas train --resume {out}"
        )
