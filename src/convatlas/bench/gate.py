"""The gate in a process that trains or predicts: it lets so many steps pass, and says how long they took.

A loop calls `epoch` before an epoch and `step` after every step. Between blocks `step` does not return, and the whole
process group is stopped by whoever asks, so neither a loop nor the processes that decode for it can run ahead.

A block lies inside an epoch: where too few steps are left, they pass without being counted, and the block begins after
the first step of the next epoch. So validation, checkpoints and the start of workers are in nobody's block.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from convatlas.errors import ConvAtlasError

ENDLESS = 10**6  # steps of an epoch that does not end


class Over(ConvAtlasError):  # noqa: N818 - it ends a loop, and nothing is wrong
    """Nobody wants another block."""


class Channel(Protocol):
    """The way to whoever asks for blocks."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say it."""
        ...

    def ask(self) -> dict[str, Any]:
        """The next command. Raises `EOFError` when there will be none."""
        ...


class Pipe:
    """A channel of JSON over a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say it."""
        self.connection.send_bytes(json.dumps(message).encode())

    def ask(self) -> dict[str, Any]:
        """Wait for what the other side says."""
        return json.loads(self.connection.recv_bytes())


class Gate:
    """One side's end of the channel. `facts` are told once, when the first epoch begins."""

    def __init__(
        self, channel: Channel, facts: Mapping[str, Any], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.channel, self.clock = channel, clock
        self.facts: dict[str, Any] = dict(facts)
        self._wanted = 0  # steps of the block; 0 before the first command
        self._passed = self._images = 0
        self._begin: float | None = None  # None: steps pass without being counted
        self._left = 0  # steps of this epoch

    def epoch(self, steps: int) -> None:
        """An epoch of so many steps begins."""
        self._epoch_steps = self._left = steps
        if not self._wanted:
            self.channel.tell({"ready": self.facts})
            self._next()

    def step(self, images: int, loss: float | None = None) -> None:
        """A step with so many images is over. Raises `Over` when nobody asks any more."""
        self._left -= 1
        if self._begin is None:
            if self._left == self._epoch_steps - 1:
                self._start()
            return
        self._passed += 1
        self._images += images
        if self._passed < self._wanted:
            return
        _finish_device()
        seconds = self.clock() - self._begin
        self.channel.tell(
            {
                "seconds": seconds,
                "steps": self._passed,
                "images": self._images,
                "loss": loss,
                "peak_bytes": resident("VmHWM"),
            }
        )
        self._next()

    def _next(self) -> None:
        """Wait for a command; begin its block at once if the epoch has room for it."""
        try:
            command = self.channel.ask()
        except EOFError:
            raise Over("the benchmark is over.") from None
        if command.get("new_peak"):
            forget_peak()
        self._wanted = max(1, min(int(command["steps"]), self._epoch_steps - 1))
        self._begin = None
        if self._left >= self._wanted:
            self._start()

    def _start(self) -> None:
        self._passed = self._images = 0
        self._begin = self.clock()


def resident(field: str) -> int | None:
    """Bytes of this process: VmRSS is what is resident, VmHWM the most since `forget_peak`. None where unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration, ValueError):
        return None


def forget_peak() -> None:
    """Let VmHWM begin anew, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _finish_device() -> None:
    """Wait for what an accelerator still has in hand."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
