"""What the units of a map see of the image: size, stride and place along every axis."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from convatlas.measure.span import Span


@dataclass(frozen=True, slots=True)
class Field:
    """What the units of a map see of the image, an axis after the other (height, width).

    Attributes:
        spans: by axis; None where a unit sees all of the axis.
        besides: the whole image is seen too, through a gate or a normalisation.
        apart: pixels between the centres of the branches that were joined here; 0 where they are aligned.
        unknown: the operation that no rule knows, "" if all were known.
    """

    spans: tuple[Span | None, ...]
    besides: bool = False
    apart: float = 0.0
    unknown: str = ""

    @property
    def is_global(self) -> bool:
        """Whether nothing local is left."""
        return not self.unknown and all(span is None for span in self.spans)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Pixels by axis; None for all."""
        return tuple(span.size if span else None for span in self.spans)

    @property
    def stride(self) -> tuple[Fraction | None, ...]:
        """Pixels from unit to unit, by axis: the product of the strides so far."""
        return tuple(span.stride if span else None for span in self.spans)

    @property
    def centre(self) -> tuple[float | None, ...]:
        """The middle of what unit 0 sees, by axis, in pixels; 0 is the middle of the first pixel."""
        return tuple(span.centre if span else None for span in self.spans)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "size": list(self.size),
            "stride": [None if step is None else float(step) for step in self.stride],
            "centre": list(self.centre),
            "global_besides": self.besides,
            "misaligned_pixels": self.apart,
            "unknown": self.unknown or None,
        }

    def __str__(self) -> str:
        """As a table shows it: "212", "7 x 1", "global", "35 + global", or "?"."""
        if self.unknown:
            return "?"
        if self.is_global:
            return "global"
        sizes = ["all" if size is None else str(size) for size in self.size]
        text = sizes[0] if len(set(sizes)) == 1 else " x ".join(sizes)
        return f"{text} + global" if self.besides else text
