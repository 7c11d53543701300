"""Draw the charts of `compare.md`: `python docs/charts.py`, or with --check compare only.

The page asks for one with `<!-- chart: NAME -->`; `charts/NAME.svg` is drawn from the registry and from the networks.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from convatlas.audit import canon

PAGE = Path(__file__).parent / "compare.md"
REQUEST = re.compile(r"<!-- chart: (\w+) -->\n!\[[^\]]+\]\(charts/(\w+)\.svg\)")
CHARTS = {
    "error_and_macs": canon.bubble_chart,
    "error_and_parameters": canon.parameters_chart,
    "contest": canon.contest_bars,
}


def main(arguments: list[str]) -> int:
    """Write or compare every chart that the page shows."""
    stale: list[str] = []
    for name, shown in REQUEST.findall(PAGE.read_text()):
        if name != shown:
            print(f"{PAGE.name}: asks for {name} and shows {shown}")
            return 1
        file, drawing = PAGE.parent / "charts" / f"{name}.svg", CHARTS[name]()
        if file.exists() and file.read_text() == drawing:
            continue
        stale.append(name)
        if "--check" in arguments:
            print(f"{name}: differs from the registry; run `python docs/charts.py`")
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(drawing)
            print(f"{name}: drawn")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
