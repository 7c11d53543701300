"""`audit --lectures`: every number of five lectures beside what the code gives, and their slips with the correction."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from convatlas.audit.claims import CORRECTIONS, rule_of
from convatlas.audit.claims.rules import Computed, Corrected, Rule, Stated, Tried, same, shown, worked_out
from convatlas.audit.lectures import Claim, LectureError, entries, errors, labels
from convatlas.errors import UsageError, did_you_mean

Verdict = Literal["holds", "slip", "explained", "open", "differs", "stated"]
VERDICTS: tuple[Verdict, ...] = ("holds", "slip", "explained", "open", "differs", "stated")


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim and what became of it.

    `ours` is what the code gives. A "slip" differs, and the lecture's error of that number says what is right; an
    "explained" one differs, and another count gives the stated number; of an "open" one the source is known not to say
    how it counts. "stated" ones have nothing to compute, and `why` says why.
    """

    claim: Claim
    verdict: Verdict
    ours: str = ""
    why: str = ""
    slip: str = ""


@dataclass(frozen=True, slots=True)
class Slip:
    """An error of a lecture and its correction.

    `checked` holds the numbers of the correction that the code gives, as the correction prints them; `wrong` those
    that it does not.
    """

    error: LectureError
    checked: tuple[str, ...]
    wrong: tuple[str, ...]
    seen: bool  # a claim that code computes differs by it

    @property
    def basis(self) -> str:
        """What the correction rests on: "computed here", or the source that corrects it."""
        return "computed here" if self.checked or self.seen else self.error.basis


@dataclass(frozen=True, slots=True)
class Lectures:
    """All findings and slips, in the order of the lectures' entries."""

    findings: tuple[Finding, ...]
    slips: tuple[Slip, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict, and how many slips there are."""
        verdicts = Counter(finding.verdict for finding in self.findings)
        return {
            **{verdict: verdicts[verdict] for verdict in VERDICTS},
            "slips": len(self.slips),
            "slips seen by code": sum(slip.basis == "computed here" for slip in self.slips),
        }

    @property
    def unexplained(self) -> list[str]:
        """Keys of claims that differ without a reason, and of corrections that do not hold."""
        return [f.claim.key for f in self.findings if f.verdict == "differs"] + [
            slip.error.key for slip in self.slips if slip.wrong
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "counts": self.counts,
            "claims": [
                {
                    "entry": f.claim.entry, "number": f.claim.number, "what": f.claim.what, "value": f.claim.value,
                    "unit": f.claim.unit, "lectures": list(f.claim.lectures), "verdict": f.verdict, "ours": f.ours,
                    "why": f.why,
                }
                for f in self.findings
            ],
            "slips": [
                {
                    "entry": s.error.entry, "number": s.error.number, "says": s.error.says, "correct": s.error.correct,
                    "lectures": list(s.error.lectures), "basis": s.basis, "checked": list(s.checked),
                }
                for s in self.slips
            ],
        }  # fmt: skip


def audit_lectures(*names: str) -> Lectures:
    """Check the claims of these entries ("googlenet", "receptive-field-theoretical"), or of all.

    Raises `UsageError` for an entry that does not exist.
    """
    known = entries()
    for name in names:
        if name not in known:
            raise UsageError(f"the lectures have no entry {name!r}.{did_you_mean(name, known)}")
    chosen = [known[name] for name in names] if names else list(known.values())
    findings = tuple(found(claim, rule_of(claim)) for entry in chosen for claim in entry.claims)
    seen = {f.slip for f in findings if f.verdict == "slip" and f.ours}
    slips = tuple(_slip(error, error.key in seen) for entry in chosen for error in entry.errors)
    return Lectures(findings, slips)


def found(claim: Claim, rule: Rule | None) -> Finding:
    """One claim under its rule."""
    match rule:
        case None:
            return Finding(claim, "differs", why="")
        case Stated(why):
            return Finding(claim, "stated", why=why)
        case Corrected(slip):
            return _differs(claim, "", slip)
        case Tried(check, ours, slip):
            try:
                true = check(claim.value)
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
                UsageError,
            ):
                return Finding(claim, "differs", ours, why="what is stated is not of the kind that was tried")
            if true:
                return Finding(claim, "holds", ours or "tried: true")
            return _differs(claim, ours or "tried: false", slip)
        case Computed():
            ours = worked_out(rule.ours)
            if same(claim.value, ours, rule.digits, rule.within):
                return Finding(claim, "holds", shown(ours), why=rule.why)
            if rule.instead is not None and same(claim.value, worked_out(rule.instead), rule.digits):
                return Finding(claim, "explained", shown(ours), why=rule.why)
            if rule.open and claim.value == rule.stated:
                note = entries()[claim.entry].ambiguous[rule.open - 1]
                return Finding(claim, "open", shown(ours), why=note)
            return _differs(claim, shown(ours), rule.slip)


def _differs(claim: Claim, ours: str, slip: int | str) -> Finding:
    """A slip where the lectures' entries say so, else an open difference."""
    if not slip:
        return Finding(claim, "differs", ours)
    error = errors()[slip if isinstance(slip, str) else f"{claim.entry} error {slip}"]
    return Finding(claim, "slip", ours, why=error.correct, slip=error.key)


def _slip(error: LectureError, seen: bool) -> Slip:
    """An error, with the numbers of its correction computed where a rule does."""
    checked: list[str] = []
    wrong: list[str] = []
    for text, quantity in CORRECTIONS.get(error.key, ()):
        holds = text in error.correct and same(text.removesuffix(" %"), worked_out(quantity))
        (checked if holds else wrong).append(text)
    return Slip(error, tuple(checked), tuple(wrong), seen)


def lecture_labels(finding: Finding | Slip) -> str:
    """Where it was said."""
    return labels(finding.claim.lectures if isinstance(finding, Finding) else finding.error.lectures)
