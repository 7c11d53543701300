"""`convatlas list`: which networks there are, and what their papers printed of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console
from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from convatlas.registry import Spec


def list_networks(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="A name with wildcards, such as 'resnet*'.")
    ] = "*",
    family: Annotated[str | None, typer.Option(help="Only this family, such as vgg.")] = None,
    year: Annotated[str | None, typer.Option(help="Year of the paper, or a span: 2012-2015.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task, such as classification.")] = None,
    min_params: Annotated[str | None, typer.Option(help="At least so many parameters, such as 500k.")] = None,
    max_params: Annotated[str | None, typer.Option(help="At most so many parameters, such as 25M.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks: family, year, parameters, and the figures of their papers."""
    first, last = _span(year)
    low = console.quantity(min_params) if min_params is not None else 0
    high = console.quantity(max_params) if max_params is not None else None
    from convatlas.models import find, list_models

    specs = [find(name) for name in list_models(pattern, family=family, task=task)]
    if not specs and pattern != "*" and family is None and task is None:
        raise UsageError(f"no network matches {pattern!r}.{did_you_mean(pattern, list_models())}")
    rows = [
        {
            "name": spec.name,
            "family": spec.family,
            "year": spec.paper.year,
            "task": spec.task,
            "params": params,
            "image": spec.image,
            "channels": spec.channels,
            "classes": spec.classes,
            "published": published(spec),
            "paper": spec.paper.title,
        }
        for spec in specs
        if first <= spec.paper.year <= last
        and low <= (params := parameters(spec.name))
        and (high is None or params <= high)
    ]
    if as_json:
        console.write_json(rows)
        return
    columns = ("name", "family", "year", "image", "params", "params (paper)", "error in % (paper)")
    console.show(console.table(columns, (_cells(row) for row in rows)))
    if len(rows) < len(specs) or not rows:
        console.say(f"{len(rows)} of {len(list_models())} networks")


def _span(text: str | None) -> tuple[int, int]:
    """First and last year of "2014" or "2012-2015"."""
    if text is None:
        return 0, 9999
    match = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", text)
    if match is None:
        raise UsageError(f"--year {text!r}: a year such as 2014, or a span such as 2012-2015, is expected.")
    return int(match[1]), int(match[2] or match[1])


def parameters(name: str) -> int:
    """Number of trainable values of a network with its own number of classes; nothing is allocated for it.

    Those of auxiliary heads are left out, as in the papers.
    """
    from convatlas.layers.blueprint import blueprint
    from convatlas.models import create_model

    with blueprint():
        network = create_model(name)
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary."))


def published(spec: Spec) -> dict[str, Any]:
    """The figures that the paper printed, as printed."""
    fields = ("params", "macs", "top1_error_pct", "top5_error_pct", "error_pct", "layers", "test", "source")
    return {name: value for name in fields if (value := getattr(spec.published, name)) is not None}


def errors(figures: dict[str, Any]) -> str:
    """The printed error rates on one line: "top-1 24.7, top-5 7.8"."""
    names = (("top1_error_pct", "top-1 "), ("top5_error_pct", "top-5 "), ("error_pct", ""))
    return ", ".join(label + figures[key] for key, label in names if key in figures)


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    side, figures = row["image"], row["published"]
    return (
        row["name"],
        row["family"],
        row["year"],
        f"{side}x{side}x{row['channels']}",
        f"{row['params']:,}",
        figures.get("params"),
        errors(figures),
    )
