"""Why a printed figure is not ours: each reason with the code that gives the printed figure.

A row of `EXPLAINED` is (network, figure) -> (why, a function of the counted network). What the function gives must
be the printed figure at the printed precision; otherwise the row explains nothing, and the difference stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from convatlas.audit.counted import Counted


class Explanation(NamedTuple):
    """A sentence, and the number that follows from it."""

    why: str
    reproduce: Callable[[Counted], float]


# --- ways of counting ---------------------------------------------------------------------------------------


def cut(count: float, to: float) -> float:
    """Digits below `to` cut off where we round.

    Examples:
        >>> cut(25_557_032, 1e5)
        25500000.0
    """
    return count // to * to


def without_normalisation(of: Counted) -> int:
    """Weights and biases of convolutions and linear layers alone."""
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    return of.params - sum(
        p.numel() for m in of.network.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)
    )


def without_classifier(of: Counted) -> int:
    """All but the last layer, whose size follows the data set."""
    classifier = of.network.get_classifier()  # pyright: ignore[reportCallIssue]
    return of.params - sum(p.numel() for p in classifier.parameters())


def convolutions(of: Counted) -> int:
    """Convolutions, those of shortcuts among them, and no linear layer."""
    return sum(isinstance(module, nn.Conv2d) for module in of.network.modules())


# --- the rows -----------------------------------------------------------------------------------------------

EXPLAINED: dict[tuple[str, str], Explanation] = {
    ("resnet50", "params"): Explanation(
        "the paper cuts 25.557 to 25.5 where we round", lambda of: cut(of.params, 1e5)
    ),
    ("resnet50_v1", "macs"): Explanation(
        "the paper cuts 3.858 to 3.8 where we round", lambda of: cut(of.macs, 1e8)
    ),
}
