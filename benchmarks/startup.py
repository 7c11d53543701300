"""How long `convatlas --help` takes from a cold start of Python; the goal is 0.15 s on a current machine.

    python benchmarks/startup.py [RUNS]

Prints the fastest and the median of `RUNS` (default 15), and what `python -c pass` takes for comparison. It is measured
and never asserted: a busy machine is slow.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence


def seconds(command: Sequence[str]) -> float:
    """Wall time of one run."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main(runs: int) -> None:
    """Measure, alternating, so that a change of the machine's load meets both alike."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "convatlas --help": [sys.executable, "-m", "convatlas", "--help"],
        "convatlas train --help": [sys.executable, "-m", "convatlas", "train", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    result = {
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "runs": runs,
        "seconds": {
            name: {"fastest": round(min(each), 3), "median": round(statistics.median(each), 3)}
            for name, each in times.items()
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
