"""What lies beside saved weights (spec.json): which network, which classes, how pictures are prepared.

The file may have been damaged or written by somebody else, so every value is looked at before it is used,
and the message names the one that makes no sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from convatlas.data import Preprocessing
from convatlas.errors import BadCheckpoint, UsageError
from convatlas.files import read_json
from convatlas.models import find
from convatlas.train.task import find_task

FORMAT = 1
MAX_CLASSES = 100_000
MAX_OPTION = 100_000  # no network has a larger width, depth or class count


@dataclass(frozen=True, slots=True)
class SavedSpec:
    """spec.json. `options` are the arguments of `create_model`; `score` says which split chose these weights."""

    task: str
    model: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    score: Mapping[str, Any]
    epoch: int
    recipe: str

    @staticmethod
    def read(path: Path) -> SavedSpec:
        """The spec in that file. Raises `BadCheckpoint` that names file and field."""
        try:
            return SavedSpec.from_json(read_json(path, max_bytes=2**24))
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{path}: {error}") from error

    @staticmethod
    def from_json(value: object) -> SavedSpec:
        """Check plain values. Raises `BadCheckpoint` that names the field."""
        fields = _fields(
            value, "the spec", ("format", "task", "model", "options", "classes", "preprocessing")
        )
        if type(fields["format"]) is not int or fields["format"] != FORMAT:
            raise BadCheckpoint(f"format is {fields['format']!r:.80}; this version reads format {FORMAT}.")
        for name in ("task", "model"):
            if not isinstance(fields[name], str):
                raise BadCheckpoint(f"{name} is {fields[name]!r:.80}, not a name.")
        find_task(fields["task"])
        try:
            find(fields["model"])
        except UsageError as error:
            raise BadCheckpoint(f"model: {error}") from error
        classes = _classes(fields["classes"])
        preprocessing = Preprocessing.from_json(fields["preprocessing"])
        options = _fields(fields["options"], "options", ("num_classes", "in_channels"))
        for name, option in options.items():
            _check_option(name, option)
        for name, expected, why in (
            ("num_classes", len(classes), "the number of classes"),
            ("in_channels", preprocessing.channels, "the channels of the preprocessing"),
        ):
            if options[name] != expected or not _is_int(options[name]):
                raise BadCheckpoint(f"options: {name} is {options[name]!r:.80}, but {why} is {expected}.")
        score, epoch, recipe = fields.get("score", {}), fields.get("epoch", 0), fields.get("recipe", "")
        if not isinstance(score, dict) or not _is_int(epoch) or epoch < 0 or not isinstance(recipe, str):
            raise BadCheckpoint("score, epoch or recipe is not what a run writes.")
        return SavedSpec(
            fields["task"], fields["model"], options, classes, preprocessing, score, epoch, recipe
        )


def _fields(value: object, what: str, needed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{what} is {value!r:.80}, not an object with named fields.")
    fields = cast("dict[str, Any]", value)
    missing = [name for name in needed if name not in fields]
    if missing:
        raise BadCheckpoint(f"{what} lacks {', '.join(missing)}.")
    return fields


def _classes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLASSES:
        raise BadCheckpoint(f"classes must be a list of 1 to {MAX_CLASSES:,} names.")
    names = cast("list[object]", value)
    wrong = [name for name in names if not isinstance(name, str) or not 0 < len(name) <= 4096]
    if wrong:
        raise BadCheckpoint(f"classes: {wrong[0]!r:.80} is not a name.")
    if len(set(names)) != len(names):
        raise BadCheckpoint("classes: a name stands twice.")
    return tuple(str(name) for name in names)


def _check_option(name: str, option: Any) -> None:
    """Options are small plain values: a file must not be able to ask for a network without end."""
    items = cast("list[Any]", option) if isinstance(option, list) else [option]
    for item in items[:1000]:
        plain = (
            item is None or isinstance(item, (bool, str)) or (_is_number(item) and abs(item) <= MAX_OPTION)
        )
        if not plain or (isinstance(item, str) and len(item) > 1000) or len(items) > 100:
            raise BadCheckpoint(f"options: {name} is {option!r:.80}, which no network takes.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)
