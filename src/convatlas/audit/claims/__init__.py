"""How the numbers of the lectures are checked: a row of data for each claim, grouped by subject."""

from __future__ import annotations

from convatlas.audit.claims import blocks, deep, early, operators, small, tables, training
from convatlas.audit.claims.rules import Rule
from convatlas.audit.claims.stated import reason
from convatlas.audit.lectures import Claim

SUBJECTS = (operators, blocks, early, deep, small, tables, training)
RULES: dict[str, Rule] = {key: rule for subject in SUBJECTS for key, rule in subject.RULES.items()}
CORRECTIONS = {key: rows for subject in SUBJECTS for key, rows in subject.CORRECTIONS.items() if rows}


def rule_of(claim: Claim) -> Rule | None:
    """The rule that checks a claim, or the reason why none can; None if it was forgotten."""
    return RULES.get(claim.key) or reason(claim)
