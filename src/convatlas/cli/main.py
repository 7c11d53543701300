"""The table of verbs, and the one place where a failure becomes an exit code.

Nothing here imports torch, and no verb's file does so at its top: `--help` must answer at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from convatlas import __version__
from convatlas.cli import (
    audit,
    bench,
    compare,
    console,
    data,
    describe,
    diagnose,
    evaluate,
    lint,
    predict,
    process,
    recommend,
    train,
)
from convatlas.cli import list as list_
from convatlas.errors import (
    BadCheckpoint,
    ConvAtlasError,
    DataError,
    Interrupted,
    NumericError,
    ResourceError,
    UsageError,
)

BUG = 70  # EX_SOFTWARE: not one of the failures that were foreseen

app = typer.Typer(
    help="The canon of convolutional networks: build, measure, train, evaluate and use them.",
    epilog="Exit codes: 0 done, 1 a check did not hold, 2 usage, 3 data, 4 checkpoint, 5 not a finite number, "
    "6 no room, no right or no memory, 130 interrupted, 143 terminated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

VERBS = {
    "list": list_.list_networks,
    "describe": describe.describe,
    "compare": compare.compare,
    "diagnose": diagnose.diagnose,
    "audit": audit.audit,
    "bench": bench.bench,
    "lint": lint.lint,
    "recommend": recommend.recommend,
    "train": train.train,
    "eval": evaluate.evaluate,
    "predict": predict.predict,
}
GROUPS = {
    "data": (
        "Look at images before training on them, and put them into shards.",
        {"check": data.check, "show": data.show, "shard": data.shard},
    )
}

for name, verb in VERBS.items():
    app.command(name)(verb)
for name, (purpose, verbs) in GROUPS.items():
    group = typer.Typer(help=purpose, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    for member, verb in verbs.items():
        group.command(member)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        console.write(f"convatlas {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure, after any verb.")
    ] = False,
) -> None:
    """The options before the verb; `--debug` is taken out of the arguments by `run`, wherever it stands."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave the process with its exit code: the entry point of `convatlas`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    until = given.index("--") if "--" in given else len(given)
    kept = [word for position, word in enumerate(given) if word != "--debug" or position > until]
    code = 0
    try:
        with console.streams(), process.owned(arguments is None), process.patient_threads():
            code = _exit_code(kept, given, debug=len(kept) < len(given))
    except ResourceError:  # the last of the output did not go through, and there is nowhere to say so
        code = code or ResourceError.exit_code
    sys.exit(code)


def _exit_code(arguments: list[str], given: list[str], *, debug: bool) -> int:
    """Run the verb; print the one message of a failure on stderr. `given` is for those who start it once more."""
    try:
        result: Any = typer.main.get_command(app).main(
            arguments, prog_name="convatlas", standalone_mode=False, obj=given
        )
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
        if code == Interrupted("").exit_code:  # typer has caught Ctrl-C, and gives its code back
            console.say("interrupted")
        return code
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explained(error)
        if _speaks(error):
            console.say(message)
        return code
    except KeyboardInterrupt as error:
        if _speaks(error):
            console.say("interrupted")
        return Interrupted("").exit_code


def _speaks(error: BaseException) -> bool:
    """Whether this process says what happened: of several on a machine the first speaks for all that have met the same.

    Before they know each other all do the same; afterwards each reads its own images, writes and computes by itself.
    """
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        return True
    group = sys.modules.get("torch.distributed")
    met = group is not None and group.is_initialized()
    alike = UsageError, BadCheckpoint, NumericError, Interrupted, KeyboardInterrupt
    told = hasattr(error, "format_message") or (isinstance(error, ConvAtlasError) and error.of_rank_zero)
    return not (told or isinstance(error, alike if met else (*alike, DataError)))


def _explained(error: Exception) -> tuple[str, int]:
    """The message and the exit code of a failure."""
    if isinstance(error, ConvAtlasError):
        return f"convatlas: {error}", error.exit_code
    if isinstance(error, typer.Abort):
        return "interrupted", Interrupted("").exit_code
    if hasattr(error, "format_message"):  # typer's usage errors; the class has moved between its releases
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "convatlas"
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return f"convatlas: {message} See `{command} --help`.", getattr(error, "exit_code", 2)
    if (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate" in str(error)
    ):
        return f"convatlas: not enough memory ({error}). Try a smaller --batch-size or --image-size.", 6
    if isinstance(error, OSError) and error.errno:
        place = f": {error.filename}" if error.filename else ""
        return f"convatlas: the system refused: {error.strerror}{place}", ResourceError.exit_code
    return f"convatlas: internal error, {type(error).__name__}: {error} (--debug shows where)", BUG
