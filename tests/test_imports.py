"""The house order: an import points down the list, never up, and inside a room never in a circle.

Imports are read from the syntax tree, so that those inside functions, under `TYPE_CHECKING` and through
`import_module("...")` count as well. What the checker promises is shown by planted violations at the end.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "convatlas"
SOURCE = Path(__file__).parents[1] / "src"

# From the top of the house to its cellar. A room may import what stands to its right, or below.
ORDER = (
    *("__main__", "cli", "web", "api", "serve", "audit", "labs", "report", "export", "bench", "search"),
    *("detect", "segment", "transfer", "infer", "train", "data", "explain", "measure", "models", "layers"),
    "kernels",
    *(
        "registry",
        "weights",
        "plots",
        "hooks",
        "files",
        "allocator",
        "memory",
        "randomness",
        "errors",
        "shapes",
    ),
)
STRANGERS = ({"data", "models"},)  # pairs of rooms that do not know each other, whatever their order
CONSTANTS = {"__version__"}  # what any room may take from the package itself


def module_name(file: Path, root: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The module that `from ... import` names, with its dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*base, node.module] if node.module else base)


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported from the package; `?` for a name that cannot be read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, module, is_package)
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and node.args:
                name = node.args[0]
                if is_own_member(name) and is_package:
                    continue
                if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                    yield node.lineno, "?"
                elif name.value.startswith("."):
                    dots = len(name.value) - len(name.value.lstrip("."))
                    relative = ast.ImportFrom(name.value.lstrip(".") or None, [], dots)
                    yield node.lineno, absolute(relative, module, is_package)
                else:
                    yield node.lineno, name.value


def is_own_member(name: ast.expr) -> bool:
    """Whether it is `f"{__name__}.{...}"`: whatever is filled in, a package stays in itself."""
    match name:
        case ast.JoinedStr(
            [ast.FormattedValue(ast.Name("__name__")), ast.Constant("."), ast.FormattedValue()]
        ):
            return True
        case _:
            return False


def violations(root: Path) -> list[str]:
    """Every import below `root/convatlas` that breaks the order, as `file:line: what`."""
    files = {module_name(file, root): file for file in sorted((root / PACKAGE).rglob("*.py"))}
    rank = {room: position for position, room in enumerate(ORDER)}
    found: list[str] = []
    inside: dict[str, set[str]] = {module: set() for module in files}  # imports between files of one room
    for module, file in files.items():
        room = module.split(".")[1] if "." in module else ""
        if room and room not in rank:
            found.append(f"{file.name}: room {room!r} has no place in the order")
            continue
        for line, name in imported(ast.parse(file.read_bytes()), module, file.name == "__init__.py"):
            where = f"{file.relative_to(root)}:{line}"
            top, _, rest = name.partition(".")
            if name == "?":
                found.append(f"{where}: the name of this import cannot be read from the source")
            if top != PACKAGE or rest in CONSTANTS or not room:
                continue
            target = rest.split(".")[0]
            if target not in rank:
                found.append(f"{where}: imports {name}; import the room that holds it")
            elif target == room:
                inner = name if name in files else name.rpartition(".")[0]
                if inner in files and inner != module:
                    inside[module].add(inner)
            elif rank[target] < rank[room]:
                found.append(f"{where}: {room} may not import {target}, which stands above it")
            elif {room, target} in STRANGERS:
                found.append(f"{where}: {room} and {target} do not know each other")
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        found.append(f"these files import each other in a circle: {' -> '.join(error.args[1])}")
    return found


def test_every_import_points_down() -> None:
    assert violations(SOURCE) == []


def test_every_file_is_read() -> None:
    files = {module_name(file, SOURCE) for file in (SOURCE / PACKAGE).rglob("*.py")}
    assert {f"{PACKAGE}.errors", f"{PACKAGE}.registry", f"{PACKAGE}.cli.main"} <= files


# --- the checker itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("data/check.py", "import convatlas.train.loop", "data may not import train"),
        ("data/check.py", "from convatlas.train import loop", "data may not import train"),
        ("data/check.py", "from convatlas import train", "data may not import train"),
        ("data/check.py", "from ..train.loop import fit", "data may not import train"),
        ("data/__init__.py", "from ..train import fit", "data may not import train"),
        ("data/sources/tar.py", "from ...report import page", "data may not import report"),
        ("data/check.py", "def f():\n    from convatlas.cli.main import app", "data may not import cli"),
        ("data/check.py", "if TYPE_CHECKING:\n    from convatlas.api import Run", "data may not import api"),
        ("data/check.py", "importlib.import_module('convatlas.infer.run')", "data may not import infer"),
        ("data/check.py", "import_module('..infer', __package__)", "data may not import infer"),
        ("data/check.py", "__import__('convatlas.infer')", "data may not import infer"),
        ("data/check.py", "import_module(name)", "cannot be read"),
        ("data/check.py", "import_module(f'{__name__}.{x}')", "cannot be read"),
        ("data/__init__.py", "import_module(f'{__package__}.{x}')", "cannot be read"),
        ("data/__init__.py", "import_module(f'{__name__}.{x}')", None),
        ("data/check.py", "from convatlas.models import find", "do not know each other"),
        ("models/vgg.py", "from convatlas.data import Split", "models may not import data"),
        ("data/check.py", "from convatlas import list_models", "import the room that holds it"),
        ("data/check.py", "import convatlas", "import the room that holds it"),
        ("attic/box.py", "", "has no place in the order"),
        ("data/check.py", "from convatlas.data import open_data", None),
        (
            "data/check.py",
            "from convatlas import __version__\nfrom convatlas.files import sha256\nimport torch",
            None,
        ),
        ("__init__.py", "from convatlas.api import train", None),
    ],
)
def test_planted_violations_are_found(tmp_path: Path, file: str, source: str, complaint: str | None) -> None:
    target = tmp_path / PACKAGE / file
    target.parent.mkdir(parents=True)
    target.write_text(source)
    found = violations(tmp_path)
    assert [complaint in line for line in found] == [True] if complaint else found == []


def test_a_circle_inside_a_room_is_found(tmp_path: Path) -> None:
    room = tmp_path / PACKAGE / "data"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("from convatlas.data.check import check")
    (room / "check.py").write_text("from convatlas.data.decode import decode")
    (room / "decode.py").write_text("def later():\n    from convatlas.data import check")
    assert "in a circle" in violations(tmp_path)[0]
    (room / "decode.py").write_text("import io")
    assert violations(tmp_path) == []
