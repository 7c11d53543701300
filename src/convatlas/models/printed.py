"""Figures as papers print them: "138M" claims three digits, and ours is held to three."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

_UNITS = {"": 0, "K": 3, "M": 6, "G": 9, "B": 9}
_FIGURE = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)(\s*[×x]\s*10\^(\d+)|\s*([KMGB]?))")


def value(printed: str) -> Decimal:
    """The number that a printed figure stands for.

    Raises `ValueError` for text of another form.

    Examples:
        >>> int(value("138M")), int(value("3.6×10^9")), int(value("61,706"))
        (138000000, 3600000000, 61706)
    """
    digits, _, power = _parts(printed)
    return Decimal(digits.replace(",", "")).scaleb(power)


def rounded(ours: float, printed: str) -> str:
    """Our figure in the unit of the printed one, with as many decimals.

    Examples:
        >>> rounded(138_357_544, "138M"), rounded(3_857_973_248, "3.8×10^9")
        ('138M', '3.9×10^9')
    """
    digits, unit, power = _parts(printed)
    mine = Decimal(ours).scaleb(-power).quantize(Decimal(digits.replace(",", "")), ROUND_HALF_UP)
    return (f"{mine:,}" if "," in digits else f"{mine}") + unit


def agrees(ours: float, printed: str) -> bool:
    """Whether ours, rounded to the precision of the printed figure, is that figure.

    Examples:
        >>> agrees(138_357_544, "138M"), agrees(138_357_544, "140M"), agrees(61_706, "60,000")
        (True, False, False)
    """
    return value(rounded(ours, printed)) == value(printed)


def _parts(printed: str) -> tuple[str, str, int]:
    """The digits, the unit after them, and the power of ten that the unit stands for."""
    match = _FIGURE.fullmatch(printed.strip())
    if match is None:
        raise ValueError(f"{printed!r} is not a figure such as '138M', '3.6×10^9' or '61,706'")
    digits, unit, power, letter = match.groups()
    return digits, unit, int(power or 0) + _UNITS[letter or ""]
