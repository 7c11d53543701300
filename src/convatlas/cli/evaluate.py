"""`convatlas eval RUN [DATA]`: how good a run is on images that did not choose it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from convatlas.cli import console
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every prediction.")] = False,
) -> None:
    """Print accuracy with its 95 % interval, and bring the run's report up to date."""
    from convatlas import api

    loaded = api.Run.load(run)
    evaluation = api.evaluate(loaded, where, split, tta=tta).to_json()
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
    console.write(f"report   {console.printable(loaded.folder.report_path)}\n")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
