"""Write the tables of the family pages from the registry: `python docs/tables.py`, or with --check compare only.

A page has its table between `<!-- table: FAMILY -->` and `<!-- end of table -->`; the prose is by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from convatlas.measure import measure
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
    with torch.device("meta"):
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


def filled(text: str) -> str:
    """The page with every table as the registry has it now."""
    return BLOCK.sub(lambda block: block[1] + table(block[2]) + block[3], text)


def main(arguments: list[str]) -> int:
    stale = [page for page in sorted(PAGES.glob("*.md")) if filled(page.read_text()) != page.read_text()]
    for page in stale:
        if "--check" in arguments:
            print(f"{page.name}: the table differs from the registry; run `python docs/tables.py`")
        else:
            page.write_text(filled(page.read_text()))
            print(f"{page.name}: table written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
