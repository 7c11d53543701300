"""Formulas as lectures print them ("3*(3^2*C^2)", "25K^2", "L(L+1)/2"), evaluated without running them as code."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg,
}  # fmt: skip


def evaluate(text: str, **values: float) -> float:
    """The number that a printed formula gives for these values of its letters.

    Raises `ValueError` for anything but sums, products, quotients, powers, sqrt and the letters given.

    Examples:
        >>> evaluate("25K^2", K=2), evaluate("L(L+1)/2", L=4), evaluate("9*sqrt(alpha)*n^2", alpha=4, n=3)
        (100, 10.0, 162.0)
    """
    python = text.replace("^", "**")
    python = re.sub(r"(\d)([A-Za-z(])", r"\1*\2", python)  # 25K, 2(n+1)
    python = re.sub(r"\b([A-Za-z])\(", r"\1*(", python)  # L(L+1); sqrt( has more than one letter
    try:
        return _value(ast.parse(python, mode="eval").body, values)
    except (SyntaxError, KeyError) as error:
        raise ValueError(f"{text!r} is no formula in {sorted(values)}") from error


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.Name(name):
            return values[name]
        case ast.BinOp(left, sign, right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left, values), _value(right, values))
        case ast.UnaryOp(sign, operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(operand, values))
        case ast.Call(ast.Name("sqrt"), [argument], []):
            return math.sqrt(_value(argument, values))
        case _:
            raise ValueError(
                f"{ast.unparse(node)!r} is neither a sum, a product, a quotient, a power nor a root"
            )


def gives(count: Callable[..., float], *tries: Mapping[str, float]) -> Callable[[Any], bool]:
    """A check of a printed formula: at every one of `tries` it gives what `count` of the same letters counts.

    What follows a semicolon, "about" or "versus" is not part of the formula.
    """

    def check(text: Any) -> bool:
        formula = re.split(r"[;,]| about | versus ", str(text))[0]
        return all(
            math.isclose(evaluate(formula, **values), count(**values), rel_tol=1e-9)
            for values in tries or ({},)
        )

    return check
