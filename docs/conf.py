"""Sphinx: MyST Markdown by hand, and what the code can say itself generated from the code."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import convatlas
from convatlas.cli import main

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"

project = "convatlas"
release = version = convatlas.__version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_generated"]
html_theme = "alabaster"
html_theme_options = {
    "description": "The canon of convolutional networks as working software",
    "page_width": "1100px",
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}


def printed(*words: str) -> str:
    """What a command prints on stdout."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main.run(words)
    return text.getvalue()


def generate() -> None:
    """Write the help of every verb and the table of networks below `_generated`, which no one edits."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    GENERATED.mkdir(exist_ok=True)
    verbs = [
        *main.VERBS,
        *(f"{group} {verb}" for group, (_, members) in main.GROUPS.items() for verb in members),
    ]
    for verb in verbs:
        (GENERATED / f"{verb.replace(' ', '-')}.txt").write_text(printed(*verb.split(), "--help"))
    (GENERATED / "list.out.txt").write_text(printed("list"))
    (GENERATED / "lenet5_1998.out.txt").write_text(printed("describe", "lenet5_1998"))


generate()
