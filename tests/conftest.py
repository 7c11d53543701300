"""What holds for every test: no network, no silent skip, and real data where they are announced.

Environment: CONVATLAS_DATA names the folder of real data sets; where it is set, missing data are a failure and
not a skip. CONVATLAS_RELIABILITY=release raises the counts of the reliability tests to those of a release.
CONVATLAS_SKIPS names a file of expected skips; the session fails where the skips differ from it.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from ranks import Ranks


ROOT = Path(__file__).parents[1]
OFFLINE = Path(__file__).parent / "offline"
DATA = os.environ.get("CONVATLAS_DATA")
RELEASE = os.environ.get("CONVATLAS_RELIABILITY") == "release"
NO_DATA = "data: CONVATLAS_DATA is not set"
NO_NAMESPACES = "two hosts: network namespaces are not permitted here"

if not hasattr(sys.modules.get("sitecustomize"), "attempts"):  # none so far, or the system's
    sys.modules.pop("sitecustomize", None)
    sys.path.insert(0, str(OFFLINE))
import sitecustomize as offline  # noqa: E402

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # or threads spin while others want the cores; see cli/main.py
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(OFFLINE), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
hypothesis.settings.register_profile("convatlas", deadline=None, derandomize=not RELEASE)
hypothesis.settings.load_profile("convatlas")

skips: Counter[str] = Counter()
seconds: defaultdict[str, float] = defaultdict(float)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") is None:
        return
    if not DATA:
        pytest.skip(NO_DATA)
    if not Path(DATA).is_dir():
        pytest.fail(f"CONVATLAS_DATA names {DATA}, which is no folder", pytrace=False)


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    yield
    tried, offline.attempts[:] = list(offline.attempts), []
    if tried:
        pytest.fail(f"the test used the network: {tried}", pytrace=False)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The path of a real data set by its name; its absence is a failure. For tests marked `data`."""

    def find(name: str) -> Path:
        path = Path(DATA or "") / name
        assert DATA, "mark the test with `data`"
        assert path.exists(), f"CONVATLAS_DATA is set, but {path} is not there"
        return path

    return find


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Several ranks at once, without the seconds that starting each of them takes."""
    from ranks import Ranks

    ranks = Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


@lru_cache
def may_make_hosts() -> bool:
    """Whether this system permits network namespaces."""
    from reliability import two_hosts

    return two_hosts.permitted()


@pytest.fixture
def namespaces() -> Callable[[], None]:
    """Skips the test where network namespaces are not permitted."""

    def need() -> None:
        if not may_make_hosts():
            pytest.skip(NO_NAMESPACES)

    return need


@pytest.fixture
def cases() -> Callable[[int, int], int]:
    """`cases(20, 200)`: the first number at every landing, the second before a release."""
    return lambda landing, release: release if RELEASE else landing


# --- what the session has to account for ----------------------------------------------------------------


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seconds[str(Path(report.fspath))] += report.duration
    if report.skipped and isinstance(report.longrepr, tuple):
        skips[report.longrepr[2].removeprefix("Skipped: ")] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):  # a whole file that skips itself
        skips[report.longrepr[2].removeprefix("Skipped: ")] += 1


def expected_skips(file: Path) -> Counter[str]:
    """Lines of `count reason`. The skips for want of data are left out where there are data, and so are others."""
    lines = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line and line[0] != "#"]
    there = {NO_DATA: lambda: bool(DATA), NO_NAMESPACES: may_make_hosts}
    return Counter({reason: int(count) for count, reason in lines if not there.get(reason, bool)()})


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = os.environ.get("CONVATLAS_SKIPS")
    if file and skips != expected_skips(ROOT / file) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    groups: Counter[str] = Counter()
    for file, duration in seconds.items():
        parts = Path(file).parts[1:]
        groups[parts[0] if len(parts) > 1 and parts[0] != "reliability" else "/".join(parts)] += duration
    terminalreporter.section("minutes per group")
    for group, duration in sorted(groups.items(), key=lambda pair: -pair[1]):
        write(f"{duration / 60:6.2f}  {group}")
    write(f"{sum(groups.values()) / 60:6.2f}  all")
    terminalreporter.section("skips by reason")
    for reason, count in sorted(skips.items()):
        write(f"{count:6d}  {reason}")
    write(f"{sum(skips.values()):6d}  all")
    file = os.environ.get("CONVATLAS_SKIPS")
    if file and skips != (expected := expected_skips(ROOT / file)):
        terminalreporter.section("the skips differ from the committed ones", red=True)
        for reason in sorted({*skips, *expected}):
            if skips[reason] != expected[reason]:
                write(f"{reason}: {skips[reason]} now, {expected[reason]} in {file}")
