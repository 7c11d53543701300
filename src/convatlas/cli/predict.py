"""`convatlas predict RUN IMAGE...`: what a trained network says about pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from convatlas.cli import console, process

if TYPE_CHECKING:
    from rich.table import Table

    from convatlas.infer import Prediction, Predictions


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `convatlas train` wrote.")],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Images, folders (searched below) or patterns.")
    ],
    topk: Annotated[int, typer.Option(help="Classes per image.", min=1)] = 1,
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="Of the output.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="Write there instead of to stdout.")] = None,
    on_bad: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Files that are no good images: stop, or leave out and name."),
    ] = "error",
    tta: Annotated[bool, typer.Option("--tta", help="Average over each image and its mirror image.")] = False,
    workers: Annotated[int, typer.Option(help="Threads that decode.", min=0)] = 0,
) -> None:
    """Print the likeliest classes of every image, decoded and resized as in training."""
    process.keep_memory()
    from convatlas import api
    from convatlas.files import make_folder, write_durable

    found = api.Run.load(run).predict(images, topk=topk, on_bad=on_bad, tta=tta, workers=workers)
    for bad in found.bad:
        console.say(f"left out {bad.key}: {bad.reason}, {bad.detail}")
    if form == "table" and out is None:
        console.show(_table(found, topk))
        return
    text = _json(found) if form == "json" else _csv(found, topk)
    if out is None:
        console.write(text)
    else:
        make_folder(out.parent)
        write_durable(out, text.encode("utf-8", "surrogateescape"))


def _columns(topk: int) -> list[str]:
    return [
        "image",
        "class",
        "probability",
        *(name for k in range(2, topk + 1) for name in (f"class {k}", f"probability {k}")),
    ]


def _row(prediction: Prediction, digits: int) -> list[str]:
    return [
        prediction.name,
        *(text for label, share in prediction.top for text in (label, f"{share:.{digits}f}")),
    ]


def _table(found: Sequence[Prediction], topk: int) -> Table:
    width = 1 + 2 * min(topk, max((len(prediction.top) for prediction in found), default=1))
    return console.table(_columns(topk)[:width], (_row(prediction, 3) for prediction in found))


def _csv(found: Sequence[Prediction], topk: int) -> str:
    """One line per image; a spreadsheet reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = 1 + 2 * min(topk, max((len(prediction.top) for prediction in found), default=1))
    writer.writerow(_columns(topk)[:width])
    writer.writerows(_row(prediction, 6) for prediction in found)
    return text.getvalue()


def _json(found: Predictions) -> str:
    """Predictions, and the files that were left out with their reasons."""
    value = {
        "predictions": [prediction.to_json() for prediction in found],
        "bad": [{"key": bad.key, "reason": bad.reason, "detail": bad.detail} for bad in found.bad],
    }
    return json.dumps(value, indent=2) + "\n"
