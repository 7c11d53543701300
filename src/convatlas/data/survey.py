"""Look at every file once: hash it, decode it whole, keep its size and a thumbnail.

The survey is what `open_data` and `data check` are made from. With many files the work is done by
processes of its own that import neither torch nor the caller's script. Each owns one pipe; a process
that dies or does not answer in time costs one file, which is listed as bad, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.decode import decode, is_grey
from convatlas.data.sources.source import (
    ArraySource,
    BadFile,
    Failed,
    Item,
    Listing,
    Seen,
    Source,
    digest,
)
from convatlas.errors import BadImage, DataError

THUMB = 16  # pixels a side
_THUMB_FROM = 1024  # px of the shorter side are enough to shrink from
SMALL = 64  # px; images up to this side may be kept decoded
FEW = 200  # files that are not worth starting processes for
MANY = 5000  # images that take a second or more to look at
MAX_WORKERS = 8
_CHUNK = 48  # files a message
_ARRAYS = 4096  # arrays shrunk at once
_CHUNK_SECONDS = 120.0
_FILE_SECONDS = 30.0
_WORKER_BYTES = 3 * 2**30  # address space of a worker
_KEPT_BYTES = 2**30


@dataclass
class Survey:
    """Every accepted sample, sorted by key, and every bad file, once."""

    source: Source
    listing: Listing
    items: list[Item]
    hashes: list[str]
    sizes: NDArray[np.int32]  # (N, 2): width, height
    grey: NDArray[np.bool_]  # (N,)
    thumbs: NDArray[np.uint8]  # (N, THUMB, THUMB, 3)
    bad: list[BadFile]
    kept: dict[int, bytes] = field(default_factory=dict[int, bytes])  # position -> pixels (H, W, 3)
    seconds: float = 0.0


def survey(
    source: Source,
    *,
    workers: int | None = None,
    keep: bool = False,
    told: Callable[[str], None] | None = None,
) -> Survey:
    """Read and decode every sample of `source`. Raises `DataError` if it has none at all.

    `workers`: processes; None takes one per core for many files and none for few. `keep`: also give the
    pixels of images up to 64 px, so that they need not be decoded again. `told`: gets a sentence before many are read.
    """
    start = time.perf_counter()
    listing = source.listing()
    items = listing.items
    keep = keep and source.encoded
    budget = _kept_bytes() if keep else 0
    memory = source.memory(items)
    rest = [position for position in range(len(items)) if position not in memory.known]
    if told is not None and len(rest) >= MANY:
        told(f"looking at {len(rest):,} images")
    count = _worker_count(workers, len(rest), source)
    found: list[Seen | None] = [memory.known.get(position) for position in range(len(items))]
    bad, kept = list(listing.bad), dict[int, bytes]()
    new = [items[position] for position in rest]
    if isinstance(source, ArraySource):
        results = _arrays(source, new)
    else:
        results = _parallel(source, new, count, keep) if count else _serial(source, new, keep)
    for row, result in results:
        position = rest[row]
        memory.add(position, result)
        if isinstance(result, Failed):
            bad.append(BadFile(items[position].key, *result))
            continue
        if result.pixels is not None and (budget := budget - len(result.pixels)) >= 0:
            kept[position] = result.pixels
        found[position] = result._replace(pixels=None)
    good = [position for position, seen in enumerate(found) if seen is not None]
    seen = [seen for seen in found if seen is not None]
    thumbs = np.frombuffer(b"".join(one.thumb for one in seen), np.uint8).reshape(-1, THUMB, THUMB, 3)
    return Survey(
        source=source,
        listing=listing,
        items=[items[position] for position in good],
        hashes=[one.hash for one in seen],
        sizes=np.array([(one.width, one.height) for one in seen], np.int32).reshape(-1, 2),
        grey=np.array([one.grey for one in seen], np.bool_),
        thumbs=thumbs,
        bad=sorted(bad),
        kept={new: kept[old] for new, old in enumerate(good) if old in kept} if budget >= 0 else {},
        seconds=time.perf_counter() - start,
    )


def look(source: Source, item: tuple[Any, str], keep: bool) -> Seen | Failed:
    """Read, hash, decode and shrink one sample: `item` is (place, key)."""
    place, key = item
    try:
        content = source.content(place)
        pixels = decode(content)
    except BadImage as error:
        return Failed(error.reason, error.detail)
    except Exception as error:  # one file must not end the survey of the others
        return Failed("decoder failed", f"{key}: {type(error).__name__}: {error}"[:200])
    height, width, _ = pixels.shape
    grey = is_grey(pixels)
    step = max(1, min(height, width) // _THUMB_FROM)  # a copy of a large image would double its memory
    thumb = Image.fromarray(pixels[::step, ::step]).resize(
        (THUMB, THUMB), Image.Resampling.BILINEAR, reducing_gap=4.0
    )
    small = pixels.tobytes() if keep and max(height, width) <= SMALL else None
    return Seen(digest(content), width, height, grey, thumb.tobytes(), small)


def _serial(source: Source, items: Sequence[Item], keep: bool) -> Iterator[tuple[int, Seen | Failed]]:
    for position, item in enumerate(items):
        yield position, look(source, (item.place, item.key), keep)


def _arrays(source: ArraySource, items: Sequence[Item]) -> Iterator[tuple[int, Seen]]:
    """The same for arrays of one size each, many at once."""
    for start in range(0, len(items), _ARRAYS):
        some = items[start : start + _ARRAYS]
        arrays = [source.array(item.place) for item in some]
        shapes = {array.shape for array in arrays}
        for shape in sorted(shapes):
            rows = [row for row, array in enumerate(arrays) if array.shape == shape]
            down, across = (_resampling(length) for length in shape)
            shrunk = down @ np.stack([arrays[row] for row in rows]).astype(np.float32) @ across.T
            thumbs = np.repeat(np.rint(shrunk).clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)
            for row, thumb in zip(rows, thumbs, strict=True):
                hashed = digest(source.content(some[row].place))
                yield start + row, Seen(hashed, shape[1], shape[0], True, thumb.tobytes(), None)


def _resampling(length: int) -> NDArray[np.float32]:
    """Pillow's antialiased bilinear filter from `length` to `THUMB` pixels as a matrix (THUMB, length)."""
    impulses = Image.fromarray(np.eye(length, dtype=np.float32))
    return np.asarray(impulses.resize((length, THUMB), Image.Resampling.BILINEAR))


def _kept_bytes() -> int:
    """At most a quarter of the memory that is free now, and at most 1 GiB."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return _KEPT_BYTES // 4
    return min(_KEPT_BYTES, free // 4)


def _worker_count(asked: int | None, files: int, source: Source) -> int:
    if not source.encoded or not sys.executable or os.name != "posix":
        return 0
    if asked is not None:
        return min(asked, MAX_WORKERS, max(1, files))
    if files < FEW:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


# --- processes --------------------------------------------------------------------------------------


class _Worker:
    """One process, its pipe, and the positions that it has in hand."""

    def __init__(self, source: Source, keep: bool) -> None:
        ours, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from convatlas.data.survey import serve; serve({theirs.fileno()})"
        )
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own code
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.pipe, self.positions, self.deadline = ours, list[int](), 0.0
        self.pipe.send((source, keep))

    def give(self, positions: list[int], items: Sequence[Item]) -> None:
        self.positions = positions
        self.deadline = time.monotonic() + (_CHUNK_SECONDS if len(positions) > 1 else _FILE_SECONDS)
        with contextlib.suppress(OSError):  # a dead worker is noticed when its answer is awaited
            self.pipe.send([(items[position].place, items[position].key) for position in positions])

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def _parallel(
    source: Source, items: Sequence[Item], count: int, keep: bool
) -> Iterator[tuple[int, Seen | Failed]]:
    """Results in the order in which they come. A chunk whose worker fails is tried again file by file."""
    chunks = deque(list(range(i, min(i + _CHUNK, len(items)))) for i in range(0, len(items), _CHUNK))
    workers: list[_Worker] = []
    failures = 0  # in a row, of workers that never answered
    try:
        while chunks or any(worker.positions for worker in workers):
            while chunks and len(workers) < count:
                workers.append(_Worker(source, keep))
            for worker in workers:
                if chunks and not worker.positions:
                    worker.give(chunks.popleft(), items)
            busy = {worker.pipe: worker for worker in workers if worker.positions}
            ready = {busy[pipe] for pipe in wait(list(busy), timeout=1.0) if isinstance(pipe, Connection)}
            for worker in busy.values():
                late = time.monotonic() > worker.deadline
                if worker not in ready and not late:
                    continue
                try:
                    results = worker.pipe.recv() if worker in ready else None
                except (EOFError, OSError):
                    results = None
                if results is not None:
                    failures = 0
                    yield from zip(worker.positions, results, strict=True)
                    worker.positions = []
                    continue
                workers.remove(worker)
                worker.end()
                failures += 1
                if failures > 20:
                    raise DataError("the processes that decode images end at once; try workers=0 to see why.")
                if len(worker.positions) == 1:
                    why = "no answer in time" if late else "the process that decoded it died"
                    yield worker.positions[0], Failed("decoder failed", why)
                else:
                    chunks.extendleft([position] for position in worker.positions)
    finally:
        for worker in workers:
            worker.end()


def serve(descriptor: int) -> None:
    """A worker's life: answer chunks until the pipe closes, which it also does when the parent dies."""
    import resource  # not on every system, and only needed here

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, resource.RLIM_INFINITY))
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        source, keep = pipe.recv()
        while True:
            pipe.send([look(source, item, keep) for item in pipe.recv()])
