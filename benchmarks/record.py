"""What a benchmark keeps: a line for every cell, so that the next call goes on after it, and a dated file.

A cell is what is measured in one go: some minutes, with the ceiling of the machine measured first and the work of
others counted. A cell counts if nobody else worked meanwhile, and if it is of this processor and this torch.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

from convatlas.bench.pool import QUIET
from convatlas.bench.processors import worked
from convatlas.errors import ConvAtlasError
from convatlas.files import write_durable
from convatlas.measure.machine import has_bf16, machine, versions
from convatlas.measure.roof import measure_roof

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STAMPS = ("measured", "torch", "processor", "ceiling_macs_per_second", "others", "seconds")
Records = Mapping[str, Mapping[str, Any]]  # by the names of cells


class Cell(Protocol):
    """What is measured in one go."""

    @property
    def timed(self) -> bool:
        """Whether the work of others spoils it."""
        ...

    @property
    def name(self) -> str:
        """How it is called in the file, and for `--only`."""
        ...

    def run(self, found: Records) -> Mapping[str, Any]:
        """Measure it; `found` has what was measured here before, without failures."""
        ...

    def words(self, record: Mapping[str, Any]) -> str:
        """Its figures in a line."""
        ...


# --- lines ------------------------------------------------------------------------------------------------


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The last line of every cell; a line that was cut off by a kill is passed over."""
    found: dict[str, dict[str, Any]] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
                found[record["cell"]] = record
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return found


def append(file: Path, record: Mapping[str, Any]) -> None:
    """One more line, on the disk before this returns; a torn last line is ended first."""
    torn = file.exists() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
    with file.open("a") as out:
        out.write(("\n" if torn else "") + json.dumps(record) + "\n")
        out.flush()
        os.fsync(out.fileno())


# --- cells ------------------------------------------------------------------------------------------------


def beside() -> dict[str, dict[str, float]]:
    """Multiply-adds a second of the convolutions that `convatlas bench` measures, for what begins after it."""
    rates = measure_roof(2.0).rates
    kernels = ("conv fp32", "conv bf16")
    return {"ceiling_macs_per_second": {kernel: rates[kernel].per_second for kernel in kernels}}


@cache
def here() -> dict[str, str]:
    """Whose figures these are."""
    return {"torch": versions()["torch"], "processor": machine()["processor"]}


def observed(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What `work` gives, or its failure; with the ceiling, the seconds, and how many cores others took meanwhile.

    The processes of `work` have ended when it returns, so that their times are ours.
    """
    told: dict[str, Any] = {"measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    told |= {**here(), **beside()}
    begin, before, own = time.monotonic(), worked(), sum(os.times()[:4])
    try:
        told |= work()
    except ConvAtlasError as error:
        told["failure"] = str(error)
    except subprocess.CalledProcessError as error:
        told["failure"] = f"exit code {error.returncode}: {' '.join((error.stderr or '').splitlines()[-1:])}"
    seconds = time.monotonic() - begin
    others = (worked() - before - (sum(os.times()[:4]) - own)) / seconds
    return told | {"seconds": round(seconds, 1), "others": round(max(others, 0.0), 3)}


def counts(record: Mapping[str, Any] | None, since: str = "", *, timed: bool = True) -> bool:
    """Whether a cell has been measured here, since that day, and nobody else worked meanwhile if it is `timed`."""
    if (
        record is None
        or "failure" in record
        or any(record.get(name) != value for name, value in here().items())
    ):
        return False
    return record["measured"] >= since and (not timed or record["others"] <= QUIET)


def stamps(record: Mapping[str, Any]) -> dict[str, Any]:
    """When and beside what a cell was measured."""
    return {name: record[name] for name in STAMPS}


def measured(cells: Sequence[Cell], options: argparse.Namespace) -> Records | None:
    """Measure the chosen cells that are missing, or list them; the records of all, or None while one is missing."""
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, options.only)]
    if not chosen:
        raise SystemExit(f"no cell is called {options.only!r}; --list prints all.")
    if not Path("/proc/stat").exists():
        raise SystemExit("what others take of a machine is counted on Linux only.")
    found = read(options.cells)

    def done(cell: Cell) -> bool:
        return counts(found.get(cell.name), options.since, timed=cell.timed)

    for cell in chosen:
        if options.list:
            print(f"{cell.name}{'  done' if done(cell) else ''}")
        elif options.again or not done(cell):
            before = {name: record for name, record in found.items() if counts(record, timed=False)}
            record = {"cell": cell.name, **observed(partial(cell.run, before))}
            append(options.cells, record)
            found[cell.name] = record
            figures = record["failure"] if "failure" in record else cell.words(record)
            busy = "" if done(cell) else "; it will be measured again"
            print(
                f"{cell.name}: {figures}; {record['seconds']} s, others took {record['others']:.2f} core{busy}",
                flush=True,
            )
    missing = [cell.name for cell in cells if not done(cell)]
    if missing and not options.list:
        print(f"{len(missing)} of {len(cells)} cells are missing.")
    return None if missing or options.list else {cell.name: found[cell.name] for cell in cells}


def ends(main: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> NoReturn:
    """Leave the process with what `main` gives; Ctrl-C is no error of ours."""
    try:
        raise SystemExit(main(options))
    except KeyboardInterrupt:
        print("stopped; what was done is kept.")
        raise SystemExit(130) from None


# --- options and files ------------------------------------------------------------------------------------


def day(text: str) -> str:
    """A day as 2026-11-30, not in the future; "" is none."""
    if not text:
        return text
    wrong = f"{text!r} is no day; expected is one such as 2026-11-30, not after today."
    try:
        given = datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(wrong) from None
    if given > datetime.datetime.now(datetime.UTC).date():
        raise argparse.ArgumentTypeError(wrong)
    return given.isoformat()


def add_since(parser: argparse.ArgumentParser) -> None:
    """`--since DAY`."""
    parser.add_argument(
        "--since", type=day, default="", metavar="DAY", help="what is older than it is missing"
    )


def add_options(parser: argparse.ArgumentParser, cells: Path) -> None:
    """The options that `measured` knows."""
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of the names of cells")
    parser.add_argument("--list", action="store_true", help="print the cells, and measure none")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    add_since(parser)
    parser.add_argument("--cells", type=Path, default=cells)
    parser.add_argument("--results", type=Path, default=RESULTS)


def called(name: str, bf16: bool | None = None) -> str:
    """What a result is called: those of processors without arithmetic for bf16, as this one may be, are kept apart."""
    return name if (has_bf16() if bf16 is None else bf16) else f"{name}-without-bf16"


def dated(name: str, report: Mapping[str, Any], folder: Path = RESULTS, measured: Iterable[str] = ()) -> Path:
    """Write a result with the machine and the versions, dated by the newest of what was `measured`, or today.

    `since` in it is the day of the oldest.
    """
    days = sorted(each[:10] for each in measured) or [datetime.datetime.now(datetime.UTC).date().isoformat()]
    file = folder / f"{called(name)}-{days[-1]}.json"
    whole = {"date": days[-1], "since": days[0], "machine": machine(), "versions": versions(), **report}
    write_durable(file, (json.dumps(whole, indent=2) + "\n").encode())
    return file


def told(
    name: str,
    cells: Sequence[Cell],
    options: argparse.Namespace,
    report: Callable[[Records], Mapping[str, Any]],
) -> int:
    """Measure what is missing of the cells, and write the result once none is; 0 if nothing is missing any more."""
    found = measured(cells, options)
    if found is None:
        return int(options.only == "*" and not options.list)
    print(dated(name, report(found), options.results, (record["measured"] for record in found.values())))
    return 0
