"""The public face: what `import convatlas` offers, and what the verbs of the command line call.

So Python and the shell give the same result, down to the report that lies in the run's folder.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

from convatlas.audit import audit
from convatlas.data import Data, open_data
from convatlas.errors import BadCheckpoint, DataError
from convatlas.files import read_untrusted
from convatlas.infer import Evaluation, Run
from convatlas.layers.init import initialise
from convatlas.measure import measure
from convatlas.measure.roof import roof_here
from convatlas.models import create_model, find, list_models
from convatlas.report import write_report
from convatlas.train import Compute, Observer, Recipe, RunFolder, Safety, begin
from convatlas.train import resume as go_on
from convatlas.train.limit import epochs_here, reached
from convatlas.train.plan import check_wishes, to_read
from convatlas.train.repeat import repeated
from convatlas.train.start import Notify
from convatlas.weights import load_weights

__all__ = [
    "Evaluation",
    "Run",
    "audit",
    "create_model",
    "evaluate",
    "find",
    "initialise",
    "list_models",
    "load_weights",
    "measure",
    "open_data",
    "train",
]


def train(
    data: str | Path | Data | None = None,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    safety: Safety | None = None,
    observer: Observer | None = None,
    notify: Notify | None = None,
    find_lr: bool = False,
    auto_resume: bool = False,
    from_run: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> Run:
    r"""Train a network and give the run, with its best weights and a report of them on val.

    Args:
        data: "digits", a folder, a zip or tar of one, MNIST's idx files, a CSV list, or what `open_data` gave;
            "digits" if None.
        model: a name of `list_models()`; chosen by the size and number of images if None.
        recipe: a name (`convatlas.train.recipes.recipes()`) or a `Recipe`; "quick" if None.
        out: the run's folder; the first free runs/DATA-MODEL if None.
        seed: of the split, the first weights, the order and the augmentation; 0 if None.
        weights: what to start from: "torchvision" or "timm" for official weights, which are fetched; a file; the
            folder of a run; "auto" for official weights where they suit; nothing if None. See `docs/training.md`.
        options: settings of the network, for `create_model`: `{"shortcut": "A"}`.
        settings: fields of the recipe to replace, also as keywords: `train("photos/", epochs=5, lr=0.01)`.
        reading: arguments of `open_data`, such as `{"group_by": r"patient(\d+)", "on_bad": "skip"}`; with `data` that
            `open_data` gave, those that it was called with.
        compute: devices, strategy, workers, precision, and how speed settings are found.
        safety: what to do when a number is not finite, and how often to save.
        observer: is told of every step.
        notify: is given what was decided, before the first step.
        find_lr: look for the learning rate first.
        auto_resume: go on with the run in `out` if one is there and the same arguments have begun it.
        from_run: a run's folder: what stands at None is taken from there, and so are its speed settings.
        fields: see `settings`.

    Raises:
        UsageError, DataError, BadCheckpoint, NumericError, ResourceError, Interrupted: see `convatlas.errors`.
    """
    compute, reading = compute or Compute(), dict(reading or {})
    settings = {**(settings or {}), **fields}
    if out is not None and not auto_resume:
        RunFolder.check_free(Path(out))  # before any image is read
    weights = None if weights is None else os.fspath(weights)
    if from_run is not None:
        again = repeated(from_run)
        same = model is None or model == again.model
        options = {**(again.options if same else {}), **(options or {})}
        weights = again.weights if weights is None and same else weights
        data, model, recipe = (
            again.where if data is None else data,
            model or again.model,
            recipe or again.recipe,
        )
        if "val_share" in settings:  # said anew, so what that run held out does not count
            again.reading.pop("val_share", None)
        seed, reading = again.seed if seed is None else seed, {**again.reading, **reading}
    data, recipe, seed = "digits" if data is None else data, recipe or "quick", seed or 0
    check_wishes(model, recipe, settings, weights, options)
    alone = not _in_group()
    if not isinstance(data, Data):
        reading = to_read(recipe, settings, reading)
        told = observer.noted if observer is not None and alone else None
        where = _absolute(data)
        data = open_data(where, seed=seed, workers=compute.workers, told=told, **compute.reading(reading))
    folder = begin(
        data,
        model=model,
        recipe=recipe,
        settings=settings,
        out=out,
        seed=seed,
        weights=weights,
        options=options,
        compute=compute,
        safety=safety,
        observer=observer,
        notify=notify,
        find_rate=find_lr,
        reading=reading,
        auto_resume=auto_resume,
        like=from_run,
    )
    return _reported(folder, data, alone_before=alone)


def resume(
    path: str | Path,
    data: str | Path | Data | None = None,
    *,
    compute: Compute | None = None,
    safety: Safety | None = None,
    observer: Observer | None = None,
    notify: Notify | None = None,
) -> Run:
    """Go on with a run that was stopped, to the same bits as if it had not been; then as `train`.

    `data` says where the images are now, if they have moved. Raises `BadCheckpoint` if the folder is no run or the
    images are not those that it was trained on.
    """
    wish = compute or Compute()
    opened = data if isinstance(data, Data) else _data_of(RunFolder.open(path), data, apart=wish.machines > 1)
    alone = not _in_group()
    folder = go_on(path, where=opened, compute=compute, safety=safety, observer=observer, notify=notify)
    return _reported(folder, opened, alone_before=alone)


def evaluate(
    run: Run, data: str | Path | Data | None = None, split: str | None = None, *, tta: bool | str = False
) -> Evaluation:
    """How good a run is on a split of its own images, or of others with the same classes; kept in its folder.

    The report is brought up to date with what its own images gave.

    Args:
        run: what `train` or `Run.load` gave.
        data: other images, or where the run's own are now; as the run knew them if None.
        split: "test", "val", "train" or "all". None: test; of other images that have none, all.
        tta: average over the picture and its mirror image, or over the views of a kind: "shift" (mirrored, and shifted
            by a pixel: 6 forward passes an image) or "grid" (all nine shifts, mirrored: 18).

    Raises:
        DataError: the split has no images, or has classes that the network does not know.
    """
    opened = data if isinstance(data, Data) else images_for(run, data)
    own = opened.fingerprint == run.folder.read_run()["fingerprint"]
    if split is None:
        split = "test" if own or len(opened.test) else "all"
    chosen = opened.all if split == "all" else {part.name: part for part in opened.splits}[split]
    if len(chosen.here()) < len(chosen):
        raise DataError(
            f"{opened.where}: images of {split} are on other machines. Choose val or test with --split: they are whole."
        )
    if not len(chosen):
        raise DataError(
            f"{opened.where} has no {split} images. Choose others with --split, or name a folder that has some."
        )
    evaluation = run.evaluate(chosen, split_name=split, tta=tta, fingerprint=opened.fingerprint)
    name = split if own else f"{split}-{opened.fingerprint[:12]}"
    run.folder.write_evaluation(name, evaluation.to_json())
    if own:
        write_report(run.folder, opened)
    return evaluation


def images_for(run: Run, where: str | Path | None = None) -> Data:
    """A run's own images in the splits they had, from `where` they are now; or other ones, just as they are given.

    Of other images nothing is drawn: test is what they call test. Raises `DataError`, also for unknown classes.
    """
    decided = run.folder.read_run()
    if where is None or _absolute(where) == decided["where"]:
        return _data_of(run.folder)
    other = open_data(
        _absolute(where),
        val_share=0,
        test_share=0,
        on_bad=decided["reading"].get("on_bad", "error"),
        workers=decided["workers"],
        classes=run.classes,
        apart=decided["reading"].get("apart", False),
    )
    trained_on = [row["hash"] for row in csv.DictReader(io.StringIO(samples_of(run.folder).decode()))]
    hashes = [digest for part in other.splits for digest in part.hashes]
    return _data_of(run.folder, where) if sorted(hashes) == sorted(trained_on) else other


def samples_of(folder: RunFolder) -> bytes:
    """samples.csv of a run. Raises `BadCheckpoint` if it is gone."""
    try:
        return read_untrusted(folder.path / "samples.csv", max_bytes=2**32)
    except DataError as error:
        raise BadCheckpoint(str(error)) from error


def _data_of(folder: RunFolder, where: str | Path | None = None, *, apart: bool = False) -> Data:
    """The images of a run, split as they were; from `where` if given. `apart`: some may be on other machines."""
    decided = folder.read_run()
    source = decided["where"] if where is None else _absolute(where)
    reading = decided["reading"] | ({"apart": True} if apart else {})
    return open_data(source, seed=decided["seed"], workers=decided["workers"], **reading)


def _absolute(where: str | Path) -> str:
    """The same place from every working directory; the built-in data are a name."""
    return "digits" if where == "digits" else os.path.abspath(where)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _reported(folder: RunFolder, data: Data, *, alone_before: bool) -> Run:
    """The run with its best weights; rank 0 evaluates it on val, looks how fast it was, and writes its report.

    The group of processes that training made is given back first; one that the caller made is left alone.
    """
    first = not _in_group() or dist.get_rank() == 0
    if _in_group() and alone_before:
        dist.destroy_process_group()
    run = Run.load(folder.path)
    if first:
        if len(data.val):
            evaluation = run.evaluate(data.val, split_name="val", fingerprint=data.fingerprint)
            folder.write_evaluation("val", evaluation.to_json())
        _note_limit(folder)
        write_report(folder, data)
    return run


def _note_limit(folder: RunFolder) -> None:
    """How close the run came to what this machine can do, into its folder, if that can be told."""
    with suppress(Exception):  # a by-product: whatever it meets, the run has its report
        folder.forget_limit()  # what may be there is another machine's
        if (epochs := epochs_here(folder.timing())) and (roof := roof_here()):
            folder.write_limit(reached(folder.read_run(), epochs, roof).to_json())
