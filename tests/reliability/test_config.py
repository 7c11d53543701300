"""R16: recipe files and settings that are wrong. Exit code 2 with the nearest key, no code run, within a second."""

from __future__ import annotations

import dataclasses
import random
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convatlas.cli import main
from convatlas.errors import UsageError
from convatlas.train.recipe import Recipe, read_toml

pytestmark = pytest.mark.reliability

FIELDS = {field.name: field.type for field in dataclasses.fields(Recipe)}
DEADLINE = 5.0  # CPU seconds of one case; the goal is 1


def misspelt(rng: random.Random, key: str) -> str:
    """The key with one letter lost, doubled or exchanged for its neighbour."""
    at = rng.randrange(1, len(key) - 1)
    kind = rng.choice(("lost", "doubled", "swapped"))
    if kind == "lost":
        return key[:at] + key[at + 1 :]
    if kind == "doubled":
        return key[:at] + key[at] + key[at:]
    return key[:at] + key[at + 1] + key[at] + key[at + 2 :]


def unknown_keys(rng: random.Random) -> tuple[str, str | None]:
    key = rng.choice([name for name in FIELDS if len(name) > 4])
    wrong = misspelt(rng, key)
    while wrong in FIELDS:  # equal neighbours exchanged, as in "accumulate"
        wrong = misspelt(rng, key)
    return f"{wrong} = 1", key


def wrong_types(rng: random.Random) -> tuple[str, str | None]:
    key = rng.choice(sorted(set(FIELDS) - {"name", "source"}))
    wrong = rng.choice(
        ("{a = 1}", "1979-05-27T07:32:00Z", "[{}]", "[[[[1]]]]", '["a", {b = 2}]', "[nan]", "07:32:00")
    )
    return f"{key} = {wrong}", key


def wrong_numbers(rng: random.Random) -> tuple[str, str | None]:
    key = rng.choice(
        ("epochs", "batch_size", "lr", "warmup", "label_smoothing", "mixup", "image_size", "ema")
    )
    return (
        f"{key} = {rng.choice(('-7', 'nan', 'inf', '-inf', '1e300', '999999999999999999999', 'true'))}",
        key,
    )


def yaml(rng: random.Random) -> tuple[str, str | None]:
    """What a YAML loader might obey."""
    command = "import pathlib; pathlib.Path('canary').touch()"
    lines = (
        f'!!python/object/apply:builtins.exec ["{command}"]',
        'lr: !!python/object/new:os.system ["touch canary"]',
        "a: &a [lol, lol]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]",
        "lr: 0.1\nepochs: 3",
        "lr = __import__('os').system('touch canary')",
        f"lr = {{{{ {command} }}}}",
        "%YAML 1.1\n---\nlr: 1",
    )
    return rng.choice(lines), None


def paths(rng: random.Random) -> tuple[str, str | None]:
    key = rng.choice(
        (
            "../../lr",
            "/etc/passwd",
            "__class__",
            "__init__.__globals__",
            "lr.value",
            "a.b.c.d",
            "..",
            "",
            "\\u0000",
        )
    )
    return rng.choice((f'"{key}" = 1', f"[{key}]\nlr = 1", f"{key} = 1", f'[["{key}"]]')), None


def nesting(rng: random.Random) -> tuple[str, str | None]:
    depth = rng.choice((50, 1_000, 50_000))
    return rng.choice(
        (f"milestones = {'[' * depth}{']' * depth}", "lr = " + "{a=" * depth, "a." * depth + "b = 1")
    ), None


def noise(rng: random.Random) -> tuple[str, str | None]:
    alphabet = string.printable + "\x00\x1b\u202e\U0001f600é"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 200))) + "\n= =", None


def repeated(rng: random.Random) -> tuple[str, str | None]:
    key = rng.choice(sorted(FIELDS))
    return f"{key} = 1\n{key} = 2", None


KINDS: tuple[Callable[[random.Random], tuple[str, str | None]], ...] = (
    unknown_keys,
    wrong_types,
    wrong_numbers,
    yaml,
    paths,
    nesting,
    noise,
    repeated,
)


def wrong_recipes(count: int) -> Iterator[tuple[str, str, str | None]]:
    """(kind, TOML, what the message has to name)."""
    rng = random.Random(16)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield kind.__name__, *kind(rng)


def test_every_wrong_recipe_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Callable[[int, int], int]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.toml"
    refused = 0
    for kind, text, named in wrong_recipes(cases(900, 100_000)):
        file.write_text(text, "utf-8", "surrogatepass")
        begin = time.process_time()
        with pytest.raises(UsageError) as error:
            Recipe().with_settings(read_toml(file))
        assert time.process_time() - begin < DEADLINE, (kind, text[:200])
        message = str(error.value)
        assert named is None or named in message, (kind, text, message)
        assert len(message) < 3_000, (kind, text[:200])
        refused += 1
    assert refused == cases(900, 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"], "no code was run"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"lr = 0.1\n" * 700_000, "recipe.toml"),
        (b"\xff\xfe\x00", "recipe.toml"),
        (b"lr = 0.1 # \xe9", "recipe.toml"),
    ],
)
def test_what_is_no_small_text_is_no_recipe(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=complaint):
        read_toml(file)


def text_settings(count: int) -> Iterator[tuple[str, str]]:
    """`--set` values that no field takes: the words of `wrong_recipes` on one line."""
    rng = random.Random(61)
    for _ in range(count):
        kind = rng.choice((unknown_keys, wrong_types, wrong_numbers))
        text, named = kind(rng)
        yield text.replace(" = ", "=", 1), named or ""


def test_wrong_settings_leave_with_2_and_the_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cases: Callable[[int, int], int],
) -> None:
    monkeypatch.chdir(tmp_path)
    for setting, named in text_settings(cases(100, 1_000)):
        with pytest.raises(SystemExit) as left:
            main.run(["train", "digits", "--model", "lenet5", "--set", setting, "--quiet"])
        shown = capsys.readouterr()
        assert left.value.code == 2, (setting, shown.err)
        assert named in shown.err, (setting, shown.err)
        assert "Traceback" not in shown.err
        assert len(shown.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "no run was begun"


def test_right_settings_are_taken_whichever_way_they_come(tmp_path: Path) -> None:
    """The control: what is refused above is refused for being wrong."""
    file = tmp_path / "recipe.toml"
    file.write_text('lr = 0.05\nflip = true\nschedule = "steps"\nmilestones = [0.5, 0.75]\nepochs = 3\n')
    expected = dataclasses.replace(
        Recipe(), lr=0.05, flip=True, schedule="steps", milestones=(0.5, 0.75), epochs=3
    )
    assert Recipe().with_settings(read_toml(file)) == expected
    as_text = {"lr": "0.05", "flip": "true", "schedule": "steps", "milestones": "[0.5, 0.75]", "epochs": "3"}
    assert Recipe().with_settings(as_text) == expected
