"""Layer after layer: how large each map is, and how much of the image one of its numbers sees.

A number of a map sees `field` pixels of the image; its neighbour sees as many, `jump` pixels further on. A layer
whose kernel spans k_eff adds (k_eff - 1) steps of the jump before it, and its stride multiplies the jump:

    field += (k_eff - 1) jump,    start -= padding * jump,    jump *= stride

`start` is the first pixel that the first number sees, negative where it begins in the padding. This is the walk of a
chain, done by hand; for networks with branches see `convatlas.measure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.output_size import (
    Operation,
    OutputSize,
    conv_size,
    effective_kernel,
    pool_size,
    transposed_size,
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer along one axis. `ceil` is for pooling, `output_padding` for transposed convolutions."""

    operation: Operation
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False
    output_padding: int = 0

    def of(self, width: int) -> OutputSize:
        """What it makes of `width` pixels."""
        k, s, p, d = self.kernel, self.stride, self.padding, self.dilation
        if self.operation == "conv":
            return conv_size(width, k, stride=s, padding=p, dilation=d)
        if self.operation == "pool":
            return pool_size(width, k, stride=s, padding=p, dilation=d, ceil=self.ceil)
        return transposed_size(width, k, stride=s, padding=p, dilation=d, output_padding=self.output_padding)

    def __str__(self) -> str:
        """As tables print it: "conv 3/2, p 1"."""
        parts = [f"{self.operation} {self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")]
        parts += [
            f"{letter} {n}"
            for letter, n, usual in (("p", self.padding, 0), ("d", self.dilation, 1))
            if n != usual
        ]
        return ", ".join(parts)


def conv(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Layer:
    """A convolution."""
    return Layer("conv", kernel, stride, padding, dilation)


def pool(kernel: int, stride: int | None = None, padding: int = 0, *, ceil: bool = False) -> Layer:
    """A pooling; its stride is its kernel unless given."""
    return Layer("pool", kernel, kernel if stride is None else stride, padding, ceil=ceil)


def transposed(kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0) -> Layer:
    """A transposed convolution."""
    return Layer("transposed conv", kernel, stride, padding, output_padding=output_padding)


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer gives: pixels of its map, and what a number of it sees of the image, in pixels of the image.

    After transposed convolutions `jump` and `start` may be fractions. `output` is the size in detail, None in the
    row of the image.
    """

    layer: str
    size: int
    field: int | Fraction
    jump: int | Fraction
    start: int | Fraction
    output: OutputSize | None = None

    @property
    def centre(self) -> Fraction:
        """The middle of what the first number sees; pixel 0 has its middle at 0."""
        return Fraction(self.start) + Fraction(self.field - 1) / 2


def walk(width: int, layers: Sequence[Layer]) -> tuple[Step, ...]:
    """One row for the image of `width` pixels, then one for each layer.

    Raises `UsageError` that names the layer where the map has become too small.

    Examples:
        >>> steps = walk(28, [conv(3, padding=1), conv(3, padding=1), conv(4, 2, padding=1), conv(5, 2, padding=1)])
        >>> [step.size for step in steps], [step.field for step in steps]
        ([28, 28, 28, 14, 6], [1, 3, 5, 8, 16])
    """
    steps = [Step("image", width, 1, 1, 0)]
    for number, layer in enumerate(layers, start=1):
        before = steps[-1]
        try:
            output = layer.of(before.size)
        except UsageError as error:
            raise UsageError(f"layer {number} ({layer}): {error}") from None
        taps, first = _reach(layer)
        jump = (
            Fraction(before.jump) / layer.stride
            if layer.operation == "transposed conv"
            else before.jump * layer.stride
        )
        steps.append(
            Step(
                str(layer),
                output.size,
                _whole(before.field + taps * before.jump),
                _whole(jump),
                _whole(before.start + first * before.jump),
                output,
            )
        )
    return tuple(steps)


def receptive_fields(layers: Iterable[tuple[int, int]]) -> list[int]:
    """Pixels of the image that one number sees after each layer of (kernel, stride), whatever the image.

    Examples:
        >>> receptive_fields([(3, 1), (3, 1), (2, 2), (5, 1)])
        [3, 5, 6, 14]
    """
    field, jump, found = 1, 1, list[int]()
    for kernel, stride in layers:
        field, jump = field + (kernel - 1) * jump, jump * stride
        found.append(field)
    return found


def table(steps: Sequence[Step]) -> str:
    """The rows as Markdown.

    Examples:
        >>> print(table(walk(28, [conv(3), pool(2)])))
        | layer | size | field | jump | start |
        |---|---:|---:|---:|---:|
        | image | 28 | 1 | 1 | 0 |
        | conv 3 | 26 | 3 | 1 | 0 |
        | pool 2/2 | 13 | 4 | 2 | 0 |
    """
    lines = ["| layer | size | field | jump | start |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {s.layer} | {s.size} | {s.field} | {s.jump} | {s.start} |" for s in steps]
    return "\n".join(lines)


def _reach(layer: Layer) -> tuple[int, int]:
    """How many steps of its input one number of a layer spans, beyond the first; and where the first begins."""
    if layer.operation != "transposed conv":
        return effective_kernel(layer.kernel, layer.dilation) - 1, -layer.padding
    # Output o takes input i wherever o = s i + d t - p for a tap t. The offsets repeat with period s.
    spans: list[int] = []
    starts: list[int] = []
    for o in range(layer.stride):
        taken = [
            (o + layer.padding - layer.dilation * t) // layer.stride
            for t in range(layer.kernel)
            if (o + layer.padding - layer.dilation * t) % layer.stride == 0
        ]
        if taken:
            spans.append(max(taken) - min(taken))
            starts.append(min(taken))
    return max(spans), min(starts)


def _whole(number: int | Fraction) -> int | Fraction:
    """A whole number as such."""
    number = Fraction(number)
    return int(number) if number.denominator == 1 else number
