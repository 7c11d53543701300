"""`convatlas bench`: what this machine can do, and how near a network comes to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console, target
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from convatlas.measure.roof import Roof
    from convatlas.measure.roofline import Roofline
    from convatlas.measure.timing import Timing

SECONDS = 10.0  # for a network


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="TARGET", help=target.HELP, show_default=False)
    ] = None,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure what this machine can do, and keep it; takes about 20 s."),
    ] = False,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    train: Annotated[bool, typer.Option("--train", help="Time a training step, not inference.")] = False,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Lay the tensors out as N, H, W, C.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.", min=1)] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the image in pixels.", min=1)] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Instead of both: the whole shape, without batch.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", min=1)] = None,
    seconds: Annotated[
        float | None, typer.Option(help="How long to measure: 20 for the machine, 10 for a network.", min=0.1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --roofline: write the JSON to this file too.", dir_okay=False)
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print what bounds each layer, and time nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
) -> None:
    """Time a network, beside what the machine could do; `--roofline` measures the machine, once."""
    if name is None and not roofline:
        raise UsageError("say what to time: a network, or the machine itself with --roofline.")
    if name is not None and (roofline or out is not None):
        raise UsageError("--roofline and --out measure the machine, and take no network.")
    if name is None and rows:
        raise UsageError("--rows is for a network: convatlas bench NAME --rows.")
    from convatlas.measure.timing import threads_set

    with threads_set(threads):
        if name is None:
            _machine(seconds, out, as_json=as_json)
        else:
            found = target.resolve(
                name,
                image_size=image_size,
                channels=channels,
                classes=classes,
                input_shape=None if input_shape is None else target.parse_shape(input_shape),
                real=not rows,
            )
            setting = Setting(batch, train, dtype, channels_last)
            if rows:
                _bounds(found, setting, as_json=as_json)
            else:
                _network(found, setting, SECONDS if seconds is None else seconds, as_json=as_json)


# --- the machine ----------------------------------------------------------------------------------------


def _machine(seconds: float | None, out: Path | None, *, as_json: bool) -> None:
    from convatlas.measure.roof import SECONDS, keep_roof, measure_roof

    roof = measure_roof(SECONDS if seconds is None else seconds, console.say)
    kept = keep_roof(roof)
    if out is not None:
        keep_roof(roof, out)
    if as_json:
        console.write_json(roof.to_json())
    else:
        machine = roof.machine
        console.show(
            f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
            f"PyTorch {roof.versions['torch']}"
        )
        console.show("")
        console.show(console.table(ROOF_HEADER, _roof_cells(roof)))
        console.show("")
        for each in ("fp32", "bf16"):
            console.show(
                f"{each}: {roof.peak_macs(each) / 1e9:.3g} G multiply-adds/s, {roof.bandwidth / 1e9:.3g} GB/s; "
                f"above {roof.ridge(each):.3g} FLOP/byte arithmetic is the limit, below it memory."
            )
    console.say(f"kept in {kept}{f' and {out}' if out is not None else ''}")


ROOF_HEADER = ("kernel", "median", "quartiles", "unit", "runs")
KERNELS = {"matmul": "matrix product", "conv": "convolution 3x3", "copy": "copy", "triad": "triad"}


def _roof_cells(roof: Roof) -> list[tuple[object, ...]]:
    cells: list[tuple[object, ...]] = []
    for name, rate in roof.rates.items():
        kernel, _, dtype = name.partition(" ")
        low, median, high = (f"{each / 1e9:.3g}" for each in (rate.low, rate.per_second, rate.high))
        unit = "G multiply-adds/s" if dtype else "GB/s"
        cells.append((f"{KERNELS[kernel]} {dtype}".rstrip(), median, f"{low} to {high}", unit, rate.runs))
    return cells


# --- a network ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network is run."""

    batch: int
    train: bool
    dtype: str
    channels_last: bool


def _network(found: target.Target, setting: Setting, seconds: float, *, as_json: bool) -> None:
    from convatlas.measure.roof import kept_roof
    from convatlas.measure.timing import latency

    unknown, bound = "", None
    try:
        roof = kept_roof()  # before anything is timed: a damaged file is said at once
    except UsageError as error:
        unknown = str(error)
    else:
        bound = _bound(found, setting, roof)
    timing = latency(found.model, found.input_shape, **asdict(setting), seconds=seconds)
    if as_json:
        console.write_json(_told(found, setting, timing, bound))
    else:
        what = "training step" if setting.train else "inference"
        layout = ", channels last" if setting.channels_last else ""
        shape = " x ".join(map(str, found.input_shape))
        console.show(f"{found.name}: {what} of {setting.batch} x {shape}, {setting.dtype}{layout}")
        console.show(console.table(("figure", "value", "remark"), _cells(timing, setting.batch, bound)))
    if unknown:
        console.say(f"no roofline: {unknown}")


def _bound(found: target.Target, setting: Setting, roof: Roof) -> Roofline:
    from convatlas.measure.roofline import roofline

    return roofline(
        found.model,
        roof,
        found.input_shape,
        batch=setting.batch,
        dtype=setting.dtype,
        train=setting.train,
    )


def _bounds(found: target.Target, setting: Setting, *, as_json: bool) -> None:
    """The table of what bounds each layer."""
    from convatlas.measure import roofline_table
    from convatlas.measure.roof import kept_roof

    line = _bound(found, setting, kept_roof())
    if as_json:
        console.write_json({"name": found.name, "input_shape": list(found.input_shape), **line.to_json()})
        return
    console.show(console.table(roofline_table.HEADER, roofline_table.cells(line)))
    console.show("")
    for sentence in roofline_table.sentences(line):
        console.show(sentence)


def _cells(timing: Timing, batch: int, bound: Roofline | None) -> list[tuple[object, ...]]:
    """What, how much, and a remark."""
    low, high = (f"{seconds * 1e3:.4g}" for seconds in (timing.low, timing.high))
    cells: list[tuple[object, ...]] = [
        ("latency", f"{timing.median * 1e3:.4g} ms", f"quartiles {low} to {high}, {timing.runs} runs"),
        ("images a second", f"{batch / timing.median:.4g}", ""),
    ]
    if bound is not None:
        share = bound.memory_bound_share
        cells += [
            ("roofline", f"{bound.seconds * 1e3:.4g} ms", f"{share:.0%} of it in rows that memory bounds"),
            ("arithmetic alone", f"{bound.arithmetic_seconds * 1e3:.4g} ms", ""),
            ("reached", f"{bound.seconds / timing.median:.0%}", "of the roofline"),
        ]
    return cells


def _told(found: target.Target, setting: Setting, timing: Timing, bound: Roofline | None) -> dict[str, Any]:
    from convatlas.measure.machine import machine, versions

    told: dict[str, Any] = {
        "name": found.name,
        "input_shape": list(found.input_shape),
        **asdict(setting),
        "seconds": timing.to_json(),
        "images_per_second": setting.batch / timing.median,
        "roofline": None,
        "machine": machine(),
        "versions": versions(),
    }
    if bound is not None:
        told["roofline"] = {
            "seconds": bound.seconds,
            "arithmetic_seconds": bound.arithmetic_seconds,
            "memory_seconds": bound.memory_seconds,
            "memory_bound_share": bound.memory_bound_share,
            "reached": bound.seconds / timing.median,
            "measured": bound.roof.measured,
        }
    return told
