"""How long `convatlas` takes from a cold start of Python to its first words.

    pip install -e .
    python benchmarks/startup.py [RUNS]

The goals on a current machine: 0.15 s for `--help`, 6 s until `train` has made its first step. Prints the fastest and
the median of `RUNS` (default 15; a third of them for what takes seconds), the processor time, and what `python -c pass`
and `import torch` take for comparison, and writes `benchmarks/results/startup-DATE.json`. It is measured and never
asserted: a busy machine is slow.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import beside, dated

PYTHON = [sys.executable]
CONVATLAS = [sys.executable, "-m", "convatlas"]
LONG = ("digits", "list", "import torch")  # what takes seconds
COMMANDS = {
    "python -c pass": [*PYTHON, "-c", "pass"],
    "python -c 'import torch'": [*PYTHON, "-c", "import torch"],
    "convatlas --help": [*CONVATLAS, "--help"],
    "convatlas train --help": [*CONVATLAS, "train", "--help"],
    "convatlas list": [*CONVATLAS, "list"],
    "convatlas train digits, its first step": [*CONVATLAS, "train", "digits", "--model", "lenet5", "--json"],
}


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Wall time and processor time of one run, or until it says that it has made a step."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        where = ["--out", str(Path(folder) / "run")] if "digits" in command else []
        with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"event": "step"'):
                    break
            wall = time.perf_counter() - begin
            os.kill(process.pid, signal.SIGKILL)  # Popen.kill would collect the child, and its times with it
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
    return wall, used.ru_utime + used.ru_stime


def main(runs: int) -> None:
    """Measure, alternating, so that a change of the machine's load meets all alike."""
    ceiling, times = beside(), dict[str, list[tuple[float, float]]]((name, []) for name in COMMANDS)
    for number in range(runs):
        for name, command in COMMANDS.items():
            if number % 3 == 0 or not any(word in name for word in LONG):
                times[name].append(seconds(command))
    result = {
        "command": f"python benchmarks/startup.py {runs}",
        **ceiling,
        "seconds": {
            name: {
                "fastest": round(min(wall for wall, _ in each), 3),
                "median": round(statistics.median(wall for wall, _ in each), 3),
                "processor": round(statistics.median(used for _, used in each), 3),
                "runs": len(each),
            }
            for name, each in times.items()
        },
    }
    print(json.dumps(result["seconds"], indent=2))
    print(dated("startup", result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
