"""`convatlas eval RUN [DATA]`: how good a run is on images that did not choose it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from convatlas.cli import console, process
from convatlas.cli.train import accuracy


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `convatlas train` wrote.")],
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="Other images with the same classes; the run's own if absent.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["test", "val", "train", "all"] | None,
        typer.Option(help="Which images. If absent: test; of other DATA without a test split, all."),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over each image and its mirror image.")] = False,
    views: Annotated[
        Literal["mirror", "shift", "grid"] | None,
        typer.Option(
            help="Average over views: mirrored (2 forward passes), also shifted by a pixel (6), to all sides (18)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every prediction.")] = False,
) -> None:
    """Print accuracy with its 95 % interval, and bring the run's report up to date."""
    process.keep_memory()
    from convatlas import api

    loaded = api.Run.load(run)
    data = api.images_for(loaded, where)
    evaluation = api.evaluate(loaded, data, split, tta=views or tta).to_json()
    own = data.fingerprint == loaded.folder.read_run()["fingerprint"]
    known = {} if own else data.seen(api.samples_of(loaded.folder))
    for role in known.keys() & {"train", "val"}:
        console.say(f"{len(known[role])} of the images at {data.where} are {role} images of this run")
    if as_json:
        console.write_json(evaluation)
        return
    console.write(
        f"{accuracy(evaluation)}, loss {evaluation['loss']:.3f}, top-5 {100 * evaluation['top5']:.2f} %\n"
    )
    rows = [
        (score["name"], score["count"], *(_percent(score[key]) for key in ("precision", "recall", "f1")))
        for score in evaluation["per_class"]
    ]
    if len(rows) <= 30:
        console.show(console.table(("class", "images", "precision %", "recall %", "F1 %"), rows))
    if own:
        console.write(f"report   {console.printable(loaded.folder.report_path)}\n")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
