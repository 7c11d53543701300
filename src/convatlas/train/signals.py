"""SIGINT and SIGTERM as a request that the loop answers between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Whether a signal has asked for the end, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

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
            for child in active_children():
                child.kill()
            os._exit(EXIT_CODES[signal.Signals(number)])
        request.signal = signal.Signals(number)

    previous = {number: signal.signal(number, handle) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
