"""Recipes by name: one file per paper, and `quick`, the modern default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convatlas.data import Data
from convatlas.errors import UsageError, did_you_mean
from convatlas.train.recipe import Recipe
from convatlas.train.recipes import lenet_1998, quick, resnet_2015, resnet_cifar_2015, speedrun, vgg_2014


@dataclass(frozen=True)
class Named:
    """A recipe, and how it adapts to data it has not seen: sentences for the report come with it."""

    recipe: Recipe
    adapt: Callable[[Recipe, Data, str], tuple[Recipe, list[str]]] | None = None


_NAMED = {
    entry.recipe.name: entry
    for entry in (
        Named(quick.RECIPE, quick.adapt),
        Named(lenet_1998.RECIPE),
        Named(vgg_2014.RECIPE),
        Named(resnet_2015.RECIPE),
        Named(resnet_cifar_2015.RECIPE),
        Named(speedrun.PAPER),
        Named(speedrun.RECIPE),
    )
}


def recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return {name: entry.recipe for name, entry in _NAMED.items()}


def find_recipe(name: str) -> Named:
    """The recipe of that name. Raises `UsageError` with the nearest names if there is none."""
    if name not in _NAMED:
        raise UsageError(
            f"there is no recipe {name!r}.{did_you_mean(name, _NAMED)} Known: {', '.join(_NAMED)}."
        )
    return _NAMED[name]


def prepared(name: str, data: Data, model: str) -> tuple[Recipe, list[str]]:
    """The recipe for these images and this network, with a sentence for each thing it chose.

    Raises `UsageError` with the nearest names if there is no such recipe.
    """
    entry = find_recipe(name)
    return entry.adapt(entry.recipe, data, model) if entry.adapt else (entry.recipe, [])
