"""What glibc does with memory that is freed, in a process that is ours.

By default glibc gives every large block back to the system, and the next operation of a network takes a fresh one: each
page of it is then handed out and cleared anew. A process that keeps what it had saves that time, and holds more memory.
It is a setting of a whole process, so only a program may make it for itself, never a library on import.
"""

from __future__ import annotations

import ctypes

# mallopt(3), and what glibc has or arrives at by itself (mallopt.3, M_MMAP_THRESHOLD: the dynamic threshold's limit)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_MIB = 2**20
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MIB}
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB, _TOP_PAD: 2**17}

_kept = False


def keep() -> bool:
    """Keep freed memory in this process from now on; False where the C library cannot."""
    global _kept
    _kept = _set(_KEEP)
    return _kept


def as_usual() -> None:
    """Undo `keep`: in a child that was forked from a process which keeps memory, or between two measurements."""
    global _kept
    if _kept:
        _set(_USUAL)
        ctypes.CDLL(None).malloc_trim(0)
        _kept = False


def _set(options: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in options.items())
