"""A process that has imported convatlas already and forks a child per command, with any kind of output.

Run by path it is the stage; imported, `Stage` starts one. Importing takes seconds, and the contract of the command
line is tested with streams that only a process of its own can have: closed, broken, full, in another encoding.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE = 120  # seconds of one command; then it counts as hanging


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (minus the signal that ended it), and what stood on its streams."""

    code: int
    out: str
    err: str


class Stage:
    """One command at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def run(self, *arguments: str, stdout: str = "file", encoding: str = "utf-8") -> Outcome:
        """Run `convatlas ARGUMENTS`; `stdout` is a file, closed, broken (nobody reads the pipe) or full."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"arguments": arguments, "stdout": stdout, "encoding": encoding}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Outcome(code, out, err)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def arrange(job: dict[str, Any]) -> None:
    """Put the streams of this process into the state that the job asks for, as if it had been started so."""
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    file = os.open("stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    match job["stdout"]:
        case "file":
            os.dup2(file, 1)
        case "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        case "broken":
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, 1)
        case "closed":
            os.close(1)

    sys.stderr = open(2, "w", encoding=job["encoding"], errors="backslashreplace", closefd=False)  # noqa: SIM115
    closed = job["stdout"] == "closed"
    sys.stdout = None if closed else open(1, "w", encoding=job["encoding"], errors="strict", closefd=False)  # noqa: SIM115


def serve() -> None:
    """Fork for each line of standard input, until it ends."""
    import torch

    import convatlas.api  # noqa: F401 - imported once, here
    from convatlas.cli import main

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.alarm(DEADLINE)
            code = 99
            try:
                arrange(job)
                torch.set_num_threads(1)
                main.run(job["arguments"])
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 98
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
