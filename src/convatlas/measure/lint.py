"""Does a network follow the design principles of SimpNet? `lint(model, (3, 32, 32))` says it for any network.

A principle that is broken is a matter of taste, not an error: most good networks break some. The rules are in
`principles.py`; `docs/lint.md` shows where their thresholds stand.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from convatlas.measure.plan import read_plan
from convatlas.measure.principles import PRINCIPLES, Finding
from convatlas.measure.table import visible

PAPER = (
    "Hasanpour, Rouhani, Fayyaz, Sabokrou, Adeli: Towards Principled Design of Deep Convolutional Networks: "
    "Introducing SimpNet, 2018, arXiv 1802.06205"
)
HEADER = ("principle", "verdict", "numbers", "where", "rule", "paper", "our choice")
NAMED = 4  # layers that a table names; JSON has all


@dataclass(frozen=True, slots=True)
class Lint:
    """Seven findings on a network, in the order of the paper."""

    model: str
    input_shape: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Those that the network breaks."""
        return tuple(finding for finding in self.findings if finding.verdict == "breaks")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "paper": PAPER,
            "findings": [{**asdict(finding), "where": list(finding.where)} for finding in self.findings],
        }


def lint(model: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> Lint:
    """Hold any network against the seven principles, for one image of `input_shape` (C, H, W).

    Nothing is computed, and the network is given back as it was. Raises `UsageError` if it does not take such an image.

    Examples:
        >>> early = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
        >>> finding = lint(early, (3, 32, 32)).findings[2]
        >>> finding.principle, finding.verdict, finding.where
        ('local correlation preservation', 'breaks', ('0',))
    """
    plan = read_plan(model, input_shape)
    return Lint(type(model).__name__, tuple(input_shape), tuple(each.judge(plan) for each in PRINCIPLES))


# --- printed --------------------------------------------------------------------------------------------------


def cells(linted: Lint) -> list[list[str]]:
    """The words of the table: a list for every finding, in the order of `HEADER`."""
    return [
        [each.principle, each.verdict, each.says, _where(each), each.rule, each.source, each.ours]
        for each in linted.findings
    ]


def rich_table(linted: Lint) -> Table:
    """The findings for a terminal, one below the other; names are folded, never cut."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for principle, verdict, says, where, rule, source, ours in cells(linted):
        table.add_row(Text(verdict, "bold"), Text(principle, "bold"))
        for what, words in (("", says), ("where", where), ("rule", rule), ("paper", source), ("ours", ours)):
            if words:
                table.add_row(Text(what.rjust(len("does not apply"))), Text(words))
        table.add_row("", "")
    return table


def markdown(linted: Lint) -> str:
    """The findings as a Markdown table, the rules below it."""
    lines = [[visible(cell).replace("|", "\\|") for cell in line] for line in cells(linted)]
    table = [list(HEADER[:4]), ["---"] * 4, *(line[:4] for line in lines)]
    rules = [
        f"- **{name}**: {rule} Paper: {source}. Our choice: {ours}\n"
        for name, *_, rule, source, ours in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table) + "\n" + "".join(rules)


def summary(linted: Lint) -> str:
    """One line: how many of the principles are followed, and which are broken."""
    follows = sum(finding.verdict == "follows" for finding in linted.findings)
    broken = ", ".join(finding.principle for finding in linted.broken)
    return f"{follows} of {len(linted.findings)} followed{f'; broken: {broken}' if broken else ''}"


def _where(finding: Finding) -> str:
    names, more = finding.where[:NAMED], len(finding.where) - NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
