"""What the units of a map see along one axis, exactly: intervals of pixels that repeat with a period.

In a chain of convolutions unit i sees the pixels from `low + i * stride` to `high + i * stride`. Behind an upsampling
the units of one map differ by their phase, so a `Span` keeps one interval for each phase of a period:

    unit i of phase f = i mod p sees lows[f] + advance * (i // p)  to  highs[f] + advance * (i // p)

Every layer that moves a window is one operation on it, `slide`; branches that meet are the other, `union`.
Borders are left out: the interval is that of a unit far from them, and may reach beyond the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf, lcm

NOTHING = (inf, -inf)  # the interval of a unit that sees no pixel


@dataclass(frozen=True, slots=True)
class Span:
    """Intervals of pixels by phase; see the head of this file. The first pixel of the image is 0."""

    advance: int
    lows: tuple[float, ...]
    highs: tuple[float, ...]

    @property
    def period(self) -> int:
        """Units after which the same intervals come again, `advance` pixels further."""
        return len(self.lows)

    @property
    def size(self) -> int:
        """Pixels from the first to the last that a unit sees; of the phase that sees most."""
        return int(max(0, *(high - low + 1 for low, high in zip(self.lows, self.highs, strict=True))))

    @property
    def stride(self) -> Fraction:
        """Pixels from unit to unit."""
        return Fraction(self.advance, self.period)

    @property
    def centre(self) -> float:
        """The middle of what unit 0 sees, in pixels: -0.5 is the left edge of the image."""
        return (self.lows[0] + self.highs[0]) / 2

    def of(self, unit: int) -> tuple[float, float]:
        """First and last pixel that a unit sees."""
        periods, phase = divmod(unit, self.period)
        return self.lows[phase] + self.advance * periods, self.highs[phase] + self.advance * periods

    def slide(self, windows: Sequence[Sequence[int]], step: int = 1) -> Span:
        """The span of units that see several of ours: unit i of phase f = i mod len(windows) sees the units
        `windows[f]`, moved by `step` for each period gone.

        Examples:
            >>> PIXELS.slide([range(-1, 2)])  # a 3x3 convolution with padding 1
            Span(advance=1, lows=(-1,), highs=(1,))
            >>> _.slide([range(2)], step=2).size, PIXELS.slide([[0], [0]]).stride  # pooled; each pixel twice
            (4, Fraction(1, 2))
        """
        rounds = self.period // gcd(self.period, step)
        intervals = [self._union_of(window, step * turn) for turn in range(rounds) for window in windows]
        advance = self.advance * step * rounds // self.period
        return Span(advance, *zip(*intervals, strict=True)).reduced()

    def _union_of(self, window: Sequence[int], moved: int) -> tuple[float, float]:
        if not window:
            return NOTHING
        if self.period == 1:
            low, high = min(window) + moved, max(window) + moved
            return self.lows[0] + self.advance * low, self.highs[0] + self.advance * high
        seen = [self.of(unit + moved) for unit in window]
        return min(low for low, _ in seen), max(high for _, high in seen)

    def union(self, other: Span) -> Span | None:
        """What units see that see what ours and what the other's see; None if their strides differ."""
        if self == other:
            return self
        if self.period == other.period == 1:
            if self.advance != other.advance:
                return None
            low, high = min(self.lows[0], other.lows[0]), max(self.highs[0], other.highs[0])
            return Span(self.advance, (low,), (high,))
        if self.stride != other.stride:
            return None
        period = lcm(self.period, other.period)
        pairs = [(self.of(unit), other.of(unit)) for unit in range(period)]
        lows = tuple(min(ours[0], theirs[0]) for ours, theirs in pairs)
        highs = tuple(max(ours[1], theirs[1]) for ours, theirs in pairs)
        return Span(self.advance * period // self.period, lows, highs).reduced()

    def apart(self, other: Span) -> float:
        """Pixels between the centres of the same unit in two maps, where that is largest."""
        if self == other:
            return 0.0
        units = range(lcm(self.period, other.period))
        pairs = ((self.of(unit), other.of(unit)) for unit in units)
        return max(
            (abs(sum(ours) - sum(theirs)) / 2 for ours, theirs in pairs if NOTHING not in (ours, theirs)),
            default=0,
        )

    def reduced(self) -> Span:
        """The same with the shortest period."""
        for period in range(1, self.period):
            advance, rest = divmod(self.advance * period, self.period)
            if self.period % period or rest:
                continue
            short = Span(advance, self.lows[:period], self.highs[:period])
            if all(short.of(unit) == self.of(unit) for unit in range(self.period)):
                return short
        return self


PIXELS = Span(1, (0,), (0,))


# --- windows: which units of a map a unit of the next one sees ---------------------------------------------------


def window(kernel: int, padding: int = 0, dilation: int = 1) -> list[list[int]]:
    """Of a convolution or a pool, for `slide` with its stride."""
    return [list(range(-padding, -padding + dilation * (kernel - 1) + 1, dilation))]


def transposed(kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> list[list[int]]:
    """Of a transposed convolution: unit i gets unit j through cell t where i = j * stride - padding + t * dilation."""
    reached = range(padding, padding + stride)
    return [
        sorted((at - t * dilation) // stride for t in range(kernel) if (at - t * dilation) % stride == 0)
        for at in reached
    ]


def interpolated(ratio: Fraction, first: Fraction, around: Sequence[int]) -> tuple[list[list[int]], int]:
    """Windows and step of a map that is read at `first`, and at each next unit `ratio` further: each looks at the units
    `around` the one where it lands, and where it lands exactly and looks at several, at that one alone.

    Examples:
        >>> interpolated(Fraction(1, 2), Fraction(-1, 4), (0, 1))  # twice as large, between two neighbours
        ([[-1, 0], [0, 1]], 1)
    """
    windows: list[list[int]] = []
    for unit in range(ratio.denominator):
        place = first + unit * ratio
        at = place.numerator // place.denominator
        exact = len(around) > 1 and place.denominator == 1
        windows.append([at] if exact else [at + offset for offset in around])
    return windows, ratio.numerator


def adaptive(size: int, wanted: int) -> tuple[list[list[int]], int]:
    """Windows and step of an adaptive pool: unit i sees those from floor(i * size / wanted) to before
    ceil((i + 1) * size / wanted).
    """
    common = gcd(size, wanted)
    units = range(wanted // common)
    return [list(range(i * size // wanted, -(-(i + 1) * size // wanted))) for i in units], size // common
