"""`audit`: every figure that a paper printed, beside what the running code gives at the printed precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from convatlas.audit.counted import Counted, counted
from convatlas.audit.explained import EXPLAINED, RECORDED, SLIPS
from convatlas.audit.lectures import errors
from convatlas.models import find, specs
from convatlas.models.printed import agrees, rounded
from convatlas.registry import Spec

Status = Literal["holds", "differs", "recorded", "not computable"]
ERRORS = {"top1_error_pct": "top-1 error", "top5_error_pct": "top-5 error", "error_pct": "error"}
NEEDS_TRAINING = "needs the training"


@dataclass(frozen=True, slots=True)
class Check:
    """One printed figure of `subject`, a network.

    `ours` is in the unit and at the precision of `printed`, `exact` as counted. `why` explains a difference, or why
    there is nothing to compare; a difference without it is unexplained. "recorded" is a difference that is known
    as it is, and that no way of counting gives.
    """

    subject: str
    figure: str
    printed: str
    status: Status
    ours: str = ""
    exact: int | None = None
    why: str = ""

    @property
    def unexplained(self) -> bool:
        """Whether the figure differs and nothing says why."""
        return self.status == "differs" and not self.why

    @property
    def verdict(self) -> str:
        """The status, or "explained" for a difference that is."""
        return "explained" if self.status == "differs" and self.why else self.status

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdict": self.verdict}


def audit(*names: str) -> list[Check]:
    """Check the printed figures of the networks of these names, or of all, in the order of `list_models`.

    A difference is explained only by code of `explained.py` that reproduces the printed figure, or by a slip of the
    lecture that printed it; the status "recorded" is neither. Raises `UsageError` for an unknown name.

    Examples:
        >>> [check.status for check in audit("lenet5_1998")][:2]
        ['holds', 'holds']
    """
    chosen = [find(name) for name in names] if names else specs()
    return [check for spec in chosen for check in _checks(spec)]


def _checks(spec: Spec) -> Iterator[Check]:
    """Counts first, then the figures of single modules, then what only a training gives."""
    of, published = counted(spec.name), spec.published
    figures: list[tuple[str, str | None, Callable[[], int]]] = [
        ("params", published.params, lambda: of.params),
        ("macs", published.macs, lambda: of.macs),
        ("layers", None if published.layers is None else str(published.layers), lambda: of.layers),
    ]
    figures += [(f"params of {p}", v, partial(of.params_of, p)) for p, v in published.params_by_layer.items()]
    figures += [(f"macs of {p}", v, partial(of.macs_of, p)) for p, v in published.macs_by_layer.items()]
    for figure, printed, count in figures:
        if printed is not None:
            yield compared(spec.name, figure, printed, count(), of)
    for field, figure in ERRORS.items():
        if printed := getattr(published, field):
            test = f" ({published.test})" if published.test else ""
            yield Check(spec.name, figure + test, printed, "not computable", why=NEEDS_TRAINING)
    for test, printed in published.other_errors_pct.items():
        yield Check(spec.name, f"error ({test})", printed, "not computable", why=NEEDS_TRAINING)


def compared(subject: str, figure: str, printed: str, exact: int, of: Counted) -> Check:
    """One printed figure against our count; where they differ, the explanation that reproduces the printed one."""
    check = partial(Check, subject, figure, printed, ours=rounded(exact, printed), exact=exact)
    if agrees(exact, printed):
        return check(status="holds")
    explanation = EXPLAINED.get((subject, figure))
    if explanation is not None and explanation.gives(printed, of):
        return check(status="differs", why=explanation.why)
    slip, recorded = SLIPS.get((subject, figure)), RECORDED.get((subject, figure))
    if slip is not None and slip.fits(printed, exact):
        return check(status="differs", why=errors()[slip.why].correct)
    if recorded is not None and recorded.fits(printed, exact):
        return check(status="recorded", why=recorded.why)
    return check(status="differs")
