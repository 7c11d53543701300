"""`convatlas compare A B C`: networks side by side, as a table and as a chart of error over cost."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console, target
from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from convatlas.measure.comparison import Axis, Entry, Error, Metric

SECONDS = 4.0  # of the clock for each network, with --latency


def compare(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET...", help=f"{target.HELP} Names may hold * and ?.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="All networks of a family; may be repeated.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels, for all.", min=1)
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="Instead of that: the whole shape without batch, for all."),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes, for all.", min=1)] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure milliseconds for one image.")] = False,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE.svg|FILE.png", help="Draw error over cost into this file.")
    ] = None,
    x: Annotated[str, typer.Option(metavar="params|macs|ms", help="What the chart's x axis shows.")] = "macs",
    error: Annotated[
        str | None, typer.Option(metavar="top1|top5", help="The chart's error; the one that most have.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with exact numbers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one offline page with table and chart.")
    ] = None,
) -> None:
    """Print what networks cost and how well they do, each error with its test and its source."""
    if markdown + as_csv + as_json > 1:
        raise UsageError("--markdown, --csv and --json exclude one another; choose one.")
    if x not in ("params", "macs", "ms"):
        raise UsageError(f"--x {x!r}: one of params, macs, ms is expected.")
    if error not in (None, "top1", "top5"):
        raise UsageError(f"--error {error!r}: top1 or top5 is expected.")
    if chart is not None and chart.suffix not in (".svg", ".png"):
        raise UsageError(f"--chart {chart}: a file that ends in .svg or .png is expected.")
    names = chosen(targets or [], family or [])
    timed = latency or x == "ms"
    shape = None if input_shape is None else target.parse_shape(input_shape)
    entries = [_entry(name, image_size, shape, classes, timed=timed) for name in names]
    if chart is not None or html is not None:
        _pictures(entries, x, error, chart, html)
    from convatlas.audit.table import markdown as marked
    from convatlas.measure.comparison import cells

    if as_json:
        console.write_json([entry.to_json() for entry in entries])
    elif as_csv:
        console.write(to_csv(entries))
    elif markdown:
        console.write(marked(*cells(entries)))
    else:
        console.show(console.table(*cells(entries, short=True)))


def chosen(targets: list[str], families: list[str]) -> list[str]:
    """The targets with wildcards replaced by the names of the canon that match, then families; each once.

    Raises `UsageError` if there is nothing to compare, or a pattern or a family names nothing.
    """
    from convatlas.models import list_models

    found: list[str] = []
    for text in targets:
        if any(sign in text for sign in "*?[") and not Path(text).exists():
            matching = list_models(text)
            if not matching:
                raise UsageError(f"no network matches {text!r}.{did_you_mean(text, list_models())}")
            found += matching
        else:
            found.append(text)
    for family in families:
        found += list_models(family=family)
    if not found:
        raise UsageError(
            "name networks to compare, such as `convatlas compare resnet50 vgg16`, or a --family."
        )
    return list(dict.fromkeys(found))


def _entry(
    name: str, image_size: int | None, shape: target.Shape | None, classes: int | None, *, timed: bool
) -> Entry:
    from convatlas.measure import measure
    from convatlas.measure.comparison import entry

    run = name.partition(":")[1] == "" and (Path(name) / "run.json").is_file()
    found = target.resolve(
        name, image_size=image_size, input_shape=shape, classes=None if run else classes, real=timed
    )
    milliseconds = None
    if timed:
        from convatlas.measure.timing import latency

        milliseconds = 1000 * latency(found.model, found.input_shape, seconds=SECONDS).median
    own = _run_errors(name) if run else []
    changed = run or classes not in (None, found.spec.classes if found.spec else None)
    spec = None if changed else found.spec  # what a paper printed is not of a network with other classes
    return entry(
        found.name, measure(found.model, found.input_shape), spec=spec, errors=own, milliseconds=milliseconds
    )


def _run_errors(folder: str) -> list[Error]:
    """What `train` and `eval` have written of a run's splits, test first."""
    from convatlas.train.run import RunFolder

    run = RunFolder.open(folder)
    found: list[Error] = []
    for split in ("test", "val"):
        if (written := run.evaluation(split)) is not None:
            found += _measured(written, split)
    return found


def _measured(written: dict[str, Any], split: str) -> list[Error]:
    from convatlas.infer.views import VIEWS
    from convatlas.measure.comparison import Error

    kind = written.get("views", "mirror") if written.get("tta") else "one"
    shown = VIEWS[kind].says if kind in VIEWS else str(kind)
    test = f"own run, {split} split, {written['count']:,} images" + (f", {shown}" if shown else "")
    return [
        Error(
            metric,
            round(100 * (1 - written[metric]), 6),
            f"{100 * (1 - written[metric]):.2f}",
            test,
            "measured",
            True,
        )
        for metric in ("top1", "top5")
        if metric == "top1" or len(written["per_class"]) > 5
    ]


def _pictures(
    entries: list[Entry], axis: Axis, metric: Metric | None, chart: Path | None, html: Path | None
) -> None:
    from convatlas.files import write_durable
    from convatlas.measure.charts import scatter
    from convatlas.measure.comparison import METRICS, cells, page, points, usual_metric
    from convatlas.plots import svg_file

    error = metric or usual_metric(entries)
    found = points(entries, axis, error)
    if not found:
        if chart is not None:
            raise UsageError(
                f"none of these networks has a {METRICS[error]}: nothing can be drawn. Evaluate a run, or take others."
            )
        drawing = ""
    else:
        drawn = scatter(found, axis, error)
        if drawn.unnamed:
            console.say(f"no room for the names of {len(drawn.unnamed)} marks: {', '.join(drawn.unnamed)}")
        without = [entry.name for entry in entries if entry.name not in {point.name for point in found}]
        if without:
            console.say(f"without a {METRICS[error]} above 0, so not drawn: {', '.join(without)}")
        drawing = svg_file(drawn.figure)
        if chart is not None and chart.suffix == ".svg":
            write_durable(chart, drawing.encode())
        elif chart is not None:
            picture = io.BytesIO()
            drawn.figure.savefig(
                picture, format="png", dpi=144, facecolor="white", metadata={"Software": None}
            )
            write_durable(chart, picture.getvalue())
    if html is not None:
        write_durable(html, page(*cells(entries), drawing).encode())


def to_csv(entries: list[Entry]) -> str:
    """A line for each network and error, with exact numbers."""
    from convatlas.measure.table import csv_cell

    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(
        ["name", "input_shape", "params", "macs", "activations", "receptive_field", "milliseconds",
         "metric", "error_pct", "test", "source"]
    )  # fmt: skip
    for entry in entries:
        shape = "x".join(map(str, entry.input_shape))
        counts = [csv_cell(entry.name), shape, entry.params, entry.macs, entry.activations, entry.field,
                  entry.milliseconds]  # fmt: skip
        for error in entry.errors:
            writer.writerow([*counts, error.metric, error.printed, error.test, error.source])
        if not entry.errors:
            writer.writerow([*counts, "", "", "", ""])
    return written.getvalue()
