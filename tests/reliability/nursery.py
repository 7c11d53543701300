"""A process that has imported torch already and forks children from there, to train, be killed and go on.

The import takes seconds and a kill test needs dozens of processes. The nursery is started once; for each
line of JSON on its standard input it forks a child with its own session and output file, prints the
child's process id, waits, and prints how it ended. Run by path, it is the nursery; imported, it starts one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Child:
    """A child that is running, or how it ended."""

    nursery: Nursery
    pid: int
    log: Path

    def wait(self) -> int:
        """Its exit code; minus the signal if one ended it."""
        return int(self.nursery.answer()["status"])

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Nursery:
    """One child at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery died"
        return json.loads(line)

    def start(self, log: Path, **job: Any) -> Child:
        """Fork a child for `job` (see `work`); its output goes to `log`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**job, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return Child(self, int(self.answer()["pid"]), log)

    def run(self, log: Path, **job: Any) -> int:
        """Start a child and wait for its exit code."""
        return self.start(log, **job).wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


# --- inside a child ---------------------------------------------------------------------------------------


class Trap:
    """Sends a signal to its own process at the n-th time that a certain place is reached."""

    def __init__(self, at: int, number: int, hang: bool) -> None:
        self.left, self.number, self.hang = at, number, hang

    def reached(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
            if self.number == signal.SIGKILL or self.hang:
                print("hanging", flush=True)
                time.sleep(60)


def set_trap(place: str, at: int, number: int, hang: bool = False) -> None:
    """`place`: step (gradients made, weights not), eval (in a validation batch), save (between two writes of
    a checkpoint), epoch_end (validated, not yet saved). `hang`: the place is never left after the signal.
    """
    from convatlas import files
    from convatlas.train import loop, step, task

    trap = Trap(at, number, hang)

    def after(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            trap.reached()
            return result

        setattr(owner, name, wrapped)

    match place:
        case "step":
            after(step.Step, "gradients")
        case "eval":
            after(task.Classification, "measure")
        case "save":
            after(files, "write_durable")
        case "epoch_end":
            after(loop.Loop, "_validate")


def work(job: dict[str, Any]) -> int:
    """Train as the job says: `begin` or `resume` with arguments, and perhaps a trap. Gives the exit code."""
    from convatlas.errors import ConvAtlasError
    from convatlas.train import Compute, Safety, begin, resume

    if "trap" in job:
        set_trap(*job["trap"], hang=job.get("hang", False))
    job.setdefault("arguments", {})
    arguments = {
        **job["arguments"],
        "compute": Compute(accelerator="cpu", workers=job.get("workers", 0)),
        "safety": Safety(**job.get("safety", {})),
    }
    try:
        begin(job["where"], **arguments) if "where" in job else resume(job["resume"], **arguments)
    except ConvAtlasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def serve() -> None:
    """Fork for each line of standard input, until it ends."""
    import torch

    import convatlas.train  # noqa: F401 - imported once, here

    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            descriptor = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = 1
            try:
                torch.set_num_threads(1)
                code = work(job)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
