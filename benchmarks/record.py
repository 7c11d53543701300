"""What a benchmark keeps: a line for every cell, so that the next call goes on after it, and a dated file."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convatlas.bench.pool import QUIET
from convatlas.bench.processors import worked
from convatlas.measure.machine import machine, versions
from convatlas.measure.roof import measure_roof

HERE = Path(__file__).parent
RESULTS = HERE / "results"


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


def ceiling(seconds: float = 8.0) -> dict[str, float]:
    """Multiply-adds a second of the convolutions that `convatlas bench` measures."""
    rates = measure_roof(seconds).rates
    return {kernel: rates[kernel].per_second for kernel in ("conv fp32", "conv bf16")}


def observed(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What `work` gives, and beside it the ceiling, the seconds it took and how many cores others took meanwhile.

    The processes of `work` have ended when it returns, so that their times are ours.
    """
    told: dict[str, Any] = {"measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    told["ceiling_macs_per_second"] = ceiling(2.0)
    begin, before, own = time.monotonic(), worked(), sum(os.times()[:4])
    told |= work()
    seconds = time.monotonic() - begin
    others = (worked() - before - (sum(os.times()[:4]) - own)) / seconds
    return told | {"seconds": round(seconds, 1), "others": round(max(others, 0.0), 3)}


def quiet(record: Mapping[str, Any] | None, since: str = "") -> bool:
    """Whether a cell has been measured, since that day, and nobody else worked meanwhile."""
    return record is not None and record["others"] <= QUIET and record["measured"] >= since


def dated(name: str, report: Mapping[str, Any], folder: Path = RESULTS, date: str = "") -> Path:
    """Write a result with its date (today), the machine and the versions, or the report's own where it has them."""
    day = date or datetime.datetime.now(datetime.UTC).date().isoformat()
    file = folder / f"{name}-{day}.json"
    whole = {"date": day, "machine": machine(), "versions": versions(), **report}
    file.write_text(json.dumps(whole, indent=2) + "\n")
    return file
