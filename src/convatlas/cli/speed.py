"""A network's speed, ours beside peers': the sides of `convatlas bench NAME` put together, run and told."""

from __future__ import annotations

import math
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from convatlas.cli import console, target
from convatlas.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from convatlas.bench.cell import Cell
    from convatlas.bench.pool import Side
    from convatlas.bench.race import Laps
    from convatlas.bench.result import Result

CEILING_SECONDS = 8.0  # of measuring the machine before a comparison
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a command asks for; None where it says nothing."""

    batch: int
    train: bool
    data: str
    against: tuple[str, ...]
    peer_amp: bool
    rounds: int
    seconds: float
    starts: int = 1
    image_size: int | None = None
    channels: int | None = None
    classes: int | None = None
    input_shape: target.Shape | None = None
    options: Mapping[str, Any] | None = None
    dtype: str | None = None
    channels_last: bool | None = None
    recompute: bool = False
    threads: int | None = None


def compare(name: str, wanted: Wanted, say: Say) -> Result:
    """Measure the machine, then run our side and the peers in turn.

    Raises `UsageError` and `DataError` for what can be known to be wrong before anything is timed.
    """
    from convatlas.bench.race import joined
    from convatlas.bench.result import Result
    from convatlas.measure.roof import measure_roof
    from convatlas.measure.timing import threads_set

    _check(wanted)
    with _terminable(), tempfile.TemporaryDirectory(prefix="convatlas-bench-") as folder:
        cell, found = _cell(name, wanted, Path(folder))
        with threads_set(wanted.threads):
            roof = measure_roof(min(CEILING_SECONDS, wanted.seconds), say)
        laps = joined([_raced(cell, wanted, Path(folder), say) for _ in range(wanted.starts)])
        dtype = "bf16" if "bf16" in laps.facts["convatlas"].get("precision", "") else "fp32"
        return Result(cell, laps, roof, _bound(found, cell, roof, dtype))


@contextmanager
def _terminable() -> Generator[None]:
    """Within it SIGTERM is an exception, so that no side and no folder is left behind."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted("stopped by SIGTERM; nothing was measured.", 143)

    before = (
        signal.signal(signal.SIGTERM, end) if threading.current_thread() is threading.main_thread() else None
    )
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _check(wanted: Wanted) -> None:
    from convatlas.bench.peers import needed

    for peer in wanted.against:
        needed(peer)
    if len(set(wanted.against)) < len(wanted.against):
        raise UsageError(f"--against names a peer twice: {', '.join(wanted.against)}.")
    if wanted.peer_amp and not wanted.against:
        raise UsageError("--peer-amp is for peers; name one with --against.")


def _cell(name: str, wanted: Wanted, folder: Path) -> tuple[Cell, target.Target]:
    """The cell, and the network without content."""
    from convatlas.bench import pictures
    from convatlas.bench.cell import SYNTHETIC, Cell
    from convatlas.measure.trace import trace

    cell = Cell(
        name,
        (),
        1,
        wanted.batch,
        wanted.train,
        data=wanted.data,
        peer_amp=wanted.peer_amp,
        dtype=wanted.dtype,
        channels_last=wanted.channels_last,
        recompute=wanted.recompute,
        threads=wanted.threads,
    )
    channels, classes = wanted.channels, wanted.classes
    if wanted.data != SYNTHETIC:
        from convatlas.data import open_data

        data = open_data(wanted.data, seed=0)
        channels = None if wanted.input_shape else channels or data.channels
        classes = len(data.classes)
        if wanted.batch > len(data.train):
            raise UsageError(
                f"--batch {wanted.batch} is more than the {len(data.train)} training images of {data.where}."
            )
        cell = replace(
            cell,
            held=pictures.held(data, folder / "held.npz") if wanted.against else "",
            augmentation=pictures.augmentation(data),
        )
    options = dict(wanted.options or {})
    if channels is not None and channels == target.resolve(name, options=options).input_shape[0]:
        channels = None  # its own; some networks cannot be given others
    wish: dict[str, Any] = {
        "image_size": wanted.image_size,
        "channels": channels,
        "classes": classes,
        "input_shape": wanted.input_shape,
        "options": options,
    }
    found = target.resolve(name, **wish)
    if wanted.train and len(found.input_shape) != 3:
        raise UsageError(f"{name} takes {found.input_shape}; a training is timed for images (C, H, W) alone.")
    if wanted.train:
        outputs = _outputs(found, found.input_shape, wanted.against)
    else:
        outputs = classes or 1
        trace(found.model, found.input_shape)  # says what it does not take, before anything is timed
    if wanted.data != SYNTHETIC and outputs != classes:
        raise UsageError(f"{name} has {outputs} outputs, and {wanted.data} has {classes} classes.")
    return replace(cell, shape=found.input_shape, classes=outputs, wish=wish), found


def _outputs(found: target.Target, shape: target.Shape, against: Sequence[str]) -> int:
    """K of the logits (N, K) that the network gives while it trains.

    Raises `UsageError` where it gives something else, of which the loops of this benchmark take no loss.
    """
    import torch
    from torch import Tensor

    from convatlas.models.classifier import WithAuxiliary

    try:
        output: Any = deepcopy(found.model).to("meta").train()(torch.empty(2, *shape, device="meta"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(f"{found.name} cannot be trained on images of {shape}: {error}") from error
    if isinstance(output, WithAuxiliary) and not against:
        output = output.logits
    if not isinstance(output, Tensor) or output.dim() != 2:
        what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UsageError(
            f"{found.name} gives {what} while it trains; logits (N, K) are what the loops of this benchmark take."
        )
    return output.shape[1]


def _raced(cell: Cell, wanted: Wanted, folder: Path, say: Say) -> Laps:
    """One race of processes that are started for it."""
    from convatlas.bench.race import BLOCK_SECONDS, race

    seconds = wanted.seconds / wanted.starts
    with ExitStack() as stack:
        sides: list[Side] = []
        for side in ("convatlas", *wanted.against):
            say(f"starting {side}")
            sides.append(_started(side, cell, folder))
            stack.callback(sides[-1].close)
        return race(
            sides,
            rounds=math.ceil(wanted.rounds / wanted.starts),
            seconds=seconds * len(sides),
            block_seconds=min(BLOCK_SECONDS, seconds / 4),
            say=say,
        )


def _started(side: str, cell: Cell, folder: Path) -> Side:
    from convatlas.bench.cell import OURS
    from convatlas.bench.pool import Side, given_environment

    own = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=folder))
    task = {"side": side, "cell": cell.to_json(), "folder": str(own)}
    command = ["-m", "convatlas", "bench", "--side"] if side == OURS else ["-m", "convatlas.cli.side"]
    return Side(side, [sys.executable, *command], task, given_environment())


def _bound(found: target.Target, cell: Cell, roof: Any, dtype: str) -> Any:
    from convatlas.measure.roofline import roofline

    return roofline(found.model, roof, found.input_shape, batch=cell.batch, dtype=dtype, train=cell.train)


# --- telling --------------------------------------------------------------------------------------------


def show(result: Result) -> None:
    """The cell in a line, a row for each side, and what the machine leaves."""
    cell = result.cell
    what = "training step" if cell.train else "inference"
    shape = " x ".join(map(str, cell.shape))
    data = "noise" if cell.synthetic else cell.data
    settings = "".join(f" {name}={value}" for name, value in cell.wish.get("options", {}).items())
    console.show(f"{cell.network}{settings}: {what} of {cell.batch} x {shape}, {data}")
    header = ("side", "images/s", "quartiles", "latency ms", "peak MiB", "blocks", "dropped")
    if result.ratios:
        header = (*header, "ours is", "95 % interval")
    console.show(console.table(header, [_row(result, name) for name in result.rates]))
    for sentence in sentences(result):
        console.show(sentence)


def _row(result: Result, name: str) -> tuple[object, ...]:
    rate, peak = result.rates[name], result.peak_bytes(name)
    row: tuple[object, ...] = (
        name,
        f"{rate.median:.4g}",
        f"{rate.low:.4g} to {rate.high:.4g}",
        f"{1e3 * result.cell.batch / rate.median:.4g}",
        f"{peak / 2**20:.0f}" if peak is not None else "",
        rate.blocks,
        rate.dropped,
    )
    if result.ratios:
        ratio = result.ratios.get(name)
        row += (f"{ratio.ratio:.2f} x", f"{ratio.low:.2f} to {ratio.high:.2f}") if ratio else ("", "")
    return row


def sentences(result: Result) -> list[str]:
    """How each side computes, what bounds the step, and what disturbed it."""
    each = (
        f"{name} {' '.join(str(facts[word]) for word in ('precision', 'layout') if word in facts)}"
        for name, facts in result.laps.facts.items()
    )
    told = [f"Computed: {'; '.join(each)}."]
    bound, reached = result.bound, result.reached
    if bound is not None and reached is not None:
        told.append(
            f"Roofline of {bound.seconds * 1e3:.4g} ms in {bound.dtype}, {bound.memory_bound_share:.0%} of it in rows "
            f"that memory bounds: {reached:.0%} reached; {result.arithmetic_reached:.0%} of the machine's "
            f"{bound.roof.peak_macs(bound.dtype) / 1e9:.3g} G multiply-adds/s, measured in this run."
        )
    if not result.laps.quiet:
        told.append(
            "The machine was busy: no block of some side was undisturbed, and its figures are of disturbed ones."
        )
    return told


def told(results: Sequence[Result]) -> Mapping[str, Any] | list[Mapping[str, Any]]:
    """The JSON of one result, or a list of several."""
    return results[0].to_json() if len(results) == 1 else [result.to_json() for result in results]
