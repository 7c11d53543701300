"""What five university lectures on convolutional networks say in numbers, as read from their slides.

`lectures.json` holds, for each system that they show, their claims as stated, what they leave out (`reference`),
where they are wrong, with the correction (`errors`), and what they leave open (`ambiguous`). Papers and lectures
are quoted with their own words and numbers, slips included; nothing there is a result of this code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Lecture:
    """A lecture: the `label` that tables use, its title, where it was held and when."""

    label: str
    title: str
    place: str
    year: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A number or fact as stated: `number` counts from 1 in its entry, `value` is a number, text or nested lists."""

    entry: str
    number: int
    what: str
    value: Any
    unit: str
    lectures: tuple[str, ...]

    @property
    def key(self) -> str:
        """How rules name it: "alexnet 15"."""
        return f"{self.entry} {self.number}"


@dataclass(frozen=True, slots=True)
class LectureError:
    """What a lecture says, what is correct, and on what that rests ("computed", "paper", "definition")."""

    entry: str
    number: int
    says: str
    correct: str
    basis: str
    lectures: tuple[str, ...]

    @property
    def key(self) -> str:
        """How rules and pages name it: "alexnet error 2"."""
        return f"{self.entry} error {self.number}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One system, layer, recipe or experiment of the lectures."""

    id: str
    kind: str
    name: str
    claims: tuple[Claim, ...]
    errors: tuple[LectureError, ...]
    ambiguous: tuple[str, ...]


@cache
def _data() -> dict[str, Any]:
    return json.loads((files("convatlas.audit") / "lectures.json").read_text(encoding="utf-8"))


@cache
def lectures() -> dict[str, Lecture]:
    """The five lectures by the short names that claims use."""
    return {key: Lecture(**fields) for key, fields in _data()["lectures"].items()}


@cache
def entries() -> dict[str, Entry]:
    """Every entry by its id, in the order of the file."""
    return {raw["id"]: _entry(raw) for raw in _data()["entries"]}


def reference(entry: str, what: str) -> tuple[Any, str]:
    """A value beside an entry that no lecture states, and its source. Raises `KeyError` if there is none."""
    for raw in _data()["entries"]:
        for each in raw.get("reference", []) if raw["id"] == entry else []:
            if each["what"] == what:
                return each["value"], each["source"]
    raise KeyError(f"{entry}: {what}")


@cache
def errors() -> dict[str, LectureError]:
    """Every error of the lectures by its key."""
    return {error.key: error for entry in entries().values() for error in entry.errors}


def _entry(raw: dict[str, Any]) -> Entry:
    name = raw["id"]
    claims = tuple(
        Claim(name, n, each["what"], each["value"], each["unit"], tuple(each["lectures"]))
        for n, each in enumerate(raw.get("claims", []), start=1)
    )
    errors = tuple(
        LectureError(name, n, each["says"], each["correct"], each["basis"], tuple(each["lectures"]))
        for n, each in enumerate(raw.get("errors", []), start=1)
    )
    return Entry(name, raw["kind"], raw["name"], claims, errors, tuple(raw.get("ambiguous", [])))


def labels(keys: tuple[str, ...]) -> str:
    """The lectures of a claim for a table: "Amsterdam, Bucharest"."""
    return ", ".join(lectures()[key].label for key in keys)
