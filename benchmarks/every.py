"""The tables of the docs that `docs/speed_results.py` writes, measured again: what is missing, or all of them.

    pip install -e '.[bench,fast]'
    python benchmarks/every.py [--data DATA] [--only PATTERN] [--since DAY | --again] [--list]

The cells of speed.py and the files beside it, one after the other; each writes a dated JSON into
`benchmarks/results/`, and a file that has one is done, with --since if it is not older. After them
`docs/speed_results.py` makes the pages. Some hours on two cores; what was interrupted goes on with the same command,
but --again, which begins everything anew. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from record import HERE, RESULTS, add_since, called, ends

FILES: Mapping[str, bool] = {  # in this order, and whether it needs real pictures
    "speed": False,  # leaves out the cells of real pictures without them
    "startup": False,
    "rule": False,
    "settings": False,
    "kernels": False,
    "augment": False,
    "inspection": False,
    "duplicates": True,
    "waiting": True,
    "feeding": True,
    "feeding-accuracy": True,
    "epochs": True,
    "accuracy": True,
    "speedrun-test": True,
    "transfer-blood": True,
    "transfer-streets": True,
}
# which know what they have measured, and when
BY_CELLS = (
    "speed", "rule", "settings", "augment", "inspection", "feeding-accuracy", "accuracy", "speedrun-test",
    "transfer-blood", "transfer-streets",
)  # fmt: skip


def words(name: str) -> list[str]:
    """The script that measures what has this name, and its options."""
    if name.startswith("transfer-"):
        return [str(HERE / "transfer.py"), "--target", name.removeprefix("transfer-")]
    return [str(HERE / f"{name.replace('-', '_')}.py")]


def results(name: str, folder: Path = RESULTS) -> list[Path]:
    """The dated results of a file on processors like this one, the newest last."""
    return sorted(folder.glob(f"{called(name)}-????-??-??.json"))


def done(name: str, since: str) -> bool:
    """Whether there is a result of which nothing is older than that day."""
    there = results(name)
    if not there:
        return False
    oldest = json.loads(there[-1].read_text()).get("since")
    return (oldest or there[-1].stem[-len("2026-11-30") :]) >= since


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
        elif name == "speed" or options.again or not done(name, options.since):
            command = [sys.executable, *words(name)]
            command += ["--again"] if name in (*BY_CELLS, "epochs") and options.again else []
            command += ["--since", options.since] if name in BY_CELLS and options.since else []
            given = {} if options.data is None else {"CONVATLAS_DATA": str(options.data)}
            print(f"--- {name}", flush=True)
            failed += [name] if subprocess.call(command, env={**os.environ, **given}) else []
    if failed:
        print(f"not done: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA") or None)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of the files, such as 'feeding'")
    add_since(parser)
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument(
        "--list", action="store_true", help="print the files with their newest results, and run none"
    )
    ends(main, parser.parse_args())
