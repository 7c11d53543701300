"""`convatlas describe TARGET`: any network's layers and costs, from the running code, beside its paper's figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli import console, target
from convatlas.cli.list import published
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from convatlas.cli.target import Target
    from convatlas.measure import Measurement


def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help=target.HELP)],
    image_size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels; the network's own if absent.", min=1)
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", min=1)] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="C,H,W",
            help="Whole shape without batch, such as 1,16000; once for each argument of a network with several.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Setting of the network; may be repeated."),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(metavar="stage|block|layer|N", help="Sum what lies deeper.  [default: layer]"),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV with exact numbers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one offline page with rows that unfold.")
    ] = None,
) -> None:
    """Print a network's layer table: output shapes, parameters, MACs, activations, published figures."""
    if markdown + as_csv + as_json + (html is not None) > 1:
        raise UsageError("--markdown, --csv, --json and --html exclude one another; choose one.")
    from convatlas.measure import folded, measure, page, table

    levels = folded.read_depth(depth)
    shapes = [target.parse_shape(text) for text in input_shape or ()]
    found = target.resolve(
        name,
        image_size=image_size,
        channels=channels,
        classes=classes,
        input_shape=shapes[0] if shapes else None,
        options=console.settings(options or ()),
    )
    whole = measure(found.model, shapes if len(shapes) > 1 else found.input_shape)
    cost = folded.fold(whole, levels, found.model)
    spec = found.spec
    if as_json:
        console.write_json(
            {"name": found.name, "published": published(spec) if spec else {}, **cost.to_json()}
        )
    elif as_csv:
        console.write(table.to_csv(cost))
    elif markdown:
        console.write(table.markdown(cost))
    elif html is not None:
        page.write(html, whole, found.model, title=_title(found), spec=spec, depth=levels if depth else 1)
        console.say(f"wrote {html}")
    else:
        _show(found, cost, whole)
        return
    if table.doubts(whole) and not as_json:
        console.say(table.doubts(whole))


def _title(found: Target) -> str:
    """The network and its paper, where it has one."""
    if found.spec is None or found.origin != "canon":
        return f"{found.name}: {type(found.model).__name__}"
    paper = found.spec.paper
    return f"{found.name}: {paper.title} ({paper.authors + ', ' if paper.authors else ''}{paper.year})"


def _show(found: Target, cost: Measurement, whole: Measurement) -> None:
    from convatlas.measure import table

    console.show(_title(found))
    console.show(table.rich_facts(whole, found.spec))
    console.show("")
    console.show(table.rich_table(cost))
    if table.doubts(whole):
        console.show("")
        console.show(table.doubts(whole))
