"""`convatlas data check`, `show` and `shard`: look at images before training on them, and put them into shards."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from convatlas.cli import console
from convatlas.errors import DataError

WHERE = typer.Argument(
    metavar="WHERE", help="Image folder, zip or tar of one, shards, MNIST idx folder, CSV list, or 'digits'."
)


def check(
    where: Annotated[str, WHERE],
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON too; - prints only that."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="What belongs together: a pattern with one group, or a column of the CSV."),
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

    found = examine(where, workers=workers, group_by=group_by)
    if json_file == "-":
        console.write_json(found.to_json())
    else:
        replace(found, where=console.printable(found.where)).render(console.terminal(markup=True))
        if json_file is not None:
            make_folder(Path(json_file).parent)
            write_json(Path(json_file), found.to_json())
    if not found.ok:
        raise DataError(f"{where} is not in order.")


def show(
    where: Annotated[str, WHERE],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("batch.png"),
    model: Annotated[
        str | None, typer.Option(help="Network whose input size counts; chosen as `train` does if absent.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="quick, or the recipe of a paper.")] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a field of the recipe.")
    ] = None,
    count: Annotated[int, typer.Option(help="Images to draw.", min=1, max=256)] = 24,
    epoch: Annotated[
        int, typer.Option(help="Epoch to draw, from 1: each augments in its own way.", min=1)
    ] = 1,
    seed: Annotated[int, typer.Option(help="As for `train`.", min=0)] = 0,
    on_bad: Annotated[
        Literal["error", "skip"], typer.Option(help="Files that are no good images: stop, or leave out.")
    ] = "error",
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode; chosen if absent.", min=0)
    ] = None,
) -> None:
    """Draw the first augmented images of an epoch with their labels, just as training will see them."""
    from convatlas.api import open_data
    from convatlas.data.picture import picture
    from convatlas.files import make_folder, write_durable
    from convatlas.train.feed import training_batches
    from convatlas.train.plan import plan

    data = open_data(where, seed=seed, on_bad=on_bad, workers=workers)
    planned = plan(data, model, recipe, console.pairs(settings or ()), seed)
    batches = training_batches(data, planned.recipe, planned.preprocessing, seed=seed)
    with closing(batches):
        batch = next(iter(batches.epoch(epoch - 1)))
    content = io.BytesIO()
    picture(batch, data.classes, planned.preprocessing, most=count).save(content, "PNG")
    make_folder(out.parent)
    write_durable(out, content.getvalue())
    shown = f"{min(count, len(batch))} images for {planned.model} at {planned.recipe.image_size} px"
    console.write(f"{console.printable(out)}: {shown}, recipe {planned.recipe.name}\n")


def shard(
    where: Annotated[str, WHERE],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the shards.")],
    size: Annotated[str, typer.Option(help="Of a shard, as 256MB or 1GiB.")] = "256MB",
    seed: Annotated[int, typer.Option(help="Of the order inside a split.", min=0)] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(help="What belongs together: a pattern with one group, or a column of the CSV."),
    ] = None,
    on_bad: Annotated[
        Literal["error", "skip"], typer.Option(help="Files that cannot be read: stop, or leave out.")
    ] = "error",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")] = False,
) -> None:
    """Write images as shards (plain tars), for data that are larger than a disk or too many files.

    The images are copied as they are. `convatlas train OUT` reads them, with the same splits and classes.
    """
    from convatlas.cli.sizes import byte_size
    from convatlas.data.sharding import write_shards

    def told(path: Path, samples: int) -> None:
        if not quiet:
            console.write(f"{path.name}: {samples:,} images\n")

    done = write_shards(
        where, out, size=byte_size(size), seed=seed, on_bad=on_bad, group_by=group_by, told=told
    )
    left = f"; {done.left_out:,} left out" if done.left_out else ""
    what = f"{done.samples:,} images in {len(done.shards):,} shards, {done.bytes:,} bytes{left}"
    console.write(f"{console.printable(out)}: {what}\n")
