"""`convatlas describe TARGET`: any network's layers and costs, from the running code, beside its paper's figures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli import console, target
from convatlas.cli.list import published
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from convatlas.cli.target import Shape, Target
    from convatlas.measure import Measurement
    from convatlas.measure.memory import Memory


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
    roofline: Annotated[
        bool,
        typer.Option(
            "--roofline",
            help="Print what bounds each layer on this machine, arithmetic or memory, after `bench --roofline`.",
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Predict the peak memory of a pass and of a training step with so many images.", min=1
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="sgd, momentum, rmsprop, adam or adamw, for --batch.")
    ] = "momentum",
    dtype: Annotated[
        str, typer.Option(metavar="fp32|bf16|fp16|fp64", help="Precision of weights and images, for --batch.")
    ] = "fp32",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV with exact numbers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one offline page with rows that unfold.")
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Draw who reads what: blocks, or what --depth says, and arrows."
        ),
    ] = None,
) -> None:
    """Print a network's layer table: output shapes, parameters, MACs, activations, published figures."""
    if markdown + as_csv + as_json + (html is not None) + (graph is not None) > 1:
        raise UsageError("--markdown, --csv, --json, --html and --graph exclude one another; choose one.")
    if roofline and (markdown or as_csv or html is not None or graph is not None or depth is not None):
        raise UsageError(
            "--roofline is a table of layers for the terminal, or with --json; leave the rest out."
        )
    if batch is None and (optimizer, dtype) != ("momentum", "fp32"):
        raise UsageError("--optimizer and --dtype say how memory is predicted; --batch N asks for it.")
    if batch is not None and (roofline or markdown or as_csv or html is not None or graph is not None):
        raise UsageError("--batch adds to the table for the terminal, or to --json; leave the rest out.")
    if graph is not None and graph.suffix.lower() != ".svg":
        raise UsageError(f"--graph {graph}: the drawing is an SVG; name the file so.")
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
    if graph is not None:
        from convatlas.files import write_durable
        from convatlas.measure import diagram

        drawing = diagram.svg(
            found.model,
            shapes if len(shapes) > 1 else found.input_shape,
            diagram.read_depth(depth or "block"),
            title=found.name,
        )
        write_durable(graph, drawing.encode())
        console.say(f"wrote {graph}")
        return
    _arguments(found.model, max(len(shapes), 1))
    whole = measure(found.model, shapes if len(shapes) > 1 else found.input_shape)
    cost = folded.fold(whole, levels, found.model)
    spec = found.spec
    peaks = _peaks(found, shapes, batch, optimizer, dtype) if batch else {}
    if roofline:
        _show_roofline(found, shapes, whole, as_json=as_json)
    elif as_json:
        console.write_json(
            {
                "name": found.name,
                "published": published(spec) if spec else {},
                **({"memory": {name: memory.to_json() for name, memory in peaks.items()}} if peaks else {}),
                **cost.to_json(),
            }
        )
    elif as_csv:
        console.write(table.to_csv(cost))
    elif markdown:
        console.write(table.markdown(cost))
    elif html is not None:
        page.write(html, whole, found.model, title=_title(found), spec=spec, depth=levels if depth else 1)
        console.say(f"wrote {html}")
    else:
        _show(found, cost, whole, peaks)
        return
    if not as_json:
        for sentence in table.doubts(whole):
            console.say(sentence)


def _arguments(model: nn.Module, given: int) -> None:
    """Raise `UsageError` if the network needs more arguments than are given."""
    try:
        taken = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that Python cannot see into
        return
    needed = [
        each.name
        for each in taken
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > given:
        shapes = " ".join(["--input-shape 3,224,224", *["--input-shape 10"] * (len(needed) - 1)])
        raise UsageError(
            f"{type(model).__name__} needs {len(needed)} arguments ({', '.join(needed)}), and {given} is given. "
            f"Say the shape of each, in that order and without the batch: {shapes}."
        )


def _show_roofline(found: Target, shapes: list[Shape], whole: Measurement, *, as_json: bool) -> None:
    """What bounds each layer for one image in fp32; JSON holds the measurement too."""
    from convatlas.measure import roofline_table
    from convatlas.measure.roof import kept_roof
    from convatlas.measure.roofline import roofline

    line = roofline(found.model, kept_roof(), shapes if len(shapes) > 1 else found.input_shape)
    if as_json:
        console.write_json({"name": found.name, **whole.to_json(), "roofline": line.to_json()})
        return
    console.show(_title(found))
    console.show(console.table(roofline_table.HEADER, roofline_table.cells(line)))
    console.show("")
    for sentence in roofline_table.sentences(line):
        console.show(sentence)


def _title(found: Target) -> str:
    """The network and its paper, where it has one."""
    if found.spec is None or found.origin != "canon":
        return f"{found.name}: {type(found.model).__name__}"
    paper = found.spec.paper
    return f"{found.name}: {paper.title} ({paper.authors + ', ' if paper.authors else ''}{paper.year})"


def _peaks(found: Target, shapes: list[Shape], batch: int, optimizer: str, dtype: str) -> dict[str, Memory]:
    """Predicted memory by what is done, in words."""
    import torch

    from convatlas.measure.memory import predict

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
    if dtype not in types:
        raise UsageError(f"--dtype {dtype!r} is not known; {', '.join(types)} are.")
    inputs = shapes if len(shapes) > 1 else found.input_shape
    images = f"{batch} image{'s' * (batch > 1)} in {dtype}"
    return {
        f"a pass of {images}": predict(found.model, inputs, batch=batch, dtype=types[dtype]),
        f"a training step of {images}, {optimizer}": predict(
            found.model, inputs, batch=batch, dtype=types[dtype], training=True, optimizer=optimizer
        ),
    }


def _show(found: Target, cost: Measurement, whole: Measurement, peaks: Mapping[str, Memory]) -> None:
    from convatlas.measure import table

    console.show(_title(found))
    console.show(table.rich_facts(whole, found.spec))
    console.show("")
    if peaks:
        titles = ("peak memory", "all", "parameters", "optimiser", "the rest", "process, about")
        rows = [
            (
                what,
                *map(table.bytes_text, (m.peak, m.parameters + m.buffers, m.optimizer, m.passing)),
                "" if m.resident is None else table.bytes_text(m.resident),
            )
            for what, m in peaks.items()
        ]
        console.show(console.table(titles, rows))
        if unsure := ", ".join(dict.fromkeys(m.unsure for m in peaks.values() if m.unsure)):
            console.show(f"Rough: how much memory {unsure} takes on a processor is not known.")
        console.show("")
    console.show(table.rich_table(cost))
    for sentence in table.doubts(whole):
        console.show("")
        console.show(sentence)
