"""SIGINT and SIGTERM as a request that the loop answers between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType
from typing import NoReturn

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


GRACE_SECONDS = 8.0  # for the step in work; a checkpoint is promised within ten


class StopRequest:
    """Whether a signal has asked for the end, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._deadline: threading.Timer | None = None

    def made(self, number: signal.Signals) -> None:
        """A signal has come: the loop has `GRACE_SECONDS` to notice."""
        self.signal = number
        self._deadline = threading.Timer(GRACE_SECONDS, self._give_up)
        self._deadline.daemon = True
        self._deadline.start()

    def noticed(self) -> None:
        """The loop has ended its step and saves; that may take the time that it takes."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _give_up(self) -> None:
        """A step longer than the grace: what it computed is lost, the checkpoint before it is not."""
        sys.stderr.write(
            f"convatlas: the step in work did not end within {GRACE_SECONDS:g} s and was given up; "
            "what was before it is in the last checkpoint. Go on with: convatlas train --resume RUN\n"
        )
        sys.stderr.flush()
        _leave(self.exit_code)

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return EXIT_CODES[self.signal or signal.SIGTERM]


@contextmanager
def listening() -> Generator[StopRequest]:
    """Turn the first signal into a `StopRequest`; the second one ends the process at once.

    Handlers are given back at the end. Outside the main thread, where Python allows no handler, the
    request simply never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request:
            _leave(EXIT_CODES[signal.Signals(number)])
        request.made(signal.Signals(number))

    previous = {number: signal.signal(number, handle) for number in EXIT_CODES}
    try:
        yield request
    finally:
        request.noticed()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(code: int) -> NoReturn:
    """End this process and its children now. Durable files are whole at every moment."""
    for child in active_children():
        child.kill()
    os._exit(code)
