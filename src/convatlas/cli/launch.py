"""Start the processes of a training from one command: torchrun's agent, called from here.

The agent starts a process for each device, tells it who it is, ends all if one ends badly, passes signals on, and
begins anew after a death if it may. On several machines the same command runs on each, and the agents meet at one
address. What this file adds: the exit code is that of the process that failed first, a message says which one died,
and nothing of the agent's own log is shown.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence

from convatlas.errors import ResourceError, UsageError

_PR_SET_PDEATHSIG = 1
SHUTDOWN_SECONDS = 120  # for a checkpoint to be written after a signal
_FOLLOWED = (70, ResourceError.exit_code, 130, 143)  # codes of a process that ended because another one had
# Processes of this machine alone speak through its loopback; those that are started anew use a store of their own,
# where the dead ones do not listen any more.
_ALONE = {"GLOO_SOCKET_IFNAME": "lo"}
_AGENT = "CONVATLAS_AGENT"  # the agent's process id, for those that it starts
_ALWAYS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch(
    arguments: Sequence[str], devices: int, nodes: int = 1, rendezvous: str | None = None, restarts: int = 0
) -> int:
    """Run `convatlas ARGUMENTS` in `devices` processes on each of `nodes` machines, those of this one; its exit code.

    Raises `UsageError` if several machines are to meet nowhere, `ResourceError` if a process was killed.
    """
    if nodes > 1 and not rendezvous:
        raise UsageError(
            f"{nodes} machines have to meet somewhere: give --rendezvous HOST:PORT, where HOST is one of them, and run "
            "the same command on each. torchrun and srun can start the processes as well."
        )
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[_AGENT] = str(os.getpid())
    for name, value in {**_ALWAYS, **(_ALONE if nodes == 1 and sys.platform == "linux" else {})}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=devices,
            run_id="convatlas",
            rdzv_backend="c10d",
            rdzv_endpoint=rendezvous or "localhost:0",
            max_restarts=restarts,
            local_addr=None if nodes > 1 else "localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        try:
            # `-m` would look for modules in the current folder, which the installed command does not
            safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
            elastic_launch(config, sys.executable)(*safe, "-m", "convatlas", *arguments)
        except SignalException as error:
            return 128 + error.sigval
        except ChildFailedError as error:
            return _ended({rank: failure.exitcode for rank, failure in error.failures.items()})
        except RendezvousError as error:
            raise ResourceError(f"the machines could not meet at {rendezvous}: {error}") from error
    return 0


def is_alone() -> bool:
    """Whether nothing has started this process as one of several."""
    from convatlas.train.processes import launched

    return launched() is None


def follow_agent() -> None:
    """In a process that `launch` has started: get SIGTERM when the agent ends, however it ends."""
    agent = os.environ.get(_AGENT)
    if agent is None or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(agent):
        sys.exit(143)


def _ended(codes: Mapping[int, int]) -> int:
    """The exit code of the process that failed of itself; `codes` by rank, of those that failed.

    Raises `ResourceError` if it was killed.

    Examples:
        >>> _ended({0: 6, 1: 3})
        3
    """
    rank = min(codes, key=lambda rank: (codes[rank] in _FOLLOWED or codes[rank] == -signal.SIGTERM, rank))
    code = codes[rank]
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    raise ResourceError(
        f"process {rank} was ended by {name}{why}; the others were stopped. What was saved stays: go on with --resume, "
        "or let --restarts do so by itself."
    )
