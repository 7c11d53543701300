"""`convatlas describe NAME`: a network's layers and costs, from the running code, beside its paper's figures."""

from __future__ import annotations

from typing import Annotated

import typer

from convatlas.cli import console
from convatlas.cli.list import published
from convatlas.errors import UsageError


def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network of `convatlas list`.")],
    image_size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels; the network's own if absent.", min=1)
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Print a network's layer table: output shapes, parameters, MACs, activation memory, published figures."""
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other.")
    from convatlas.api import create_model, find, measure
    from convatlas.layers.blueprint import blueprint
    from convatlas.measure import table

    spec = find(name)
    side = image_size or spec.image
    with blueprint():
        model = create_model(name, classes, channels)
    measurement = measure(model, (channels or spec.channels, side, side))
    if as_json:
        console.write_json({"name": name, "published": published(spec), **measurement.to_json()})
    elif markdown:
        console.write(table.markdown(measurement))
    else:
        paper = spec.paper
        console.show(f"{name}: {paper.title} ({paper.authors + ', ' if paper.authors else ''}{paper.year})")
        console.show(table.rich_facts(measurement, spec))
        console.show("")
        console.show(table.rich_table(measurement))
