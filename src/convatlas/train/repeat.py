"""What a run was asked to do, read back from its folder, to be done again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder

DECIDED = ("num_classes", "in_channels", "dropout")  # options that follow from images and recipe


@dataclass(frozen=True)
class Repeated:
    """Arguments of `begin` that do what the run did."""

    where: str
    model: str
    options: Mapping[str, Any]
    weights: str | None
    recipe: Recipe
    seed: int
    reading: dict[str, Any]


def repeated(path: str | os.PathLike[str]) -> Repeated:
    """What the run in that folder did. Raises `BadCheckpoint` if it is none."""
    decided = RunFolder.open(os.fspath(path)).read_run()
    recipe = Recipe.from_json(decided["recipe"])
    settled = {name for name in DECIDED if name != "dropout" or recipe.dropout >= 0}
    return Repeated(
        where=decided["where"],
        model=decided["model"],
        options={name: value for name, value in decided["options"].items() if name not in settled},
        weights=decided["weights"],
        recipe=recipe,
        seed=decided["seed"],
        reading={name: value for name, value in decided["reading"].items() if name != "apart"},
    )
