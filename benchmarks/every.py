"""The tables of the docs that `docs/speed_results.py` writes, measured again: what is missing, or all of them.

    pip install -e '.[bench,fast]'
    python benchmarks/every.py [--data DATA] [--only PATTERN] [--again] [--list]

The cells of speed.py and the files beside it, one after the other; each writes a dated JSON into
`benchmarks/results/`, and a file that has one is done. After them `docs/speed_results.py` makes the pages. Some hours
on two cores; without --again, what was interrupted goes on with the same command. Not among them: the speedrun, which
reads test images and has its commands on its page, the kernels of design/kernels.md (kernels.py), and what the rule
knows (`convatlas/train/speed.json`). Measured, never asserted.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FILES: Mapping[str, bool] = {  # in this order, and whether it needs real pictures
    "speed": False,  # leaves out the cells of real pictures without them
    "startup": False,
    "settings": False,
    "waiting": True,
    "feeding": True,
    "epochs": True,
    "accuracy": True,
}
BY_PARTS = ("speed", "accuracy")  # which go on where they stopped, and begin anew only if they are told to


def results(name: str, folder: Path = RESULTS) -> list[Path]:
    """The dated results of a file, the newest last."""
    return sorted(folder.glob(f"{name}-????-??-??.json"))


def main(options: argparse.Namespace) -> int:
    """Run what is missing; 0 if all of it came to its end."""
    failed: list[str] = []
    chosen = [name for name in FILES if fnmatch.fnmatch(name, options.only)]
    if not chosen:
        raise SystemExit(f"no file is called {options.only!r}; there are {', '.join(FILES)}.")
    for name in chosen:
        if options.list:
            there = results(name)
            print(f"{name}{f'  {there[-1].name}' if there else ''}")
        elif FILES[name] and options.data is None:
            print(f"{name}: real pictures need --data DATA or CONVATLAS_DATA; left out.")
        elif name == "speed" or options.again or not results(name):  # speed.py knows its cells itself
            words = [sys.executable, str(HERE / f"{name}.py")]
            words += ["--again"] if name in BY_PARTS and options.again else []
            given = {} if options.data is None else {"CONVATLAS_DATA": str(options.data)}
            print(f"--- {name}", flush=True)
            failed += [name] if subprocess.call(words, env={**os.environ, **given}) else []
    if failed:
        print(f"not done: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA") or None)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of the files, such as 'feeding'")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument(
        "--list", action="store_true", help="print the files with their newest results, and run none"
    )
    raise SystemExit(main(parser.parse_args()))
