"""`convatlas data check` and `convatlas data show`: look at images before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convatlas.cli import console
from convatlas.errors import DataError

WHERE = typer.Argument(
    metavar="WHERE", help="Image folder, zip or tar of one, MNIST idx folder, CSV list, or 'digits'."
)


def check(
    where: Annotated[str, WHERE],
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON too; - prints only that."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode; chosen if absent.", min=0)
    ] = None,
) -> None:
    """Decode every file once and print what is wrong: exit code 3 if anything is.

    Every bad file is listed once with its reason; then images per class and split, their sizes, and images that
    stand in more than one class or split.
    """
    from convatlas.data.check import check as examine
    from convatlas.files import make_folder, write_json

    found = examine(where, workers=workers)
    if json_file == "-":
        console.write_json(found.to_json())
    else:
        found.render(console.terminal())
        if json_file is not None:
            make_folder(Path(json_file).parent)
            write_json(Path(json_file), found.to_json())
    if not found.ok:
        raise DataError(f"{where} is not in order.")


def show() -> None:
    """Draw an augmented batch."""
