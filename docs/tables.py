"""Write the tables of the pages from the code: `python docs/tables.py`, or with --check compare only.

A page has its table between `<!-- table: NAME -->` and `<!-- end of table -->`; the prose is by hand. NAME is a family,
or one of the tables of `audit.md`, `lectures.md` and `lint.md`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from convatlas.audit import Check, audit, audit_lectures, canon
from convatlas.audit import table as audit_table
from convatlas.audit.lectures import entries, lectures
from convatlas.audit.slips import Lectures
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.lint import lint
from convatlas.measure.principles import PRINCIPLES
from convatlas.models import create_model, list_models
from convatlas.registry import Spec, find

PAGES = Path(__file__).parent / "families"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
HEADER = (
    "| network | what it is | parameters | printed | MACs | printed | error printed, % |\n"
    "|---|---|--:|--:|--:|--:|---|\n"
)


def row(spec: Spec) -> str:
    """One line: our counts beside the figures of the paper."""
    with blueprint():
        network = create_model(spec.name)
    measured = measure(network, (spec.channels, spec.image, spec.image))
    published = spec.published
    top = [
        error and f"top-{k} {error}"
        for k, error in ((1, published.top1_error_pct), (5, published.top5_error_pct))
    ]
    errors = ", ".join(filter(None, [published.error_pct, *top]))
    cells = (
        f"`{spec.name}`",
        spec.summary,
        f"{measured.params - measured.unused_params:,}",
        published.params or "",
        f"{measured.macs:,}",
        published.macs or "",
        f"{errors} ({published.test})" if errors else "",
    )
    return "| " + " | ".join(cells) + " |\n"


def limits(specs: list[Spec]) -> str:
    """Clauses of the common contract that a network cannot keep."""
    lines = [
        f"- `{spec.name}`, `{clause}`: {why}.\n" for spec in specs for clause, why in spec.limits.items()
    ]
    return "\nLimits of the common contract:\n\n" + "".join(lines) if lines else ""


def table(family: str) -> str:
    specs = [find(name) for name in list_models(family=family)]
    return f"\n{HEADER}{''.join(map(row, specs))}\n{sizes(specs)}\n{limits(specs)}\n"


def sizes(specs: list[Spec]) -> str:
    """The images that the MACs are counted for."""
    by_size = {
        size: [f"`{spec.name}`" for spec in specs if spec.image == size] for size in {s.image for s in specs}
    }
    if set(by_size) == {32, 224}:
        return "Counted for images of 224 pixels, CIFAR forms 32."
    usual, *others = sorted(by_size, key=lambda size: (-len(by_size[size]), size))
    exceptions = [f"{', '.join(by_size[size])}: {size}" for size in others]
    return f"Counted for images of {usual} pixels{''.join(f'; {text}' for text in exceptions)}."


# --- audit.md and lectures.md -----------------------------------------------------------------------------


@cache
def figures() -> tuple[Check, ...]:
    """Every printed figure of every network."""
    return tuple(audit())


@cache
def claims() -> Lectures:
    """Every claim of the lectures, and their slips."""
    return audit_lectures()


def marked(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with what Markdown would read as a sign shown as it is."""
    return audit_table.markdown(
        header, ([re.sub(r"([*_<\\[])", r"\\\1", cell) for cell in row] for row in rows)
    )


def family_of(check: Check) -> str:
    """The family of a figure's network."""
    return find(check.subject).family


def by_family() -> str:
    """How the figures of each family fare."""
    header = (
        "family",
        "figures",
        "hold",
        "differ, explained",
        "given by no counting",
        "differ",
        "need the training",
    )
    rows = [
        [family, str(len(checks)), *(str(number) for number in audit_table.counts(checks).values())]
        for family, group in groupby(sorted(figures(), key=family_of), key=family_of)
        if (checks := list(group))
    ]
    totals = [str(number) for number in (len(figures()), *audit_table.counts(figures()).values())]
    return marked(header, [*sorted(rows), ["all", *totals]])


def recorded() -> str:
    """Figures that no way of counting gives, and what is known of them."""
    rows = audit_table.cells(check for check in figures() if check.status == "recorded")
    return marked([*audit_table.HEADER[:4], "what is known"], [[*row[:4], row[5]] for row in rows])


def differences() -> str:
    """Figures that are not ours, and why."""
    return marked(audit_table.HEADER, audit_table.cells(c for c in figures() if c.status == "differs"))


def holding() -> str:
    """Figures that are ours."""
    rows = audit_table.cells(check for check in figures() if check.status == "holds")
    return marked(audit_table.HEADER[:4], [row[:4] for row in rows])


def the_lectures() -> str:
    """The five lectures, and how many claims each makes."""
    made = Counter(key for finding in claims().findings for key in finding.claim.lectures)
    rows = [
        [each.label, each.title, each.place, str(each.year or ""), str(made[key])]
        for key, each in lectures().items()
    ]
    return marked(("short name", "lecture", "where", "year", "claims"), rows)


def counted_claims() -> str:
    return audit_table.lecture_summary(claims()).replace("\n", ".\n\n") + ".\n"


def slips() -> str:
    """Every slip; those of entries without a page of their own carry the comment that names them."""
    rows = [
        [f"{cells[0]}{_named(slip.error.entry, slip.error.key)}", *cells[1:]]
        for slip, cells in zip(claims().slips, audit_table.slip_cells(claims().slips), strict=True)
    ]
    return _with_comments(audit_table.SLIP_HEADER, rows)


def left_open() -> str:
    """What the lectures leave open, of entries without a page of their own."""
    rows = [
        [f"{entry.id} {number}{_named(entry.id, f'{entry.id} ambiguous {number}')}", text]
        for entry in entries().values()
        if entry.kind != "architecture"
        for number, text in enumerate(entry.ambiguous, start=1)
    ]
    return _with_comments(("entry", "what is open"), rows)


def _named(entry: str, key: str) -> str:
    return f"\0{key}\0" if entries()[entry].kind != "architecture" else ""


def _with_comments(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return re.sub("\0(.*?)\0", r"<!-- \1 -->", marked(header, rows))


def compared_claims() -> str:
    """Claims that code checks, in the order of the lectures' entries."""
    chosen = [finding for finding in claims().findings if finding.verdict != "stated"]
    return marked(audit_table.LECTURE_HEADER, audit_table.lecture_cells(chosen))


def stated_claims() -> str:
    """Claims that no code checks, by reason."""
    chosen = [finding for finding in claims().findings if finding.verdict == "stated"]
    rows = [
        [why, str(len(group)), ", ".join(finding.claim.key for finding in group)]
        for why in dict.fromkeys(finding.why for finding in chosen)
        if (group := [finding for finding in chosen if finding.why == why])
    ]
    return marked(("why", "claims", "which"), sorted(rows, key=lambda row: -int(row[1])))


# --- lint.md ----------------------------------------------------------------------------------------------

OF_THE_PAPER = (
    "slim_300k", "slim_600k", "slim_1m", "5m", "8_9m", "t2_8", "t2_10", "t2_13", "t3_10", "t3_6",
    "t4_10_balanced", "t4_10_wide", "t4_13_balanced", "t4_13_wide", "t6_15_pool", "t6_15_strided",
    "t6_resnet32_pool", "t6_resnet32_strided",
)  # fmt: skip
OF_OTHERS = (
    "lenet5", "alexnet", "zfnet", "vgg16", "nin_cifar10", "all_cnn_c", "googlenet", "inception_v3", "resnet18",
    "resnet50", "resnet20_cifar", "densenet121", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0",
    "nasnetamobile",
)  # fmt: skip


def linted(names: Sequence[str]) -> str:
    """A row of verdicts for each network, with the number that decides each."""
    header = ("network", "expansion", "groups", "no early 1x1", "late halving", "3x3", "balance", "dropout")
    rows: list[list[str]] = []
    for name in names:
        spec = find(name)
        with blueprint():
            network = create_model(name)
        findings = lint(network, (spec.channels, spec.image, spec.image)).findings
        signs = [{"follows": "+", "breaks": "-", "does not apply": "."}[each.verdict] for each in findings]
        expansion, groups, correlation, information, performance, balance, dropout = (
            each.numbers for each in findings
        )
        first = correlation["first"]
        numbers = (
            f"x{expansion['largest_growth']:.2f}, {expansion['largest_share']:.0%}",
            f"{groups['share_in_homogeneous_groups']:.0%}",
            f"{first} of {correlation['convolutions']}" if first else "none",
            f"{information['earliest_of_even_place']:.2f}, {information['falls_without_a_pool']} strided",
            f"{performance['share_3x3']:.1%}",
            f"{balance['first_half']:.0%}",
            f"{dropout['groups'] - dropout['groups_without']} of {dropout['groups']}",
        )
        rows.append(
            [f"`{name}`", *(f"{sign} ({number})" for sign, number in zip(signs, numbers, strict=True))]
        )
    return audit_table.markdown(header, rows)


def rules() -> str:
    """The seven rules, what they rest on, and what of them is our choice."""
    header = ("principle", "rule", "paper", "our choice")
    return audit_table.markdown(
        header, [[each.name, each.rule, each.source, each.ours] for each in PRINCIPLES]
    )


TABLES: dict[str, Callable[[], str]] = {
    "lint_rules": rules,
    "lint_paper": lambda: linted([f"simpnet_{name}" for name in OF_THE_PAPER]),
    "lint_others": lambda: linted(OF_OTHERS),
    "audit_families": by_family,
    "audit_differences": differences,
    "audit_recorded": recorded,
    "audit_holding": holding,
    "lectures": the_lectures,
    "lectures_counts": counted_claims,
    "lectures_slips": slips,
    "lectures_open": left_open,
    "lectures_claims": compared_claims,
    "lectures_stated": stated_claims,
    "contest": lambda: audit_table.markdown(*canon.contest_table()),
    "filters": lambda: audit_table.markdown(*canon.filter_table()),
    "small_images": lambda: audit_table.markdown(*canon.small_images_table()),
    "images": lambda: audit_table.markdown(*canon.images_table()),
    "choices": lambda: audit_table.markdown(*canon.choices_table()),
    "zoos": lambda: audit_table.markdown(*canon.zoo_table()),
}


def filled(text: str) -> str:
    """The page with every table as the code has it now."""

    def content(name: str) -> str:
        return f"\n{TABLES[name]()}\n" if name in TABLES else table(name)

    return BLOCK.sub(lambda block: block[1] + content(block[2]) + block[3], text)


def main(arguments: list[str]) -> int:
    others = [PAGES.parent / name for name in ("audit.md", "lectures.md", "lint.md")]
    pages = [*sorted(PAGES.glob("*.md")), *(page for page in others if page.exists())]
    stale = [page for page in pages if filled(page.read_text()) != page.read_text()]
    for page in stale:
        if "--check" in arguments:
            print(f"{page.name}: the table differs from the registry; run `python docs/tables.py`")
        else:
            page.write_text(filled(page.read_text()))
            print(f"{page.name}: table written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
