"""What the command line does to its own process. A program that calls a command keeps its settings."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from convatlas import allocator

_own = False


@contextmanager
def owned(really: bool) -> Generator[None]:
    """For the time of a command: whether this process was started for it, and not for a program that calls it."""
    global _own
    _own = really
    try:
        yield
    finally:
        _own = False


def is_own() -> bool:
    """Whether the process was started for the command."""
    return _own


def keep_memory() -> None:
    """Keep freed memory, where the process is our own: networks that only look are 1.3 to 3 times faster so."""
    if _own:
        allocator.keep()


SPINS = "10000"  # libgomp's own is 300,000; measured in docs/design/threads.md


@contextmanager
def patient_threads() -> Generator[None]:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the user has said how they wait.

    By default they spin for long, which takes the cores from loops of our own and from other programs. Where they sleep
    at once, an idle machine loses a fifth to waking them. The results are the same bits.
    OpenMP reads this when torch is loaded, so the process of the command line is the place to set it.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
