"""Whose processor time it was: all that the machine worked, and what one group of processes worked of it.

A block of a benchmark counts only if nobody else wanted the processors. The kernel keeps both sums, in ticks of
usually 10 ms: `/proc/stat` for all processors, `/proc/PID/stat` for each process and its ended children. Linux only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_WORKING = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: all but idle and waiting for a disk
_STATE, _GROUP, _TIMES = (
    0,
    2,
    slice(11, 15),
)  # after the name: state; process group; utime, stime, cutime, cstime


def worked() -> float:
    """Seconds that all processors of this machine worked since it started, those that a host took away among them."""
    fields = (PROC / "stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[position]) for position in _WORKING if position < len(fields)) / _TICKS


def worked_by(group: int) -> float:
    """Seconds that the living processes of a process group worked, with their children that have ended."""
    return sum(sum(map(int, fields[_TIMES])) for fields in _members(group)) / _TICKS


def at_rest(group: int) -> bool:
    """Whether every process of a group is stopped, or has ended."""
    return all(fields[_STATE] in "TtZX" for fields in _members(group))


def _members(group: int) -> Iterator[list[str]]:
    """What the kernel says of each living process of a group, after its name."""
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # ended while we looked
                continue
            fields = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
            if int(fields[_GROUP]) == group:
                yield fields
