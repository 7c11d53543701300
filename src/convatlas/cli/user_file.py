"""`net.py:make_net`: a network out of a file of the user's own.

The file is imported as a script's neighbours are: in this process, with its folder first on the path. It is the
user's own code and is trusted as such. What goes wrong in it is told by its own line.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def read(text: str) -> tuple[Callable[..., nn.Module], str]:
    """What builds the network, and its name "net.py:make_net".

    A function or a class is called at every build, a module that exists already is given as it is. Calling it raises
    `UsageError` for an error inside, and for a result that is no network. So does `read` for a file or a name that is
    not there.
    """
    from torch import nn

    where, _, wanted = text.rpartition(":") if not text.endswith(".py") else (text, "", "")
    path = Path(where)
    if not path.is_file():
        raise UsageError(
            f"there is no file {where}; FILE.py:FUNCTION is expected, where FUNCTION gives the network."
        )
    if not wanted:
        names = ", ".join(_candidates(_imported(path))) or "no function and no module of its own"
        raise UsageError(f"say what in {path} gives the network, as {path}:NAME. It has: {names}.")
    module = _imported(path)
    name = f"{path.name}:{wanted}"
    if not hasattr(module, wanted):
        known = _candidates(module)
        near = did_you_mean(wanted, known)
        raise UsageError(f"{path} has no {wanted!r}.{near} It has: {', '.join(known) or 'no network'}.")
    found: Any = getattr(module, wanted)
    if not isinstance(found, nn.Module) and not callable(found):
        raise UsageError(
            f"{name} is {found!r:.60}; a function, a class or a module that gives a network is expected."
        )

    @functools.wraps(found, updated=())
    def make(**settings: Any) -> nn.Module:
        if isinstance(found, nn.Module):
            if settings:
                raise UsageError(
                    f"{name} is a network that is built already; settings {sorted(settings)} come too late."
                )
            return found
        with _told_by_line(path, name), _beside(path):
            network = found(**settings)
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"{name} gives {network!r:.60} ({type(network).__name__}); a torch.nn.Module is expected."
            )
        return network

    return make, name


def takes(make: Callable[..., Any], keyword: str) -> bool:
    """Whether it can be called with that keyword."""
    try:
        known = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False
    return keyword in known or any(param.kind is param.VAR_KEYWORD for param in known.values())


def _imported(path: Path) -> ModuleType:
    """The file as a module, under a name that nothing else has."""
    name = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    from convatlas.randomness import preserved

    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with preserved(), _told_by_line(path, str(path)), _beside(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _candidates(module: ModuleType) -> list[str]:
    """Names that could give a network: functions and modules of the file's own."""
    from torch import nn

    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, nn.Module)
            or (inspect.isfunction(value) and value.__module__ == module.__name__)
            or (
                inspect.isclass(value)
                and issubclass(value, nn.Module)
                and value.__module__ == module.__name__
            )
        )
    ]


@contextmanager
def _beside(path: Path) -> Generator[None]:
    """The file's folder first on the path, so that it finds its neighbours."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _told_by_line(path: Path, what: str) -> Generator[None]:
    """Say of an error in the file on which of its lines it came up."""
    try:
        yield
    except UsageError:
        raise
    except SyntaxError as error:
        raise UsageError(f"{what}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        place = f", line {own[-1].lineno} ({own[-1].line})" if own else ""
        advice = (
            ""
            if own
            else " Give what it needs with --option KEY=VALUE, or write a function that needs nothing."
        )
        raise UsageError(f"{what}{place}: {type(error).__name__}: {error}.{advice}") from error
