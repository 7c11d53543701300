"""Several ranks at once, forked from a process that has imported everything already.

Starting Python and importing torch takes seconds for each rank, and a test of several processes needs them again and
again. The server is started once; for each job it forks `world` children, who find in their environment what a
launcher would put there, run one function, and leave what it gave. Run by path, it is the server; imported, `Ranks`
starts one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

DEADLINE = 60  # seconds of one job; then it counts as hanging

LAUNCHED = {  # what a launcher on one machine tells a rank
    "LOCAL_RANK": "{rank}",
    "WORLD_SIZE": "{world}",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "{port}",
    "GLOO_SOCKET_IFNAME": "lo",
}


class Ended(Exception):  # noqa: N818
    """A rank did not end well; the message has what each of them printed."""


class Ranks:
    """One job at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, target: str, world: int = 2, **arguments: Any) -> list[Any]:
        """What `module:function(rank, **arguments)` gives in each rank. Raises `Ended` where one fails."""
        codes, outputs, results = self.outcome(target, world, **arguments)
        if any(codes):
            raise Ended(f"{codes}\n" + "\n".join(outputs))
        return results

    def outcome(
        self, target: str, world: int = 2, environment: dict[str, str] | None = None, **arguments: Any
    ) -> tuple[list[int], list[str], list[Any]]:
        """Exit codes (minus a signal), outputs and results (None of a rank that failed), by rank.

        `environment` stands in place of what tells a rank who it is; `{rank}` and `{port}` are filled in.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        told = environment if environment is not None else LAUNCHED
        names = {"world": world, "port": port}
        environments = [
            {name: value.format(rank=rank, **names) for name, value in told.items()} for rank in range(world)
        ]
        folder = str(self._folder)
        job = {"target": target, "environments": environments, "folder": folder, "arguments": arguments}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server died"
        codes = json.loads(line)
        places = [self._folder / f"rank-{rank}" for rank in range(world)]
        outputs = [place.with_suffix(".log").read_text(errors="replace") for place in places]
        results = [json.loads(place.with_suffix(".json").read_text()) if not code else None
                   for place, code in zip(places, codes, strict=True)]  # fmt: skip
        return codes, outputs, results

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def meet(rank: int) -> None:
    """In a rank: make the group of all."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=int(os.environ["WORLD_SIZE"]))


# --- in the server ----------------------------------------------------------------------------------------


def work(job: dict[str, Any], rank: int) -> None:
    """Be one rank: environment, streams, the function."""
    place = Path(job["folder"]) / f"rank-{rank}"
    descriptor = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= job["environments"][rank]
    module, _, function = job["target"].partition(":")
    result = getattr(importlib.import_module(module), function)(rank, **job["arguments"])
    place.with_suffix(".json").write_text(json.dumps(result))


def serve() -> None:
    """Fork ranks for each line of standard input, until it ends."""
    import torch

    import convatlas.api  # noqa: F401 - imported once, here

    for line in sys.stdin:
        job = json.loads(line)
        children: list[int] = []
        for rank in range(len(job["environments"])):
            pid = os.fork()
            if pid:
                children.append(pid)
                continue
            signal.alarm(DEADLINE)
            code = 99
            try:
                torch.set_num_threads(1)
                work(job, rank)
                code = 0
            except BaseException as error:
                import traceback

                traceback.print_exc()
                code = getattr(error, "exit_code", 98)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        codes = dict.fromkeys(children, 0)
        for _ in children:
            pid, status = os.wait()
            codes[pid] = os.waitstatus_to_exitcode(status)
        print(json.dumps(list(codes.values())), flush=True)


if __name__ == "__main__":
    serve()
