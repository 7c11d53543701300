"""How a claim is checked: what a rule is, and when a stated value and a computed one agree.

A rule is a row `"entry number": rule`. `Computed` gives the value itself, in the shape of the claim's: a number,
text, or nested lists of them; functions without arguments in it are called when the claim is checked, and None
stands for a part that cannot be computed, such as the error beside a number of parameters. `Tried` asks code whether
a formula or a sentence is true. `Stated` says why no code can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, getcontext
from typing import Any

from convatlas.models.printed import value as number_of

Quantity = Callable[[], Any] | int | float | str | None | list[Any]


@dataclass(frozen=True, slots=True)
class Computed:
    """What the code gives for a claim.

    Attributes:
        ours: see this file's head.
        digits: significant digits of the statement, where its own form does not show them.
        within: relative difference that is allowed, for tables that are rough themselves; `why` says so. Of a list,
            one for each part.
        slip: the number of the entry's error that the claim is, or the key of another entry's.
        open: the number of the entry's note that leaves the claim's value open, which is `stated`.
        stated: that value: another one would differ.
        instead: a count that gives the stated number where ours does not, with `why` as its sentence.
        why: what belongs beside the result.
    """

    ours: Quantity
    digits: int | None = None
    within: float | tuple[float, ...] = 0.0
    slip: int | str = 0
    open: int = 0
    stated: Any = None
    instead: Quantity = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """A formula or a sentence that code can try: `check` is given the claim's value and says whether it is true.

    `ours` is what is true instead, for a slip, or what was tried.
    """

    check: Callable[[Any], bool]
    ours: str = ""
    slip: int | str = 0


@dataclass(frozen=True, slots=True)
class Corrected:
    """A claim that a source corrects and no code can: the entry's error of this number says what is right."""

    slip: int | str


@dataclass(frozen=True, slots=True)
class Stated:
    """A claim that no code can check, and the reason."""

    why: str


Rule = Computed | Tried | Corrected | Stated


def worked_out(quantity: Quantity) -> Any:
    """The value, with every function in it called."""
    if callable(quantity):
        return worked_out(quantity())
    if isinstance(quantity, (list, tuple)):
        return [worked_out(each) for each in quantity]
    return quantity


def same(stated: Any, ours: Any, digits: int | None = None, within: float | tuple[float, ...] = 0.0) -> bool:
    """Whether ours is the stated value, at the precision in which it is stated.

    A whole number claims its digits up to the last that is not 0, and two at least; a decimal one its decimals; text of
    digits and a unit ("159K") as `models.printed` reads it, other text itself. None in ours claims nothing.

    Examples:
        >>> same(60000, 61706), same(138, 138.36), same("6.8M", 6_797_700), same([4, 0.5], [4, None])
        (False, True, True, True)
        >>> same(140_000_000, 138_357_544), same(140_000_000, 138_357_544, digits=3)
        (True, False)
    """
    if ours is None:
        return True
    if isinstance(stated, list):
        if not isinstance(ours, list) or len(ours) != len(stated):
            return False
        each = within if isinstance(within, tuple) else (within,) * len(stated)
        return all(same(a, b, digits, share) for a, b, share in zip(stated, ours, each, strict=True))
    if isinstance(stated, str) and isinstance(ours, str):
        return stated == ours
    if isinstance(ours, (str, list)) or isinstance(stated, bool) or not isinstance(stated, (str, int, float)):
        return False
    text = str(stated).split(" per ")[0].removeprefix("about ").replace("k", "K")
    try:
        number = number_of(text) if isinstance(stated, str) else Decimal(text)
    except ValueError:  # words where we have a number
        return False
    if isinstance(within, float) and within and number and abs(ours / float(number) - 1) <= within:
        return True
    return same_number(number, ours, digits or _digits(text))


def same_number(stated: Decimal, ours: float, digits: int) -> bool:
    """Whether ours, rounded to so many significant digits of the stated number, is that number."""
    if not stated:
        return not ours
    exact = Decimal(str(ours))
    step = Decimal(1).scaleb(stated.adjusted() - digits + 1)
    if exact.adjusted() - step.adjusted() >= getcontext().prec:  # more digits than a Decimal rounds to
        return False
    return exact.quantize(step, ROUND_HALF_UP) == stated


def _digits(text: str) -> int:
    """Significant digits of a number as it is written."""
    mantissa = text.lower().rstrip("kmgb ").lstrip("-").replace(",", "")
    mantissa, _, _ = mantissa.partition("e")
    whole, point, decimals = mantissa.partition(".")
    if (point and decimals.strip("0")) or (point and text[-1:].isalpha()):
        return max(1, len((whole + decimals).lstrip("0")))
    if text[-1:].isalpha():
        return max(2, len(whole))
    digits = len(whole)
    return digits if digits < 4 else max(2, len(whole.rstrip("0")))


def shown(value: Any) -> str:
    """A stated or computed value as text: whole numbers with commas, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        inner = ", ".join(map(shown, value))
        return f"[{inner}]" if any(isinstance(each, list) for each in value) else inner
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10000 and value.is_integer() else f"{value:.6g}"
    return str(value)
