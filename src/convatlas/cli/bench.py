"""`convatlas bench`: what this machine can do, how near a network comes to it, and how it stands beside peers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console, target
from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from convatlas.measure.roof import Roof

DTYPES = ("fp32", "bf16")
SECONDS = 10.0  # for a side of a network


class Peer(StrEnum):
    """Whose loop is run beside ours."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    LIGHTNING = "lightning"


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help=target.HELP, show_default=False)
    ] = None,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure what this machine can do, and keep it; takes about 20 s."),
    ] = False,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    train: Annotated[
        bool, typer.Option("--train/--infer", help="Time training steps, or inference.")
    ] = False,
    against: Annotated[
        list[Peer] | None,
        typer.Option(help="Run this peer's own loop in turn with ours; may be repeated.", show_default=False),
    ] = None,
    peer_amp: Annotated[
        bool,
        typer.Option("--peer-amp", help="Peers with bf16 autocast and channels-last, not their defaults."),
    ] = False,
    data: Annotated[
        str,
        typer.Option(metavar="synthetic|WHERE", help="With --train: noise, or images as `train` takes them."),
    ] = "synthetic",
    rounds: Annotated[int, typer.Option(help="Undisturbed blocks that each side should have.", min=1)] = 7,
    starts: Annotated[
        int, typer.Option(help="Start every side anew so often; rounds and seconds are those of all.", min=1)
    ] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16; as `train` and `predict` choose if absent.")
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--channels-first",
            help="Layout of tensors; as `train` and `predict` choose if absent.",
        ),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations",
            help="With --train, our side: compute activations again; less memory, more time.",
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.", min=1)] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the image in pixels.", min=1)] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Instead of both: the whole shape, without batch.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", min=1)] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Setting of the network; may be repeated."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="How long to measure: 20 for the machine, 10 for each side of a network, its start not counted.",
            min=0.1,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --roofline: write the JSON to this file too.", dir_okay=False)
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print what bounds each layer, and time nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time networks, beside what the machine could do and beside peers; `--roofline` measures the machine, once."""
    if side is not None:
        from convatlas.cli.side import run

        run(side)
        return
    if not names and not roofline:
        raise UsageError("say what to time: a network, or the machine itself with --roofline.")
    if names and (roofline or out is not None):
        raise UsageError("--roofline and --out measure the machine, and take no network.")
    if not names and rows:
        raise UsageError("--rows is for a network: convatlas bench NAME --rows.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(
            f"there is no dtype {dtype!r}.{did_you_mean(dtype, DTYPES)} Known: {', '.join(DTYPES)}."
        )
    if not names:
        from convatlas.measure.timing import threads_set

        with threads_set(threads):
            _machine(seconds, out, as_json=as_json)
        return
    shape = None if input_shape is None else target.parse_shape(input_shape)
    if shape is not None and (image_size is not None or channels is not None):
        raise UsageError(
            "--input-shape says size and channels already; leave --image-size and --channels out."
        )
    sizes: dict[str, Any] = {
        "image_size": image_size,
        "channels": channels,
        "classes": classes,
        "input_shape": shape,
        "options": console.settings(options or ()),
    }
    if rows:
        for name in names:
            _bounds(name, sizes, batch, dtype or "fp32", threads, train=train, as_json=as_json)
        return
    from convatlas.cli import speed

    wanted = speed.Wanted(
        batch=batch,
        train=train,
        data=data,
        against=tuple(peer.value for peer in against or ()),
        peer_amp=peer_amp,
        rounds=rounds,
        starts=starts,
        seconds=SECONDS if seconds is None else seconds,
        dtype=dtype,
        channels_last=channels_last,
        recompute=recompute,
        threads=threads,
        **sizes,
    )
    results: list[Any] = []
    for name in names:
        results.append(speed.compare(name, wanted, console.say))
        if not as_json:
            speed.show(results[-1])
    if as_json:
        console.write_json(speed.told(results))


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


# --- what bounds each layer -------------------------------------------------------------------------------


def _bounds(
    name: str,
    sizes: Mapping[str, Any],
    batch: int,
    dtype: str,
    threads: int | None,
    *,
    train: bool,
    as_json: bool,
) -> None:
    """The table of what bounds each layer."""
    from convatlas.measure import roofline_table
    from convatlas.measure.roof import kept_roof
    from convatlas.measure.roofline import roofline
    from convatlas.measure.timing import threads_set

    found = target.resolve(name, **sizes)
    with threads_set(threads):
        line = roofline(found.model, kept_roof(), found.input_shape, batch=batch, dtype=dtype, train=train)
    if as_json:
        console.write_json({"name": found.name, "input_shape": list(found.input_shape), **line.to_json()})
        return
    console.show(console.table(roofline_table.HEADER, roofline_table.cells(line)))
    console.show("")
    for sentence in roofline_table.sentences(line):
        console.show(sentence)
