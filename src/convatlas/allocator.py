"""What glibc does with memory that is freed, in a process that is ours.

By default glibc gives a large block back to the system, and the next operation of a network takes a fresh one: each
page of it is then handed out and cleared anew. A process that keeps what it had saves that time, and holds more memory.
What counts as large grows, up to 32 MiB, with the blocks that were freed; smaller ones are cut from a heap, which in
the end holds half as much again as lives in it. A process that gives back every block holds what lives, and is slower.
It is a setting of a whole process, so only a program may make it for itself, never a library on import.
"""

from __future__ import annotations

import ctypes

# mallopt(3), and what glibc has or arrives at by itself (mallopt.3, M_MMAP_THRESHOLD: the dynamic threshold's limit)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_MIB = 2**20
# once it is set, the threshold grows no more
_TRIM, _GIVE_BACK = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 2**31 - 1}, {_MMAP_THRESHOLD: 2**16}
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MIB}
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB, _TOP_PAD: 2**17}

_arranged = False


def keep() -> bool:
    """Keep freed memory in this process from now on; False where the C library cannot."""
    return _arrange(_KEEP)


def trim() -> bool:
    """Give back freed blocks of 32 MiB or more from now on, of which there are few, and keep the heap of the others.

    False where the C library cannot.
    """
    return _arrange(_TRIM)


def give_back() -> bool:
    """Give back whatever is freed, if it is 64 KiB or more, from now on; False where the C library cannot."""
    return _arrange(_GIVE_BACK)


def as_usual() -> None:
    """Undo all of this: in a child of a process which set its allocator, or between two measurements."""
    global _arranged
    if _arranged:
        _set(_USUAL)
        ctypes.CDLL(None).malloc_trim(0)
        _arranged = False


def _arrange(options: dict[int, int]) -> bool:
    global _arranged
    as_usual()
    _arranged = _set(options)
    return _arranged


def _set(options: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in options.items())
