"""Decoded pictures on disk, for as many runs as like: `convatlas train --cache DIR`.

A cache is one file of pixels, named by the hash of everything that its pixels depend on: the content of the
images, what was made of them, and the versions that made it. Other data or other preprocessing have another
name, so a stale cache is never read. It is written beside its place and renamed when it is whole, and the
description, which is written last, makes it valid. One process makes it, others that want the same wait for it;
a lock that the kernel takes back from a dead process says who.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from convatlas.errors import BadCheckpoint, ResourceError
from convatlas.files import make_folder, read_json, write_json

RULES = 1  # of decoding and shrinking; another number makes every cache anew
_PROBES = 64  # places of the file that are compared when it is opened
_PROBED_BYTES = 4096
_LOCK_SECONDS = 0.5
_SPARE = 64 * 2**20  # bytes that a disk keeps free

Told = Callable[[str], object]  # is given a sentence
Fill = Callable[[NDArray[np.uint8]], object]


def silent(_: str) -> None:
    """Nobody wants to know."""


def cached(folder: Path, what: Mapping[str, Any], size: int, fill: Fill, told: Told) -> NDArray[np.uint8]:
    """The `size` bytes that `fill` writes into an array, from the cache in `folder`, mapped into memory.

    What is written into the array stays in this process.

    `what` is all that the bytes depend on, as JSON. `told` is given sentences: what is made and how large it is,
    for whom is waited. Raises `ResourceError` where the disk has no room, before and while it is filled; then
    nothing is left behind.
    """
    if size == 0:
        return np.empty(0, np.uint8)
    described = {**what, "rules": RULES, "pillow": pillow_version, "bytes": size}
    name = sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
    entry = _Entry(make_folder(folder), name, described, size)
    pixels = entry.open()
    if pixels is None:
        with entry.locked(told):
            pixels = entry.open()  # another process may have made it meanwhile
            if pixels is None:
                entry.make(fill, told)
                pixels = entry.open()
    if pixels is None:
        raise ResourceError(
            f"the cache {entry.pixels} was changed while it was made. Remove it, or use another folder."
        )
    return pixels


class _Entry:
    """One file of pixels with its description and its lock."""

    def __init__(self, folder: Path, name: str, described: Mapping[str, Any], size: int) -> None:
        self.folder, self.described, self.size = folder, described, size
        self.pixels, self.description = folder / f"{name}.pixels", folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"

    def open(self) -> NDArray[np.uint8] | None:
        """The pixels, if they are whole and the same as when they were written; else None."""
        try:
            found = read_json(self.description)
            if found["what"] != self.described or self.pixels.stat().st_size != self.size:
                return None
            pixels = _mapped(self.pixels, "c", self.size)
        except (BadCheckpoint, OSError, KeyError, TypeError, ValueError):
            return None
        return pixels if found.get("probes") == _probes(pixels) else None

    def make(self, fill: Fill, told: Told) -> None:
        """Fill the file, and make it valid. The lock is held, so what other attempts have left can go."""
        for left in (*self.folder.glob(f"{self.pixels.name}.tmp-*"), self.description):
            with suppress(OSError):
                left.unlink()
        free = shutil.disk_usage(self.folder).free
        told(f"cache: {self.size:,} bytes are written to {self.pixels} ({free:,} are free)")
        temporary = self.pixels.with_name(f"{self.pixels.name}.tmp-{os.getpid()}")
        try:
            if free < self.size + _SPARE:
                raise OSError(28, "No space left on device")
            with open(temporary, "wb") as file:
                os.posix_fallocate(
                    file.fileno(), 0, self.size
                )  # a full disk is met here, not as a bus error later
            pixels = _mapped(temporary, "r+", self.size)
            fill(pixels)
            probes = _probes(pixels)
            if isinstance(pixels, np.memmap):
                pixels.flush()
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.pixels)
            write_json(self.description, {"what": self.described, "probes": probes})
        except OSError as error:
            raise ResourceError(
                f"cannot keep {self.size:,} bytes of decoded pictures in {self.folder}: {error.strerror or error} "
                f"({free:,} bytes are free). Make room, name another folder with --cache DIR, or train without."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    @contextmanager
    def locked(self, told: Told) -> Generator[None]:
        """Be the only one who makes it; wait for another process that does."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResourceError(
                f"cannot write into the cache folder {self.folder}: {error.strerror}."
            ) from error
        try:
            waiting = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        told(f"cache: another process is writing {self.pixels}; waiting for it")
                    waiting = True
                    time.sleep(_LOCK_SECONDS)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a data worker that was forked meanwhile has it open too
            os.close(descriptor)


def _mapped(path: Path, mode: str, size: int) -> NDArray[np.uint8]:
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=(size,))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _probes(pixels: NDArray[np.uint8]) -> str:
    """A hash over places all over the file: tells a file that is not what was written, at the price of a moment."""
    starts = np.unique(np.linspace(0, max(len(pixels) - _PROBED_BYTES, 0), _PROBES).astype(np.int64))
    digest = sha256()
    for start in starts.tolist():
        digest.update(pixels[start : start + _PROBED_BYTES].tobytes())
    return digest.hexdigest()
