"""R17: every verb on wrong input and with broken output: the right exit code, one message, no traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage import Outcome, Stage

pytestmark = pytest.mark.reliability

OK, USAGE, DATA, CHECKPOINT, RESOURCE = 0, 2, 3, 4, 6
CLASSES, EACH = ("circle", "cross", "bar"), 12
FAST = ("--model", "lenet5", "--epochs", "1", "--batch-size", "16", "--workers", "0", "--quiet")


# --- a small world of right and wrong things ------------------------------------------------------------


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """A grey 12 x 12 picture of a circle, a cross or a bar on noise."""
    y, x = np.mgrid[:12, :12] - 5.5
    inked = {"circle": abs(x**2 + y**2 - 16) < 7, "cross": (abs(x) < 1) | (abs(y) < 1), "bar": abs(y) < 2}[
        kind
    ]
    return Image.fromarray(np.where(inked, 230, rng.integers(0, 60, (12, 12))).astype(np.uint8))


def dataset(folder: Path, each: int = EACH) -> Path:
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            draw(kind, rng).save(folder / kind / f"{number:02}.png")
    return folder


def undecodable(name: str) -> str:
    """A file name that is no UTF-8, as Python passes it on."""
    return os.fsdecode(name.encode("latin-1"))


def build_data(root: Path) -> None:
    good = dataset(root / "good")
    for name in (
        "with spaces and 'quotes'",
        "[red]markup[/red]",
        "\x1b[31mescape\nnewline",
        undecodable("caf\xe9"),
        "-dash",
    ):
        shutil.copytree(good, root / name)
    odd = shutil.copytree(good, root / "odd-files")
    for name in ("a b.png", "\x1b[2J\n.png", undecodable("\xff\xfe.png"), "é.png"):
        shutil.copy(odd / "bar" / "00.png", odd / "bar" / name)
        (odd / "bar" / name).write_bytes(_changed(odd / "bar" / "00.png", len(name)))
    (root / "empty").mkdir()
    (root / "no-classes").mkdir()
    for file in (good / "bar").iterdir():
        shutil.copy(file, root / "no-classes")
    shutil.copytree(good / "bar", root / "one-class" / "bar")
    (root / "empty-classes" / "a").mkdir(parents=True)
    (root / "empty-classes" / "b").mkdir()
    damaged = shutil.copytree(good, root / "damaged")
    (damaged / "bar" / "00.png").write_bytes((good / "bar" / "00.png").read_bytes()[:60])
    (damaged / "cross" / "notes.png").write_text("these are notes")
    (root / "notes.txt").write_text("these are notes\n")
    (root / "notes.csv").write_text("these are notes\n")
    (root / "gone.csv").write_text("path,label\nnowhere/a.png,x\nnowhere/b.png,y\n")
    (root / "half.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (root / "empty.zip").write_bytes(b"")
    shutil.make_archive(str(root / "good-archive"), "zip", good)
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")


def _changed(file: Path, seed: int) -> bytes:
    """The picture with other noise: a copy with equal pixels would be a duplicate."""
    copy = file.with_suffix(".tmp.png")
    draw("bar", np.random.default_rng(100 + seed)).save(copy)
    content = copy.read_bytes()
    copy.unlink()
    return content


def build_runs(root: Path) -> None:
    """Damaged copies of the run in `root/run`."""

    def damaged(name: str) -> Path:
        return shutil.copytree(root / "run", root / name)

    for name in ("run with spaces", undecodable("run-\xe9"), "run\x1b[31m"):
        damaged(name)
    (damaged("run-broken-json") / "run.json").write_text('{"format": 1,')
    (damaged("run-other-json") / "run.json").write_text("[]")
    (damaged("run-future") / "run.json").write_text('{"format": 999}')
    shutil.rmtree(damaged("run-no-weights") / "best")
    shutil.rmtree(root / "run-no-weights" / "checkpoints")
    for name, part in (("run-cut-weights", "model.safetensors"), ("run-cut-spec", "spec.json")):
        folder = next((damaged(name) / "best").iterdir())
        content = (folder / part).read_bytes()
        (folder / part).write_bytes(content[: len(content) // 2])
    other = damaged("run-other-checkpoint") / "checkpoints"
    for folder in other.iterdir():
        for file in folder.iterdir():
            file.write_bytes(b"\x00" * 100)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Path]]:
    root = tmp_path_factory.mktemp("world")
    build_data(root)
    stage = Stage(root)
    try:
        made = stage.run("train", "good", "--out", "run", *FAST)
        assert made.code == OK, made.err
        build_runs(root)
        yield stage, root
    finally:
        stage.close()


# --- the cases ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command in the world, the exit code it must have, and how its output is."""

    arguments: tuple[str, ...]
    code: int
    stdout: str = "file"
    encoding: str = "utf-8"

    def __str__(self) -> str:
        words = (
            " ".join(self.arguments).encode("ascii", "backslashreplace").decode().replace("n" * 300, "nnn...")
        )
        return f"{words} -> {self.code}" + (f" ({self.stdout})" if self.stdout != "file" else "")


FRESH = "{fresh}"  # an --out that no case has used
TRAIN = ("train", "{}", "--out", FRESH, *FAST)
SHOW = ("data", "show", "{}", "--out", FRESH + ".png", "--model", "lenet5")
CHECK = ("data", "check", "{}")
EVAL = ("eval", "run", "{}")

GOOD_PLACES = (
    "good",
    "with spaces and 'quotes'",
    "[red]markup[/red]",
    "\x1b[31mescape\nnewline",
    undecodable("caf\xe9"),
    "./-dash",
    "odd-files",
    "good-archive.zip",
)
BAD_PLACES = (
    "nowhere",
    "empty",
    "no-classes",
    "empty-classes",
    "notes.txt",
    "notes.csv",
    "gone.csv",
    "half.zip",
    "empty.zip",
    "dangling",
    "loop",
    "pipe",
    "nowhere\x1b[2J",
    undecodable("nowhere-\xe9"),
    "n" * 300,
)

BAD_RUNS = {
    "nowhere": CHECKPOINT,
    "empty": CHECKPOINT,
    "notes.txt": CHECKPOINT,
    "good": CHECKPOINT,
    "dangling": CHECKPOINT,
    "loop": CHECKPOINT,
    "pipe": CHECKPOINT,
    "run-broken-json": CHECKPOINT,
    "run-other-json": CHECKPOINT,
    "run-future": CHECKPOINT,
    "n" * 300: RESOURCE,
}
UNWRITABLE = ("notes.txt/x", "/proc/nowhere/x", "/dev/null/x", "n" * 300)


def fill(template: tuple[str, ...], place: str) -> tuple[str, ...]:
    return tuple(place if word == "{}" else word for word in template)


def inputs() -> Iterator[Case]:
    """Every verb that reads images, on every place."""
    for template in (TRAIN, SHOW, CHECK, EVAL):
        for place in GOOD_PLACES:
            yield Case(fill(template, place), OK)
        for place in BAD_PLACES:
            yield Case(fill(template, place), DATA)
        yield Case(fill(template, "damaged"), DATA)
    yield Case(fill(TRAIN, "one-class"), DATA)
    yield Case(fill(CHECK, "one-class"), OK)  # nothing is wrong with its files
    yield Case(fill((*TRAIN, "--on-bad", "skip"), "damaged"), OK)
    yield Case(fill(TRAIN, "-dash"), USAGE)


def runs() -> Iterator[Case]:
    """Every verb that reads a run, on every kind of run."""
    for run, code in BAD_RUNS.items():
        yield Case(("eval", run), code)
        yield Case(("train", "--resume", run, "--quiet"), code)
        if not run.startswith("run-"):
            yield Case(("predict", run, "good/bar/00.png"), code)
    for run in (
        "run-broken-json",
        "run-other-json",
        "run-future",
    ):  # the weights have a description of their own
        yield Case(("predict", run, "good/bar/00.png"), OK)
    for run in ("run-no-weights", "run-cut-weights", "run-cut-spec"):
        yield Case(("eval", run), CHECKPOINT)
        yield Case(("predict", run, "good/bar/00.png"), CHECKPOINT)
    for run in ("run", "run with spaces", undecodable("run-\xe9"), "run\x1b[31m"):
        yield Case(("eval", run), OK)
        yield Case(("predict", run, "good/bar/00.png"), OK)
        yield Case(("train", "--resume", run, "--quiet"), OK)


def outputs() -> Iterator[Case]:
    """Every verb that writes, to where nothing can be written."""
    for place in UNWRITABLE:
        yield Case(("train", "good", "--out", place, *FAST), RESOURCE)
        yield Case(("data", "show", "good", "--out", f"{place}.png", "--model", "lenet5"), RESOURCE)
        yield Case(("data", "check", "good", "--json", f"{place}.json"), RESOURCE)
        yield Case(
            ("predict", "run", "good/bar/00.png", "--format", "csv", "--out", f"{place}.csv"), RESOURCE
        )
    yield Case(("train", "good", "--out", "run", *FAST), USAGE)


def pictures() -> Iterator[Case]:
    """`predict` on everything that might be a picture."""
    for place in (
        "good/bar/00.png",
        "good",
        "good/*/0?.png",
        "odd-files/bar",
        "with spaces and 'quotes'/bar/00.png",
    ):
        yield Case(("predict", "run", place), OK)
        yield Case(("predict", "run", place, "--format", "json", "--topk", "3"), OK)
    for place in (
        "nowhere.png",
        "nowhere/*.png",
        "empty",
        "notes.txt",
        "pipe",
        "dangling",
        "loop",
        "half.zip",
    ):
        yield Case(("predict", "run", place), DATA)
    yield Case(("predict", "run", "damaged"), DATA)
    yield Case(("predict", "run", "damaged", "--on-bad", "skip"), OK)
    yield Case(("predict", "run"), USAGE)
    yield Case(("predict", "run", "good", "--topk", "0"), USAGE)


VERBS = (
    ("list",),
    ("describe", "lenet5"),
    ("data", "check", "odd-files"),
    ("data", "check", "good", "--json", "-"),
    ("eval", "run"),
    ("predict", "run", "odd-files"),
    ("train", "good", "--out", FRESH, *FAST[:-1]),
    ("train", "good", "--out", FRESH, *FAST[:-1], "--json"),
    ("--help",),
)


def streams() -> Iterator[Case]:
    """Every verb with every kind of output."""
    for words in VERBS:
        yield Case(words, OK, "closed")
        yield Case(words, OK, "broken")
        yield Case(words, OK, "file", "ascii")
    for words in VERBS:
        yield Case(words, RESOURCE, "full")
    yield Case(("data", "check", "damaged"), DATA, "broken")
    yield Case(("data", "check", "damaged"), DATA, "closed")
    yield Case(("describe", "vgg61"), USAGE, "closed")


CASES = [*inputs(), *runs(), *outputs(), *pictures(), *streams()]


def test_there_are_150_cases() -> None:
    assert len(set(map(str, CASES))) >= 150


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case, world: tuple[Stage, Path], request: pytest.FixtureRequest) -> None:
    stage, root = world
    fresh = f"out-{CASES.index(case)}"
    outcome = stage.run(
        *(word.replace(FRESH, fresh) for word in case.arguments), stdout=case.stdout, encoding=case.encoding
    )
    assert outcome.code == case.code, outcome
    assert "Traceback" not in outcome.err + outcome.out
    if case.code == OK:
        assert "Warning" not in outcome.err
    elif case.stdout != "closed":
        assert complaint(outcome), outcome
    assert "\x1b" not in outcome.err + outcome.out, "a name commands the terminal"
    left = [path.name for path in root.rglob("*.tmp-*")]
    assert left == [], "temporary files are left"


def complaint(outcome: Outcome) -> bool:
    """Whether stderr holds one message of ours, which may go over several lines."""
    return sum(line.startswith("convatlas: ") for line in outcome.err.splitlines()) == 1
