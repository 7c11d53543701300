"""`convatlas audit`: every printed figure beside ours; with `--lectures`, every number of five lectures."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from convatlas.cli import console
from convatlas.errors import ConvAtlasError, UsageError, did_you_mean


def audit(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Networks, or with --lectures entries such as googlenet; wildcards are allowed. All if absent.",
            show_default=False,
        ),
    ] = None,
    lectures: Annotated[
        bool, typer.Option("--lectures", help="Check the numbers of five lectures, and list their slips.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
) -> None:
    """Hold every published figure against the running code. Exit code 1 if a difference is not explained."""
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other.")
    if lectures:
        _lectures(names or [], as_json=as_json, markdown=markdown)
    else:
        _networks(names or [], as_json=as_json, markdown=markdown)


def _networks(names: Sequence[str], *, as_json: bool, markdown: bool) -> None:
    from convatlas.api import audit as check
    from convatlas.api import list_models
    from convatlas.audit import table

    checks = check(*_chosen(names, list_models(), "network"))
    if as_json:
        console.write_json(table.to_json(checks))
    elif markdown:
        console.write(table.markdown(table.HEADER, table.cells(checks)) + f"\n{table.summary(checks)}\n")
    else:
        console.show(console.table(table.HEADER, table.cells(checks)))
        console.show("")
        console.show(table.summary(checks))
    _refuse([f"{each.subject}: {each.figure} {each.printed}" for each in checks if each.unexplained])


def _lectures(names: Sequence[str], *, as_json: bool, markdown: bool) -> None:
    from convatlas.audit import audit_lectures, table
    from convatlas.audit.lectures import entries

    audited = audit_lectures(*_chosen(names, list(entries()), "entry of the lectures"))
    claims, slips = table.lecture_cells(audited.findings), table.slip_cells(audited.slips)
    if as_json:
        console.write_json(audited.to_json())
    elif markdown:
        console.write(table.markdown(table.LECTURE_HEADER, claims) + "\n")
        console.write(table.markdown(table.SLIP_HEADER, slips) + f"\n{table.lecture_summary(audited)}\n")
    else:
        console.show(console.table(table.LECTURE_HEADER, claims))
        console.show("")
        console.show(
            console.table(table.SLIP_HEADER, slips, title="Slips of the lectures, and what is right")
        )
        console.show("")
        console.show(table.lecture_summary(audited))
    _refuse(audited.unexplained)


def _chosen(patterns: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The known names that the patterns match, in the order of `known`; all without a pattern."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(f"there is no {what} {pattern!r}.{did_you_mean(pattern, known)}")
    return [name for name in known if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _refuse(unexplained: Sequence[str]) -> None:
    """Leave with exit code 1 if something differs and nothing says why."""
    if unexplained:
        more = f" and {len(unexplained) - 5} more" if len(unexplained) > 5 else ""
        raise ConvAtlasError(
            f"{len(unexplained)} differ without an explanation: {'; '.join(unexplained[:5])}{more}."
        )
