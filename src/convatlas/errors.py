"""What can go wrong, and the exit code that says so.

Every expected failure is a `ConvAtlasError`. Its message says what came, what was expected and what
to do; the command line prints that message alone and leaves with the class's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConvAtlasError(Exception):
    """Base of every expected failure. Raised itself where a check did not hold (exit code 1)."""

    exit_code = 1
    of_rank_zero = False  # in another process of several: rank 0 failed so, and has said it


class UsageError(ConvAtlasError):
    """The command, a setting or an argument is wrong (exit code 2)."""

    exit_code = 2


class DataError(ConvAtlasError):
    """The data cannot be used as they are (exit code 3)."""

    exit_code = 3


class BadImage(DataError):  # noqa: N818 - reads as what it is where it is raised
    """One file is not an image that convatlas accepts.

    `reason` is one of a short fixed list (`data.decode.REASONS`), `detail` the rest of the sentence.
    """

    def __init__(self, reason: str, detail: str = "", name: str = "") -> None:
        self.reason, self.detail, self.name = reason, detail, name
        text = f"{reason} ({detail})" if detail else reason
        super().__init__(f"{name}: {text}" if name else text)

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str, str]]:
        return type(self), (self.reason, self.detail, self.name)


class BadCheckpoint(ConvAtlasError):  # noqa: N818
    """Weights, or a file of a run, are missing, damaged or do not fit (exit code 4)."""

    exit_code = 4


class NumericError(ConvAtlasError):
    """A loss or gradient stopped being a finite number (exit code 5)."""

    exit_code = 5


class ResourceError(ConvAtlasError):
    """No room on the disk, no right to write, or no memory (exit code 6)."""

    exit_code = 6


class Interrupted(ConvAtlasError):  # noqa: N818
    """Stopped by SIGINT (exit code 130) or SIGTERM (143) after a checkpoint was written."""

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """` Did you mean 'vgg16'?` for the nearest known words, or an empty string when none is near.

    Examples:
        >>> did_you_mean("vgg61", ["vgg16", "resnet18"])
        " Did you mean 'vgg16'?"
    """
    near = difflib.get_close_matches(word, list(known), n=limit, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
