"""A roofline in words: what each row computes and moves, which of the two bounds it, and how long it takes at least."""

from __future__ import annotations

from convatlas.measure.roofline import Bound, Roofline
from convatlas.measure.table import bytes_text

HEADER = ("layer", "what", "MACs", "moved", "FLOP/byte", "bound by", "at least us")


def cells(line: Roofline) -> list[tuple[str, ...]]:
    """A list of words for every row in the order of `HEADER`, the sums last; times in microseconds."""
    moved = sum(bound.work.bytes_moved(line.batch, line.dtype) for bound in line.bounds)
    macs = sum(bound.work.macs for bound in line.bounds) * line.batch
    whole = f"{2 * macs / moved:.1f}" if moved else ""
    total = ("total", "", f"{macs:,}", bytes_text(moved), whole, "", f"{line.seconds * 1e6:,.1f}")
    return [*(_cells(bound, line) for bound in line.bounds), total]


def _cells(bound: Bound, line: Roofline) -> tuple[str, ...]:
    row = bound.work
    return (
        row.name,
        row.kind,
        f"{row.macs * line.batch:,}" if row.macs else "",
        bytes_text(row.bytes_moved(line.batch, line.dtype)),
        f"{bound.intensity:.1f}" if row.macs else "",
        bound.by,
        f"{bound.seconds * 1e6:,.1f}",
    )


def sentences(line: Roofline) -> list[str]:
    """What the machine can do, and what that makes of the network."""
    roof = line.roof
    what = "A training step" if line.train else "A forward pass"
    images = "1 image" if line.batch == 1 else f"{line.batch} images"
    return [
        f"{roof.machine.get('processor')} with {roof.machine.get('threads')} threads, measured {roof.measured}: "
        f"{roof.peak_macs(line.dtype) / 1e9:.3g} G multiply-adds/s in {line.dtype}, {roof.bandwidth / 1e9:.3g} GB/s; "
        f"above {roof.ridge(line.dtype):.3g} FLOP/byte arithmetic is the limit.",
        f"{what} of {images} takes at least {line.seconds * 1e3:.4g} ms, {line.memory_bound_share:.0%} of it in rows "
        f"that memory bounds; its arithmetic alone {line.arithmetic_seconds * 1e3:.4g} ms.",
    ]
