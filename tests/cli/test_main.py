"""`run`: exit codes, one message on stderr, no traceback, nothing heavy for `--help`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from convatlas import __version__, errors
from convatlas.cli import main
from convatlas.cli.process import SPINS

HEAVY = (
    "torch",
    "torchvision",
    "matplotlib",
    "sklearn",
    "PIL",
    "numpy",
    "lightning_fabric",
    "torchmetrics",
    "scipy",
)
VERBS = [*main.VERBS, *(f"{group} {verb}" for group, (_, verbs) in main.GROUPS.items() for verb in verbs)]


def run(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as left:
        main.run(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], *([*verb.split(), "--help"] for verb in VERBS), []]
)
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom convatlas.cli.main import run\n"
        f"try: run({words!r})\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.returncode == (0 if words else 2)
    assert (__version__ if words == ["--version"] else "Usage: convatlas") in done.stdout + done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        f"import sys, convatlas; print([name for name in {HEAVY!r} if name in sys.modules], dir(convatlas))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "'train'" in done.stdout


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run(*verb.split(), "--help") == 0
        shown = capsys.readouterr().out
        assert f"Usage: convatlas {verb}" in shown


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Make `convatlas fail` run a function."""

    def install(function: Callable[[], object]) -> None:
        app = typer.Typer()
        app.callback()(lambda: None)
        app.command("fail")(lambda: function() and None)
        monkeypatch.setattr(main, "app", app)

    return install


def raising(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConvAtlasError("it differs"), 1),
        (errors.UsageError("no such key"), 2),
        (errors.DataError("no such folder"), 3),
        (errors.BadImage("truncated", "after 10 bytes"), 3),
        (errors.BadCheckpoint("half a file"), 4),
        (errors.NumericError("loss is NaN"), 5),
        (errors.ResourceError("no room"), 6),
        (OSError(24, "Too many open files"), 6),
        (MemoryError("in 4 GB"), 6),
        (errors.Interrupted("SIGTERM", 143), 143),
        (KeyboardInterrupt(), 130),
        (EOFError(), 130),
        (ZeroDivisionError("a bug"), 70),
    ],
)
def test_a_failure_is_an_exit_code_and_one_message(
    error: BaseException,
    code: int,
    verb: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb(raising(error))
    assert run("fail") == code
    shown = capsys.readouterr()
    assert shown.out.strip() == ""
    assert "Traceback" not in shown.err
    if isinstance(error, Exception) and error.args:
        assert str(error.args[-1]) in shown.err
        assert len(shown.err.strip().splitlines()) == 1


def test_debug_shows_where(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(errors.DataError("no such folder")))
    assert run("fail", "--debug") == 3
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "raise error" in shown


def test_a_message_cannot_command_the_terminal(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(errors.DataError("bad name: \x1b[2J\x07 \udcff")))
    assert run("fail") == 3
    assert capsys.readouterr().err == "convatlas: bad name: \\x1b[2J\\x07 \\udcff\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "train"),
        (["list", "--yaer", "2014"], "--year"),
        (["describe"], "NAME"),
        (["train", "--resume", "runs/x", "--seed", "1", "--set", "lr=1"], "--seed, --set"),
        (["data"], "check"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--resize", "bend"], "squash"),
        (["train"], "digits"),
        (["train", "--resume", "runs/x", "--lr", "1"], "--lr"),
        (["train", "digits", "--set", "lr"], "KEY=VALUE"),
        (["list", "--min-params", "lots"], "25M"),
        (["list", "--year", "last"], "2012-2015"),
        (["describe", "vgg61"], "vgg16"),
        (["list", "vgg61"], "vgg16"),
        (["list", "--family", "resnets"], "resnet"),
    ],
)
def test_a_wrong_command_is_answered_with_a_way_on(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert hint in capsys.readouterr().err


# --- output that nobody reads: every verb and kind of stream is in tests/reliability; here the cold start ----------


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("convatlas --help | true", 0),
        ("convatlas list --help | head -1", 0),
        ("convatlas --version >&-", 0),
        ("convatlas --version >&- 2>&- <&-", 0),
        ("convatlas --help > /dev/full", 6),
        ("convatlas nonsense 2>&-", 2),
    ],
)
def test_output_that_nobody_reads(command: str, code: int, unbuffered: str) -> None:
    convatlas = f'convatlas() {{ {sys.executable} -m convatlas "$@"; }}'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {convatlas}; {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr == "" or (code == 6 and "No space left" in done.stderr)


def test_the_environment_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
    verb: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for before, within in (
        ({}, (None, SPINS)),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in before.items():
            monkeypatch.setenv(name, value)
        seen: list[tuple[str | None, ...]] = []
        verb(lambda seen=seen: seen.append(tuple(os.environ.get(name) for name in names)))
        assert run("fail") == 0
        assert seen == [within]
        assert {name: os.environ[name] for name in names if name in os.environ} == before


def test_streams_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from convatlas.cli import console

    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    with console.streams():
        assert sys.stdout is mine, "only the process's own descriptors are wrapped"
    assert sys.stdout is mine
