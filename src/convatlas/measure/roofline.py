"""What bounds a network on this machine: arithmetic, or the memory that feeds it.

The roofline (Williams, Waterman & Patterson, "Roofline", 2009): a row of the network does its multiply-adds no
faster than the processor can, and moves its bytes no faster than the memory can, so it takes at least the longer of
two times. Its arithmetic intensity, floating-point operations per byte moved, says which: above the machine's ridge
point arithmetic bounds it, below it memory does.

- A multiply-add is two floating-point operations, as everywhere in this literature.
- A row moves its inputs, its weights and its output once, to and from the memory: images' tensors once an image,
  weights once a batch. An operation that only looks at a tensor in another shape moves nothing.
- What a row finds in a cache is charged all the same, since how much that is depends on the machine. So a small network
  at batch 1 can be quicker than its memory bound. The arithmetic bound holds for every kernel that makes the products
  that are counted; Winograd's makes fewer.

What the machine can do is measured by `measure.roof`; all here is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convatlas.errors import UsageError, did_you_mean
from convatlas.measure.cost import Row
from convatlas.measure.operations import macs
from convatlas.measure.roof import Roof
from convatlas.measure.trace import Inputs, Op, Trace, memory_of, trace
from convatlas.measure.words import kind, row_name

ITEM_BYTES = {"fp32": 4, "bf16": 2}
BACKWARD = (
    2  # the backward pass makes the products of the forward pass twice: for the inputs, and for the weights
)


@dataclass(frozen=True, slots=True)
class Work:
    """What one row has to do: multiply-adds of one image, and the numbers that it moves.

    `per_image` numbers depend on the image (inputs, outputs), `per_batch` do not (weights and what is made of them).
    """

    name: str
    kind: str
    macs: int
    per_image: int
    per_batch: int

    def bytes_moved(self, batch: int = 1, dtype: str = "fp32") -> int:
        """Bytes to and from memory for a batch."""
        return (self.per_image * batch + self.per_batch) * ITEM_BYTES[dtype]

    def intensity(self, batch: int = 1, dtype: str = "fp32") -> float:
        """Floating-point operations per byte moved; 0 for a row without multiply-adds."""
        moved = self.bytes_moved(batch, dtype)
        return 2 * self.macs * batch / moved if moved else 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """One row under a machine's roof: seconds that its arithmetic and its memory traffic take at least."""

    work: Work
    intensity: float
    arithmetic_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The row takes at least so long."""
        return max(self.arithmetic_seconds, self.memory_seconds)

    @property
    def by(self) -> str:
        """What bounds it: "arithmetic" or "memory"."""
        return "arithmetic" if self.arithmetic_seconds > self.memory_seconds else "memory"


@dataclass(frozen=True, slots=True)
class Roofline:
    """Every row of a network under a machine's roof, for a batch and a dtype."""

    bounds: tuple[Bound, ...]
    roof: Roof
    batch: int
    dtype: str
    train: bool

    @property
    def seconds(self) -> float:
        """The sum of the rows' bounds: a batch takes at least so long if every row goes through the memory."""
        return sum(bound.seconds for bound in self.bounds)

    @property
    def arithmetic_seconds(self) -> float:
        """The arithmetic alone, as if memory cost nothing."""
        return sum(bound.arithmetic_seconds for bound in self.bounds)

    @property
    def memory_seconds(self) -> float:
        """The memory traffic alone, as if arithmetic cost nothing."""
        return sum(bound.memory_seconds for bound in self.bounds)

    @property
    def memory_bound_share(self) -> float:
        """The share of `seconds` in rows that memory bounds."""
        return sum(bound.seconds for bound in self.bounds if bound.by == "memory") / (self.seconds or 1.0)

    def to_json(self) -> dict[str, Any]:
        """Totals and rows as plain values."""
        return {
            "batch": self.batch,
            "dtype": self.dtype,
            "train": self.train,
            "seconds": self.seconds,
            "arithmetic_seconds": self.arithmetic_seconds,
            "memory_seconds": self.memory_seconds,
            "memory_bound_share": self.memory_bound_share,
            "ridge_flop_per_byte": self.roof.ridge(self.dtype),
            "rows": [
                {
                    "name": bound.work.name,
                    "kind": bound.work.kind,
                    "macs": bound.work.macs * self.batch,
                    "bytes_moved": bound.work.bytes_moved(self.batch, self.dtype),
                    "intensity_flop_per_byte": bound.intensity,
                    "bound_by": bound.by,
                    "seconds": bound.seconds,
                }
                for bound in self.bounds
            ],
        }


def roofline(
    network: nn.Module | Sequence[Work],
    roof: Roof,
    input_shape: Inputs = (3, 224, 224),
    *,
    batch: int = 1,
    dtype: str = "fp32",
    train: bool = False,
) -> Roofline:
    """The least time of every row on a machine with that roof.

    `network` is any module, traced for one image of `input_shape` (C, H, W), or what `work` gave. A training step is
    counted as three times the arithmetic and the traffic of the forward pass: backward makes the same products for
    the inputs and for the weights. The optimiser's update is not counted.

    Raises `UsageError` for an unknown dtype, or a network that cannot be traced with such images.
    """
    if dtype not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise UsageError(f"there is no dtype {dtype!r}.{did_you_mean(dtype, ITEM_BYTES)} Known: {known}.")
    if batch < 1:
        raise UsageError(f"a batch has at least one image, not {batch}.")
    rows = work(trace(network, input_shape)) if isinstance(network, nn.Module) else network
    times = 1 + BACKWARD if train else 1
    peak, bandwidth = roof.peak_macs(dtype), roof.bandwidth
    bounds = tuple(
        Bound(
            row,
            row.intensity(batch, dtype),
            times * row.macs * batch / peak,
            times * row.bytes_moved(batch, dtype) / bandwidth,
        )
        for row in rows
    )
    return Roofline(bounds, roof, batch, dtype, train)


# --- what a trace moves ---------------------------------------------------------------------------------


def work(traced: Trace) -> list[Work]:
    """A row for every call that computes or moves something, in the order of the calls.

    The names are those of `measure`; here every operation between modules has a row, also those that `measure`
    leaves out since they store nothing.
    """
    moving = {
        memory_of(tensor) for tensor in traced.inputs
    }  # the storages whose content depends on the image
    rows: list[Work] = []
    for call in traced.calls:
        per_image = per_batch = 0
        for op in call.ops:
            if any(memory_of(tensor) in moving for tensor in op.inputs):
                moving |= {memory_of(tensor) for tensor in op.outputs}
            for tensor in _moved(op):
                if memory_of(tensor) in moving:
                    per_image += _numbers(tensor)
                else:
                    per_batch += _numbers(tensor)
        name = row_name(call) or call.class_name
        row = Work(name, kind(call), sum(macs(op) for op in call.ops), per_image, per_batch)
        if row.macs or row.per_image or row.per_batch:
            rows.append(row)
    return rows


def _moved(op: Op) -> list[Tensor]:
    """The tensors that an operation reads and writes; none if its output is a view of an input.

    Whole numbers are left out: the indices of a maximum pool are written, but nobody reads them.
    """
    read = {id(tensor): tensor for tensor in op.inputs}
    storages = {memory_of(tensor) for tensor in op.inputs}
    written = [tensor for tensor in op.outputs if id(tensor) in read or memory_of(tensor) not in storages]
    if not written:
        return []
    return [tensor for tensor in (*read.values(), *written) if tensor.is_floating_point()]


def _numbers(tensor: Tensor) -> int:
    """The different numbers of a tensor: one that is expanded repeats them without storing."""
    return math.prod(size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def beside(rows: Sequence[Row], roofline: Roofline) -> list[Bound | None]:
    """For every row of a `Measurement` of the same network its bound: None for the image, and for unused weights.

    Both come in the order of the calls, so each row takes the next bound of its own name and kind.
    """
    waiting: dict[tuple[str, str], list[Bound]] = {}
    for bound in roofline.bounds:
        waiting.setdefault((_place(bound.work.name), bound.work.kind), []).append(bound)
    return [queue.pop(0) if (queue := waiting.get((_place(row.name), row.kind))) else None for row in rows]


def _place(name: str) -> str:
    """The module of a row, without the operation in brackets."""
    return name.rpartition(" (")[0] if name.endswith(")") else name
