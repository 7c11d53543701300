"""Two hosts on one machine: network namespaces with names and addresses of their own, joined by a cable.

Run by path with a command, it makes them, runs the command on both, and leaves with the worse exit code. It runs
inside `unshare` (see `INSIDE`): everything that it makes is gone when it ends, and nothing outside is touched. What the
hosts print goes to `host-a.log` and `host-b.log` in the current folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOSTS = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
# New namespaces of users (so that no rights are needed), processes (all end with the first), mounts and networks.
INSIDE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--net")


def permitted() -> bool:
    """Whether this system lets us make such hosts."""
    try:
        probe = [*INSIDE, "sh", "-c", "mount -t tmpfs none /run && ip netns add a && ip -n a link set lo up"]
        return subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def do(*words: str) -> None:
    subprocess.run(words, check=True)


def make() -> None:
    """Two hosts that see each other, and nothing else."""
    do("mount", "-t", "tmpfs", "none", "/run")
    do("mount", "-t", "proc", "none", "/proc")
    for name in HOSTS:
        do("ip", "netns", "add", name)
    do(
        "ip",
        "link",
        "add",
        "cable-a",
        "netns",
        "host-a",
        "type",
        "veth",
        "peer",
        "name",
        "cable-b",
        "netns",
        "host-b",
    )
    for name, address in HOSTS.items():
        do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", f"cable-{name[-1]}")
        do("ip", "-n", name, "link", "set", "lo", "up")
        do("ip", "-n", name, "link", "set", f"cable-{name[-1]}", "up")
    names = "".join(f"{address} {name}\n" for name, address in HOSTS.items())
    table = Path("/run/hosts")
    table.write_text(f"127.0.0.1 localhost\n{names}")
    do("mount", "--bind", str(table), "/etc/hosts")


def start(name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Run a command on a host."""
    named = f'hostname {name} && exec "$@"'
    words = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", named, "sh", *command]
    with open(f"{name}.log", "wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)


def main() -> int:
    make()
    # The tests' guard knows loopback alone; here nothing else can be reached but the other host.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if Path(path).name != "offline")
    hosts = [start(name, sys.argv[1:]) for name in HOSTS]
    return max(host.wait() for host in hosts)


if __name__ == "__main__":
    sys.exit(main())
