"""A measurement as one HTML file that needs nothing else: the rows unfold, stage by stage, block by block.

It works without a network and without scripts: modules are `<details>`. A few lines of script add the buttons that
open everything down to a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from torch import nn

from convatlas.files import write_durable
from convatlas.measure import table
from convatlas.measure.cost import Measurement, Row
from convatlas.measure.folded import LEVELS, Group, levels, tree
from convatlas.measure.table import Column
from convatlas.registry import Spec

SCRIPT = """
const parts = [...document.querySelectorAll("details")];
for (const [name, depth] of DEPTHS) {
  const button = document.createElement("button");
  button.textContent = name;
  button.onclick = () => parts.forEach((part) => { part.open = +part.dataset.depth < depth; });
  document.querySelector(".buttons").append(button);
}
"""


def page(
    measurement: Measurement,
    model: nn.Module | None = None,
    *,
    title: str | None = None,
    spec: Spec | None = None,
    depth: int | None = 1,
) -> str:
    """The page: facts beside the paper's, then the rows as a tree, open down to `depth` levels; None opens all.

    `model` gives the classes of the modules that hold others; `spec` the paper's figures.
    """
    shown = table.columns(measurement, wide=True)
    name = title or measurement.model
    doubts = "".join(f'<p class="doubt">{escape(sentence)}</p>' for sentence in table.doubts(measurement))
    rows = [_member(member, shown, 0, depth) for member in tree(measurement, model)]
    total = _row([column.of_sums(measurement) for column in shown], shown, 0, "total")
    head = _row([column.title for column in shown], shown, 0, "head")
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    depths = [[f"{word}s", end or 10**6] for word, end in LEVELS.items()]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{escape(name)}</h1>
<section>{_facts(measurement, spec)}</section>
{doubts}
<section style="--numbers: {sum(column.number for column in shown)}">
<div class="buttons"></div>
{head}
{"".join(rows)}{total}</section>
</main>
<script>{SCRIPT.replace("DEPTHS", str(depths).replace("'", '"'))}</script>
</body>
</html>
"""


def write(
    path: Path,
    measurement: Measurement,
    model: nn.Module | None = None,
    *,
    title: str | None = None,
    spec: Spec | None = None,
    depth: int | None = 1,
) -> None:
    """Write `page` to a file. Raises `ResourceError` if the disk refuses."""
    content = page(measurement, model, title=title, spec=spec, depth=depth)
    write_durable(path, content.encode())


def _facts(measurement: Measurement, spec: Spec | None) -> str:
    rows = table.facts(measurement, spec)
    printed = any(paper for _, _, paper in rows)
    lines = [
        f'<tr><th scope="row">{escape(what)}</th><td>{escape(ours)}</td>'
        + (f"<td>{escape(paper)}</td>" if printed else "")
        + "</tr>"
        for what, ours, paper in rows
    ]
    published = "<th>published</th>" if printed else ""
    head = f"<thead><tr><th></th><th>measured here</th>{published}</tr></thead>"
    return f'<table class="facts">{head}<tbody>{"".join(lines)}</tbody></table>'


def _member(
    member: Row | Group, shown: Sequence[Column], level: int, depth: int | None, inside: str = ""
) -> str:
    """A row, or a module with its rows; `inside` is the module that holds it, which names leave out."""
    row = member if isinstance(member, Row) else member.row
    words = [column.of_row(row) for column in shown]
    words[0] = words[0].removeprefix(inside).lstrip(". ") or words[0]
    if isinstance(member, Row):
        return _row(words, shown, level, "leaf", title=row.name)
    inner = "".join(
        _member(part, shown, level + 1, depth, table.visible(row.name)) for part in member.members
    )
    at = len(levels(row.name))
    opened = " open" if depth is None or at < depth else ""
    summary = _row(words, shown, level, "part", tag="summary", title=row.name)
    return f'<details data-depth="{at}"{opened}>\n{summary}{inner}</details>\n'


def _row(
    words: Sequence[str], shown: Sequence[Column], level: int, kind: str, tag: str = "div", title: str = ""
) -> str:
    cells = [
        f'<span class="n" data-title="{escape(column.title)}">{escape(word)}</span>'
        if column.number
        else f"<span>{escape(word)}</span>"
        for column, word in zip(shown, words, strict=True)
    ]
    hint = f' title="{escape(title)}"' if title else ""
    return f'<{tag} class="row {kind}" style="--level: {level}"{hint}>{"".join(cells)}</{tag}>\n'
