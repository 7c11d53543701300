"""The promises of conftest.py: the network is closed, here and in children, and skips are accounted for."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sitecustomize as offline

HERE = Path(__file__).parent
ELSEWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737)


@pytest.mark.parametrize(
    "reach",
    [
        lambda udp: socket.create_connection((ELSEWHERE, 80), timeout=0.1),
        lambda udp: udp.connect((ELSEWHERE, 80)),
        lambda udp: udp.connect_ex((ELSEWHERE, 80)),
        lambda udp: udp.sendto(b"", (ELSEWHERE, 80)),
        lambda udp: socket.getaddrinfo("example.invalid", 80),
    ],
)
def test_the_network_is_closed(reach: Callable[[socket.socket], object]) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        pytest.raises(PermissionError, match="tests do not use the network"),
    ):
        reach(udp)
    assert len(offline.attempts) == 1, "and it is noted, in case the error is swallowed"
    offline.attempts.clear()


def test_this_machine_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client,
    ):
        assert client.getpeername()[0] == "127.0.0.1"
    assert offline.attempts == []


def test_children_have_no_network_either() -> None:
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=0.1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tests do not use the network" in done.stderr


SUITE = """
import socket, pytest
def test_swallows():
    try: socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    except OSError: pass
def test_skips(): pytest.skip("needs a moon")
@pytest.mark.data
def test_needs_data(real_data): real_data("mnist")
"""


def session(folder: Path, expected: str, *select: str, data: str | None) -> tuple[int, str]:
    """Exit code and output of a pytest session over `SUITE` under our conftest."""
    tests = folder / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(HERE / "offline", tests / "offline")
    shutil.copy(HERE / "conftest.py", tests)
    (tests / "test_suite.py").write_text(SUITE)
    (tests / "skips.txt").write_text(expected)
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["data"]\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CONVATLAS_")}
    environment |= {"CONVATLAS_SKIPS": "tests/skips.txt"} | ({"CONVATLAS_DATA": data} if data else {})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests", *select],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_skips_are_accounted_for(tmp_path: Path) -> None:
    both = "# head\n1 needs a moon\n1 data: CONVATLAS_DATA is not set\n"
    quiet = ("-k", "not swallows")
    assert session(tmp_path, both, *quiet, data=None)[0] == 0
    code, text = session(tmp_path, "1 data: CONVATLAS_DATA is not set\n", *quiet, data=None)
    assert code == 1
    assert "needs a moon: 1 now, 0 in tests/skips.txt" in text
    (tmp_path / "mnist").touch()
    assert session(tmp_path, both, *quiet, data=str(tmp_path))[0] == 0, "with data, that skip is not expected"
    code, text = session(tmp_path, "2 needs a moon\n", *quiet, data=str(tmp_path))
    assert code == 1
    assert "needs a moon: 1 now, 2 in" in text


def test_missing_data_are_a_failure_where_data_are_announced(tmp_path: Path) -> None:
    code, text = session(tmp_path, "", "-k", "needs_data", data=str(tmp_path / "nowhere"))
    assert code == 1
    assert "which is no folder" in text
    code, text = session(tmp_path, "", "-k", "needs_data", data=str(tmp_path))
    assert code == 1
    assert "is not there" in text


def test_a_swallowed_attempt_fails_its_test(tmp_path: Path) -> None:
    code, text = session(tmp_path, "", "-k", "swallows", data=None)
    assert code == 1
    assert "the test used the network" in text
