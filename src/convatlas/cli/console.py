"""What the verbs print with: results go to stdout, everything else to stderr.

Names of files and classes are data: they are never read as markup, and control characters in them are shown
as escapes. A reader that leaves (`convatlas list | head -1`) changes nothing: what nobody reads is dropped, the
verb does its work, and the exit code is the work's.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from convatlas.errors import ResourceError, UsageError

if TYPE_CHECKING:  # rich is imported where something is drawn: `--help` does without
    from rich.console import Console, RenderableType
    from rich.table import Table

PIPED_WIDTH = 120  # columns of a table that no terminal shows


def _console(stream: TextIO, *, markup: bool = False) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(file=stream, markup=markup, highlight=False, emoji=False, width=width)


def show(content: RenderableType) -> None:
    """Print a result on stdout."""
    _console(sys.stdout).print(content)


def terminal(*, markup: bool = False) -> Console:
    """The console of stdout, for what moves or draws itself. `markup`: for text that escapes names on its own."""
    return _console(sys.stdout, markup=markup)


def say(message: str) -> None:
    """Print a message on stderr."""
    sys.stderr.write("\n".join(map(printable, message.split("\n"))) + "\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Print text on stdout as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON on stdout: over several lines, or on one with `indent=None`."""
    write(json.dumps(value, indent=indent, allow_nan=False) + "\n")


def printable(text: object) -> str:
    r"""The text with everything escaped that a terminal would obey instead of show.

    Examples:
        >>> printable("caf\xe9\x1b[31m\n")
        'café\\x1b[31m\\n'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A plain table; columns whose cells are all numbers are set to the right."""
    from rich.table import Table
    from rich.text import Text

    cells = [["" if cell is None else printable(cell) for cell in row] for row in rows]
    result = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold"
    )
    for position, column in enumerate(columns):
        entries = [row[position] for row in cells if row[position]]
        numbers = bool(entries) and all(entry[0].isdigit() or entry[0] in "-<." for entry in entries)
        result.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        result.add_row(*map(Text, row))
    return result


def quantity(text: str) -> int:
    """A count as people write it: "5M" is 5,000,000, "1.5k" is 1,500. Raises `UsageError`.

    Examples:
        >>> quantity("61.7k"), quantity("138M"), quantity("25557032")
        (61700, 138000000, 25557032)
    """
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in {"k", "m", "g", "b"} else (text, "")
    try:
        return round(float(digits.replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}[unit])
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a count; write one like 500k, 25M or 25557032.") from None


def pairs(settings: Sequence[str], option: str = "--set") -> dict[str, str]:
    """Settings of an option: `["lr=0.05"]` as `{"lr": "0.05"}`. Raises `UsageError`."""
    pairs = [text.partition("=") for text in settings]
    for (key, equals, _), text in zip(pairs, settings, strict=True):
        if not equals or not key:
            raise UsageError(f"{option} {text!r}: KEY=VALUE is expected, e.g. {option} lr=0.05.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def settings(words: Sequence[str], option: str = "--option") -> dict[str, Any]:
    """Settings of a network: values are read as in TOML where they can be, and are words otherwise.

    Examples:
        >>> settings(["width=2", "shortcut=A", "bias=false"])
        {'width': 2, 'shortcut': 'A', 'bias': False}
    """
    import tomllib

    found: dict[str, Any] = {}
    for name, text in pairs(words, option).items():
        try:
            found[name] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            found[name] = text
    return found


# --- streams ----------------------------------------------------------------------------------------------


class _Pipe(io.FileIO):
    """A descriptor whose reader may leave. After the first failure everything more is dropped."""

    dropped = False

    def write(self, data: Any) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = memoryview(data).nbytes
        if self.dropped:
            return size
        try:
            return super().write(data)
        except BrokenPipeError:
            self.dropped = True
            return size
        except OSError as error:
            self.dropped = True
            raise ResourceError(f"the output cannot be written: {error.strerror}.") from error


def _tolerant(stream: TextIO | None, descriptor: int) -> TextIO | None:
    """The same stream through `_Pipe`, or itself where it is not this process's own descriptor."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    file = getattr(stream.buffer, "raw", stream.buffer)  # no buffer between them under PYTHONUNBUFFERED
    if not isinstance(file, io.FileIO) or file.fileno() != descriptor:
        return stream
    stream.flush()
    raw = _Pipe(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering
    )


@contextmanager
def streams() -> Generator[None]:
    """Within it, stdout and stderr exist, take every character and outlive their readers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # a descriptor that was closed by the caller would be given to the next file that is opened
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout = _tolerant(sys.stdout, 1) or nowhere
        sys.stderr = _tolerant(sys.stderr, 2) or nowhere
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(ValueError):  # closed by the verb
                    stream.flush()
            sys.stdout, sys.stderr = before
