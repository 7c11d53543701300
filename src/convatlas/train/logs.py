"""The two logs of a run, cut back to the checkpoint that it goes on from, and the clock that one of them is fed by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from convatlas.data import Batch
from convatlas.files import AppendLog
from convatlas.train.checkpoint import State
from convatlas.train.run import RunFolder


class Logs:
    """metrics.jsonl holds values that the same run writes again, byte for byte; timing.jsonl holds seconds.

    Only the process that `writes` has them; the methods of others do nothing.
    """

    def __init__(self, folder: RunFolder, *, writes: bool) -> None:
        self._folder, self.writes = folder, writes
        self._metrics: AppendLog | None = None
        self._timing: AppendLog | None = None

    def open(self, state: State) -> None:
        """Cut both back to where `state` was saved, and append from there."""
        self.close()
        if self.writes:
            self._metrics = AppendLog(self._folder.metrics_path, state.metrics_offset)
            self._timing = AppendLog(self._folder.timing_path, state.timing_offset)

    def metric(self, **record: Any) -> None:
        """A line of metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.append(record)

    def time(self, **record: Any) -> None:
        """A line of timing.jsonl."""
        if self._timing is not None:
            self._timing.append(record)

    def sync(self, state: State) -> None:
        """Put what was written on the disk, and note in `state` how far that is."""
        if self._metrics is not None and self._timing is not None:
            self._metrics.sync()
            self._timing.sync()
            state.metrics_offset, state.timing_offset = self._metrics.offset, self._timing.offset

    def close(self) -> None:
        """Close both; `open` opens them again."""
        for log in (self._metrics, self._timing):
            if log is not None:
                log.close()
        self._metrics = self._timing = None


class Clock:
    """Seconds of an epoch, and how many of them the loop waited for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.waited = 0.0
        self.images = 0

    def seconds(self) -> float:
        """Since the clock was made."""
        return time.monotonic() - self._start

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time that they take to come is counted."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch
