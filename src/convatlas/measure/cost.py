"""What a network costs: parameters, multiply-adds and stored activations, row by row.

Conventions, the same everywhere in convatlas:

- **Parameters** are counted once, in the row that first uses them; buffers (BatchNorm's statistics) are none.
- **MACs** are the multiply-adds of convolutions, transposed convolutions and matrix products for one
  image. Biases, normalisation, activation functions and pooling are *other operations*, counted apart; see
  `operations.py`. A figure named FLOPs elsewhere is often this one, sometimes twice it.
- **Not known** is what neither list has; then every sum is a lower bound, and says so.
- **Activations** are the numbers that must be kept: the image and the output of every row, except rows
  that can overwrite their input (activation functions, normalisation, dropout, reshaping, the addition of a
  shortcut) or look at a part of it. It is the ledger of the lectures: input + conv + pool + fc, 15.24 M for
  VGG-16, and it does not depend on whether a ReLU was written `inplace`, or as a function.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convatlas.measure.operations import is_known, is_pool, macs, makes_numbers, operations
from convatlas.measure.receptive import Field, fields
from convatlas.measure.trace import Call, Inputs, Op, memory_of, trace
from convatlas.measure.words import kind, row_name

UNUSED = "unused in evaluation"


@dataclass(frozen=True, slots=True)
class Row:
    """One call of a leaf module, or one operation between such calls ("layer1.0 (add)").

    `output_shape` has no batch dimension. `activations` counts the numbers stored: 0 where the row can
    overwrite its input. `params` is 0 for weights that an earlier row has counted; `trainable` are those of them
    that are not frozen. `operations` counts what is no multiply-add, `unknown` names what nobody can count. `field` is
    what each unit sees of the image, None where that is no image.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int
    activation_bytes: int
    trainable: int = 0
    operations: int = 0
    field: Field | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """The rows in call order, the image first, and their sums. `input_shape` is (C, H, W)."""

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def params(self) -> int:
        """Parameters, shared ones once, with those that evaluation does not use."""
        return sum(row.params for row in self.rows)

    @property
    def unused_params(self) -> int:
        """Those that evaluation does not use, such as the ones of auxiliary heads."""
        return sum(row.params for row in self.rows if row.kind == UNUSED)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def trainable(self) -> int:
        """Parameters that are not frozen."""
        return sum(row.trainable for row in self.rows)

    @property
    def operations(self) -> int:
        """Operations for one image that are no multiply-adds."""
        return sum(row.operations for row in self.rows)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Operations that nobody can count; with one, `macs` and `operations` are lower bounds."""
        return tuple(sorted({name for row in self.rows for name in row.unknown}))

    @property
    def field(self) -> Field | None:
        """The receptive field of the last row that sees part of the image, not all of it."""
        local = (row.field for row in reversed(self.rows) if row.field and not row.field.is_global)
        return next(local, None)

    @property
    def activations(self) -> int:
        """Numbers stored in a forward pass of one image, the image among them."""
        return sum(row.activations for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of `activations` in the network's own precision."""
        return sum(row.activation_bytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Totals and rows as plain values."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "params": self.params,
            "trainable": self.trainable,
            "unused_params": self.unused_params,
            "macs": self.macs,
            "operations": self.operations,
            "unknown": list(self.unknown),
            "field": _told(self.field),
            "activations": self.activations,
            "activation_bytes": self.activation_bytes,
            "rows": [_plain(row) for row in self.rows],
        }


def _plain(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in Row.__slots__}
    return values | {
        "output_shape": list(row.output_shape),
        "field": _told(row.field),
        "unknown": list(row.unknown),
    }


def _told(field: Field | None) -> dict[str, Any] | None:
    """A field as plain values. Units that see nothing, between the strides of a transposed convolution, have no
    centre; JSON has no word for that but null.
    """
    if field is None:
        return None
    told = field.to_json()
    centre: list[float | None] = told["centre"]
    return told | {"centre": [None if place != place else place for place in centre]}


def measure(model: nn.Module, input_shape: Inputs = (3, 224, 224)) -> Measurement:
    """Cost and receptive fields of any network for one image of `input_shape` (C, H, W), in evaluation mode.

    Signals (C, L) and volumes (C, D, H, W) are measured alike; for a network with several arguments `input_shape` is a
    list of shapes, or of tensors with a batch where the type matters; a tensor alone is a batch of one, such as the
    tokens `torch.zeros(1, 12, dtype=torch.long)`. Nothing is computed: the pass runs on the meta device, and the
    network is given back as it was. Raises `UsageError` if the
    network does not take such an image.

    Examples:
        >>> from torch import nn
        >>> lenet_c1 = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2))
        >>> cost = measure(lenet_c1, (1, 32, 32))
        >>> cost.params, cost.macs, cost.activations
        (156, 117600, 6904)
        >>> [(row.name, row.kind, row.output_shape) for row in cost.rows][1:]
        [('0', 'conv 5x5, 6', (6, 28, 28)), ('1', 'ReLU', (6, 28, 28)), ('2', 'avg pool 2x2/2', (6, 14, 14))]
        >>> cost.operations, str(cost.field)
        (14112, '6')
    """
    with _uncollected():
        return _measured(model, input_shape)


@contextmanager
def _uncollected() -> Generator[None]:
    """A report makes many objects and hardly a cycle; a collection meanwhile would look through all that is loaded."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _measured(model: nn.Module, input_shape: Inputs) -> Measurement:
    traced = trace(model, input_shape)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    rows = [_row("input", "image", [traced.image], [traced.image], [])]
    for call, field in zip(traced.calls, fields(traced), strict=True):
        if not _is_shown(call):
            continue
        name = row_name(call) or type(model).__name__
        trainable = sum(size for each, size in call.params.items() if each not in frozen)
        params = sum(call.params.values())
        rows.append(_row(name, kind(call), call.outputs, _kept(call), call.ops, params, trainable, field))
    for name, size in traced.unused.items():
        rows.append(Row(name, UNUSED, (), size, 0, 0, 0, trainable=0 if name in frozen else size))
    shape = tuple(traced.image.shape[1:])
    return Measurement(type(model).__name__, shape, tuple(rows))


def _is_shown(call: Call) -> bool:
    """Modules, but an identity; and operations between them, but those that only rearrange and copy."""
    if call.module is not None:
        return bool(call.ops) or not isinstance(call.module, nn.Identity)
    return bool(call.params) or makes_numbers(call.ops[0])


def _row(
    name: str,
    kind: str,
    outputs: Sequence[Tensor],
    kept: Sequence[Tensor],
    ops: list[Op],
    params: int = 0,
    trainable: int = 0,
    field: Field | None = None,
) -> Row:
    return Row(
        name=name,
        kind=kind,
        output_shape=tuple(outputs[0].shape[1:]) if outputs else (),
        params=params,
        macs=sum(macs(op) for op in ops),
        activations=sum(tensor.numel() for tensor in kept),
        activation_bytes=sum(tensor.numel() * tensor.element_size() for tensor in kept),
        trainable=trainable,
        operations=sum(operations(op) for op in ops),
        field=field,
        unknown=tuple(sorted({op.name for op in ops if not is_known(op)})),
    )


def _kept(call: Call) -> list[Tensor]:
    """The outputs that need memory of their own; see this file's head. Of an operation the first: the places of maxima
    are read by nobody.
    """
    given = {memory_of(tensor) for tensor in call.inputs}
    outputs = call.outputs if call.module is not None else call.outputs[:1]
    own = [tensor for tensor in outputs if memory_of(tensor) not in given]
    if not any(macs(op) or (is_pool(op) and "adaptive" not in op.name) for op in call.ops):
        # an adaptive pool to the size that its input has already is the identity
        sizes = {tensor.numel() for tensor in call.inputs}
        own = [tensor for tensor in own if tensor.numel() not in sizes]
    return list({(memory_of(tensor), tensor.storage_offset()): tensor for tensor in own}.values())
