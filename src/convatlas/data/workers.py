"""Processes that decode pictures while the network trains.

Every worker is a fork of this process with its own pipe and its own slots of shared memory. Jobs go
round: job j to worker j mod W, which fills a slot and says so; answers are taken in the order of the
jobs, so neither the number of workers nor their speed can change what comes out.

What must not happen, and why it does not:

* a worker that dies leaves the parent waiting: the parent watches pipe and process at once;
* a parent that dies leaves workers behind: the kernel kills them (`PR_SET_PDEATHSIG`); elsewhere a
  worker looks every two seconds whether it has become an orphan;
* a signal to the group kills workers while the parent wants to end its step: SIGINT and SIGTERM are
  blocked in a worker from its first instruction. The parent ends its workers, with SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas import allocator
from convatlas.errors import ConvAtlasError, DataError, ResourceError

Job = TypeVar("Job")
Finish = Callable[[Job, NDArray[np.uint8]], NDArray[np.uint8]]

AHEAD = 2  # jobs that each worker has in hand
_PR_SET_PDEATHSIG = 1
_ORPHAN_CHECK_SECONDS = 2.0
_OWN_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    slots: NDArray[np.uint8]  # (AHEAD, rows, H, W, C), shared
    row: NDArray[np.int64]  # (1,), shared: the row at work


class Workers(Generic[Job]):
    """`count` processes that run `fill(job, row, out)`, where `out` is a uint8 array (H, W, C) of zeros or rubble.

    Then `finish(job, pictures)` may make something of all rows (rows, H, W, C) together: as many bytes or fewer.
    With a count of 0 this process does the work, when it is asked for.

    `describe(job, row)` names what a row is made from, for messages. `shape` is (rows, H, W, C) of the
    largest job. The processes start with the first job and stay until `close`, or until this object
    is forgotten.
    """

    def __init__(
        self,
        count: int,
        fill: Callable[[Job, int, NDArray[np.uint8]], None],
        describe: Callable[[Job, int], str],
        shape: tuple[int, int, int, int],
        finish: Finish[Job] | None = None,
    ) -> None:
        self.count = count
        self._fill = fill
        self._finish = finish
        self._describe = describe
        self._shape = shape
        self._workers: list[_Worker] = []
        self._busy = False
        self._end = weakref.finalize(self, _end, self._workers, os.getpid())

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that have been started."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def run(self, jobs: Iterable[tuple[Job, int]]) -> Iterator[NDArray[np.uint8]]:
        """Do jobs (each with its number of rows), in order: arrays (rows, H, W, C), or what `finish` made of them.

        An array is a worker's own memory, and holds what was asked for until the next one is taken.
        Raises `DataError` with what `fill` raised, or that a worker died and what it was reading.
        """
        if self.count == 0:
            for job, rows in jobs:
                out = np.empty((rows, *self._shape[1:]), dtype=np.uint8)
                for row in range(rows):
                    self._fill(job, row, out[row])
                yield out if self._finish is None else self._finish(job, out)
            return
        if self._busy or not self._workers:  # an iteration given up halfway leaves answers in the pipes
            self.close()
            self._start()
        self._busy = True
        waiting: deque[tuple[int, Job]] = deque()
        for number, (job, rows) in enumerate(jobs):
            if len(waiting) == AHEAD * self.count:
                yield self._receive(*waiting.popleft())
            worker, slot = self._place(number)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # told when its answer is due
                worker.pipe.send((slot, rows, job))
            waiting.append((number, job))
        while waiting:
            yield self._receive(*waiting.popleft())
        self._busy = False

    def close(self) -> None:
        """End every worker and wait until it is gone. A later `run` starts new ones."""
        _end(self._workers, os.getpid())
        self._busy = False

    def _place(self, number: int) -> tuple[_Worker, int]:
        return self._workers[number % self.count], number // self.count % AHEAD

    def _receive(self, number: int, job: Job) -> NDArray[np.uint8]:
        worker, slot = self._place(number)
        try:
            if worker.pipe not in wait([worker.pipe, worker.process.sentinel]):
                raise EOFError
            answer: str | tuple[int, ...] = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died(worker, job) from None
        if isinstance(answer, str):
            self.close()
            raise DataError(answer)
        return _start_of(worker.slots[slot], answer)

    def _died(self, worker: _Worker, job: Job) -> DataError:
        worker.process.join(timeout=5)
        code, pid = worker.process.exitcode, worker.process.pid
        how = (
            f"killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"gone (exit {code})"
        )
        what = self._describe(job, int(worker.row[0]))
        self.close()
        return DataError(
            f"the data worker with process id {pid} was {how} while it read {what}. If the system ended it "
            "for want of memory, use fewer workers or a smaller batch; with 0 workers the main process reads."
        )

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        size = AHEAD * int(np.prod(self._shape))
        with _signals_blocked(), warnings.catch_warnings():
            # Since 3.12 Python warns of a fork beside threads. A worker touches none of the parent's threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(self.count):
                try:
                    slots = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8).reshape(AHEAD, *self._shape)
                    row = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)
                    ours, theirs = context.Pipe()
                    strangers = [*(worker.pipe for worker in self._workers), ours]
                    process = context.Process(
                        target=_serve,
                        args=(theirs, slots, row, self._fill, self._finish, os.getpid(), strangers),
                        name="convatlas-data",
                        daemon=True,
                    )
                    process.start()
                except OSError as error:
                    self.close()
                    raise ResourceError(
                        f"cannot start {self.count} data workers: {error.strerror or error}. "
                        "Use fewer, or 0 to read in the main process."
                    ) from error
                theirs.close()
                self._workers.append(_Worker(process, ours, slots, row))


def _start_of(slot: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The first bytes of a slot, in that shape."""
    return slot.reshape(-1)[: prod(shape)].reshape(shape)


def _end(workers: list[_Worker], owner: int) -> None:
    """Kill and reap. A worker owns nothing but memory and files open for reading, so nothing is lost."""
    mine = os.getpid() == owner  # a fork inherits this list, not these children
    while workers:
        worker = workers.pop()
        if mine:
            worker.process.kill()
            worker.process.join()
            worker.process.close()
        worker.pipe.close()


@contextlib.contextmanager
def _signals_blocked() -> Generator[None]:
    """Fork inside: the child begins, and stays, with SIGINT and SIGTERM blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: Connection,
    slots: NDArray[np.uint8],
    at: NDArray[np.int64],
    fill: Callable[[Job, int, NDArray[np.uint8]], None],
    finish: Finish[Job] | None,
    parent: int,
    strangers: list[Connection],
) -> None:
    """A worker's life: take a job, fill its slot, say what shape is in it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in _OWN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for stranger in strangers:
        stranger.close()
    torch.set_num_threads(1)
    allocator.as_usual()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while os.getppid() == parent:
            if not pipe.poll(_ORPHAN_CHECK_SECONDS):
                continue
            slot, rows, job = pipe.recv()
            try:
                for row in range(rows):
                    at[0] = row
                    fill(job, row, slots[slot, row])
                made = slots[slot, :rows]
                if finish is not None:
                    made = finish(job, made)
                    _start_of(slots[slot], made.shape)[...] = made
                pipe.send(made.shape)
            except ConvAtlasError as error:
                pipe.send(str(error))
            except Exception as error:
                pipe.send(f"a data worker failed with {type(error).__name__}: {error}")
