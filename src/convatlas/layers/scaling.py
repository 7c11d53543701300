"""How networks are made larger and smaller: width multipliers, rounding, and the compound law.

A network has three dimensions to scale: depth (blocks per stage), width (channels) and resolution (pixels of the
image's side). Its multiply-adds grow with depth * width^2 * resolution^2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from convatlas.errors import UsageError


class Scaling(NamedTuple):
    """Factors of a base network's depth, width and resolution."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    @property
    def macs(self) -> float:
        """The factor of the multiply-adds, before anything is rounded."""
        return self.depth * self.width**2 * self.resolution**2


def compound(
    phi: float, *, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15, tolerance: float = 0.1
) -> Scaling:
    """Scale all three dimensions together: depth alpha^phi, width beta^phi, resolution gamma^phi.

    alpha * beta^2 * gamma^2 is about 2, so that 2^phi times the multiply-adds are spent. The defaults were found by
    grid search at phi = 1 on EfficientNet-B0, which is phi = 0.

    Args:
        phi: how many times the cost is to be doubled.
        alpha: depth per doubling; like the others at least 1.
        beta: width per doubling.
        gamma: resolution per doubling.
        tolerance: how far alpha * beta^2 * gamma^2 may be from 2.

    Raises:
        UsageError: for coefficients that break the law.

    Source: Tan & Le, "EfficientNet", 2019, equation 3.

    Examples:
        >>> compound(0)
        Scaling(depth=1.0, width=1.0, resolution=1.0)
        >>> compound(1)
        Scaling(depth=1.2, width=1.1, resolution=1.15)
        >>> round(compound(3).macs, 2)
        7.08
    """
    base = Scaling(alpha, beta, gamma)
    if min(base) < 1:
        raise UsageError(f"alpha={alpha}, beta={beta}, gamma={gamma}: each must be at least 1.")
    if abs(base.macs - 2) > tolerance:
        raise UsageError(
            f"alpha * beta^2 * gamma^2 is {base.macs:.3f} for alpha={alpha}, beta={beta}, gamma={gamma}; the law "
            f"wants 2, at most {tolerance} away. Change a coefficient, or give a larger tolerance."
        )
    return Scaling(alpha**phi, beta**phi, gamma**phi)


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and the next one where that would lose more than a tenth.

    Mobile hardware wants channels in eights. The rule is that of the authors of MobileNetV2, and of all after them.
    Raises `UsageError` unless there are more than 0 channels.

    Examples:
        >>> divisible(0.75 * 32), divisible(1.1 * 40), divisible(0.35 * 32), divisible(3)
        (24, 48, 16, 8)
    """
    if not 0 < channels < math.inf:
        raise UsageError(
            f"{channels:g} channels cannot be; a width is a factor larger than 0, and 1 changes nothing."
        )
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def deeper(blocks: int, factor: float) -> int:
    """Blocks of a stage after scaling: rounded up, as EfficientNet does. Raises `UsageError` for a factor of 0 or less.

    Examples:
        >>> [deeper(blocks, 1.1) for blocks in (1, 2, 3, 4)]
        [2, 3, 4, 5]
    """
    if not 0 < factor < math.inf:
        raise UsageError(f"depth={factor:g} cannot be; it is a factor larger than 0, and 1 changes nothing.")
    return math.ceil(blocks * factor)
