"""An audit in rows: for a terminal, Markdown or JSON. `cells` and `lecture_cells` make the words once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from convatlas.audit.check import Check
from convatlas.audit.claims.rules import shown
from convatlas.audit.slips import VERDICTS, Finding, Lectures, Slip, lecture_labels

HEADER = ("network", "figure", "printed", "ours", "result", "why")
LECTURE_HEADER = ("entry", "claim", "stated", "ours", "result", "why", "lectures")
VERDICTS_OF_FIGURES = ("holds", "explained", "recorded", "differs", "not computable")
SLIP_HEADER = ("slip", "what is said", "what is right", "basis", "lectures")


def counts(checks: Iterable[Check]) -> dict[str, int]:
    """How many figures hold, differ with an explanation, are given by no counting, differ, and cannot be computed."""
    verdicts = Counter(check.verdict for check in checks)
    return {verdict: verdicts[verdict] for verdict in VERDICTS_OF_FIGURES}


def summary(checks: Iterable[Check]) -> str:
    """One line with the counts.

    Examples:
        >>> summary([]).partition(', 0 differ,')[0]
        '0 printed figures: 0 hold, 0 differ and are explained, 0 are given by no way of counting'
    """
    found = counts(checks)
    words = (
        "hold",
        "differ and are explained",
        "are given by no way of counting",
        "differ",
        "need the training",
    )
    said = ", ".join(
        f"{found[verdict]} {word}" for verdict, word in zip(VERDICTS_OF_FIGURES, words, strict=True)
    )
    return f"{sum(found.values())} printed figures: {said}"


def lecture_summary(audited: Lectures) -> str:
    """One line with the counts of claims, one with those of slips."""
    found = audited.counts
    words = (
        "hold",
        "are slips",
        "differ by a way of counting",
        "are left open",
        "differ",
        "can only be stated",
    )
    claims = ", ".join(f"{found[verdict]} {word}" for verdict, word in zip(VERDICTS, words, strict=True))
    return (
        f"{len(audited.findings)} claims: {claims}\n"
        f"{found['slips']} slips of the lectures, {found['slips seen by code']} of them seen by code"
    )


def cells(checks: Iterable[Check]) -> list[list[str]]:
    """A list for every figure, in the order of `HEADER`."""
    return [[c.subject, c.figure, c.printed, _ours(c), c.verdict, c.why] for c in checks]


def _ours(check: Check) -> str:
    if check.exact is None:
        return ""
    exact = f"{check.exact:,}"
    return check.ours if check.ours == exact else f"{check.ours} ({exact})"


def lecture_cells(findings: Iterable[Finding]) -> list[list[str]]:
    """A list for every claim, in the order of `LECTURE_HEADER`."""
    return [
        [
            f.claim.key,
            f.claim.what,
            shown(f.claim.value) + (f" {f.claim.unit}" if f.claim.unit not in ("-", "formula") else ""),
            f.ours,
            f.verdict,
            f.why,
            lecture_labels(f),
        ]
        for f in findings
    ]


def slip_cells(slips: Iterable[Slip]) -> list[list[str]]:
    """A list for every slip, in the order of `SLIP_HEADER`."""
    return [[s.error.key, s.error.says, s.error.correct, s.basis, lecture_labels(s)] for s in slips]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Counts and figures as plain values."""
    return {"counts": counts(checks), "figures": [check.to_json() for check in checks]}
