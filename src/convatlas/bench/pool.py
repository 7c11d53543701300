"""Sides of a comparison, each in a process group of its own, of which one runs at a time.

Whoever is not running is stopped (SIGSTOP), with all processes that decode for it: nobody fills queues in the time of
another. A group is killed when its side is closed. Should this process die first, the kernel hangs up its groups, since
they are background groups of its session.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from convatlas.bench.gate import Pipe
from convatlas.bench.processors import at_rest, worked, worked_by
from convatlas.errors import ConvAtlasError, ResourceError

QUIET = 0.12  # cores: blocks in which others took more are dropped
STOPPED = 5.0  # seconds that a group may take to stop
PATIENCE = 600.0  # seconds for one turn or a start; then something hangs
_OWN_SETTINGS = ("GOMP_SPINCOUNT",)  # that the command line makes for itself; see cli/main.py


@dataclass(frozen=True, slots=True)
class Block:
    """Steps in a row of one side.

    `others` is how many cores other processes took on the average meanwhile; `peak_bytes` the largest resident memory
    of the side's main process since it was warm.
    """

    seconds: float
    steps: int
    images: int
    others: float
    loss: float | None = None
    peak_bytes: int | None = None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def quiet(self) -> bool:
        """Whether nobody else wanted the processors."""
        return self.others <= QUIET

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Side:
    """A process that waits at a gate; `command` is given the number of its end of the channel as last word.

    It is given `patience` seconds for a turn.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        task: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name, self.patience = name, patience
        near, far = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the side
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [*command, str(far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[far.fileno()],
                process_group=0,
                env=dict(environment) if environment is not None else None,
            )
        self._pipe = Pipe(Connection(near.detach()))
        self.facts: dict[str, Any] = {}
        try:
            self._tell(task)
            self.facts = self._answer()["ready"]
        except BaseException:
            self.close()
            raise
        self._stop()

    def block(self, steps: int, *, new_peak: bool = False) -> Block:
        """Let it run so many steps, fewer where an epoch has fewer."""
        told, others = self.turn({"steps": steps, "new_peak": new_peak})
        return Block(told["seconds"], told["steps"], told["images"], others, told["loss"], told["peak_bytes"])

    def turn(self, wish: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Let it go on until it answers: its answer, and how many cores other processes took meanwhile."""
        before, own_before, begin = worked(), self._worked(), time.perf_counter()
        self._tell(wish)
        self._signal(signal.SIGCONT)
        told = self._answer()
        self._stop()
        seconds = time.perf_counter() - begin
        own = self._worked() - own_before
        return told, max(worked() - before - own, 0.0) / seconds

    def close(self) -> None:
        """End it and all its processes, also those that outlived their first."""
        if not self._log.closed:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._pipe.connection.close()
            self._log.close()

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self._pipe.tell(message)
        except OSError:  # it has gone
            self._process.wait()
            raise self._failure() from None

    def _answer(self) -> dict[str, Any]:
        """What it says next. Raises the failure that it ended with."""
        until = time.monotonic() + self.patience
        while not self._pipe.connection.poll(0.5):
            if self._process.poll() is not None and not self._pipe.connection.poll(0):
                raise self._failure()
            if time.monotonic() > until:
                raise ResourceError(
                    f"{self.name} did not end its turn in {self.patience:g} s.\n{self._said()}"
                )
        try:
            return self._pipe.ask()
        except (EOFError, OSError):
            self._process.wait()
            raise self._failure() from None

    def _failure(self) -> ConvAtlasError:
        """The side's own last words, with its exit code where it has one of ours."""
        code = self._process.returncode
        hint = " (killed, as Linux does where memory runs out)" if code == -signal.SIGKILL else ""
        error = ConvAtlasError(f"{self.name} ended with code {code}{hint} before its time.\n{self._said()}")
        if code in range(2, 7):
            error.exit_code = code
        return error

    def _said(self, lines: int = 12) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").strip().splitlines()[-lines:])

    def _worked(self) -> float:
        return worked_by(self._process.pid) + _worked_here()

    def _stop(self) -> None:
        """Stop the group, and wait until the kernel has done it: on a busy machine that takes a moment."""
        self._signal(signal.SIGSTOP)
        until = time.monotonic() + STOPPED
        while not at_rest(self._process.pid) and time.monotonic() < until:
            time.sleep(0.002)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _worked_here() -> float:
    """Seconds of this process: it waits, but its looking at others costs something."""
    times = os.times()
    return times.user + times.system


def given_environment() -> dict[str, str]:
    """The environment as the user gave it to this process, without what the command line has set for itself."""
    try:
        first = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        first = []
    given = {os.fsdecode(pair).partition("=")[0] for pair in first}
    return {name: value for name, value in os.environ.items() if name not in _OWN_SETTINGS or name in given}


def channel(descriptor: str) -> tuple[Pipe, dict[str, Any]]:
    """In the process of a side: its channel, and its task."""
    pipe = Pipe(Connection(int(descriptor)))
    return pipe, json.loads(json.dumps(pipe.ask()))
