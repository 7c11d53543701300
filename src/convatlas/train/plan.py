"""What a training will do, decided before it begins: network, recipe and preprocessing for these images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convatlas.data import Data, Preprocessing, statistics
from convatlas.errors import UsageError
from convatlas.models import find
from convatlas.train import choose
from convatlas.train.recipe import Recipe, read_settings
from convatlas.train.recipes import find_recipe, prepared


@dataclass(frozen=True)
class Plan:
    """Network and recipe as they will be used. `reason` says why the network, if it was chosen here."""

    model: str
    recipe: Recipe
    preprocessing: Preprocessing
    reason: str | None
    notes: tuple[str, ...]  # what the recipe chose for these images


def check_wishes(model: str | None, recipe: str | Recipe, settings: Mapping[str, Any] | None) -> None:
    """Raise `UsageError` for what can be known to be wrong before any image is read."""
    if model is not None:
        find(model)
    if isinstance(recipe, str):
        find_recipe(recipe)
    read_settings(settings or {})


def plan(
    data: Data,
    model: str | None = None,
    recipe: str | Recipe = "quick",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Plan:
    """Decide what is open; what the user sets wins. Raises `UsageError` for an unknown name or setting."""
    name, size, reason = choose.network(data) if model is None else (model, 0, None)
    spec = find(name)
    base, notes = prepared(recipe, data, name) if isinstance(recipe, str) else (recipe, [])
    final = base.with_settings(settings or {})
    final = replace(final, image_size=final.image_size or size or _native_size(spec.image, data))
    return Plan(name, final, _preprocessing(final, data, seed), reason, tuple(notes))


def _native_size(image: int, data: Data) -> int:
    """The network's own size, but not far above that of small images."""
    side = data.typical_side()
    return image if side > 64 or image <= 64 else (32 if side <= 40 else 64)


def _preprocessing(recipe: Recipe, data: Data, seed: int) -> Preprocessing:
    """Geometry from the recipe; mean and deviation from there too, or measured on the training images."""
    channels = data.channels
    plain = Preprocessing(
        size=(recipe.image_size, recipe.image_size),
        resize=recipe.resize,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        crop_ratio=recipe.crop_ratio,
    )
    measured = (
        (recipe.mean, recipe.std) if recipe.mean and recipe.std else statistics(data.train, plain, seed=seed)
    )
    mean, std = (
        _per_channel(given or found, channels)
        for given, found in zip((recipe.mean, recipe.std), measured, strict=True)
    )
    return replace(plain, mean=mean, std=std)


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return tuple(values) * channels
    if len(values) != channels:
        raise UsageError(f"{len(values)} values for mean or std, but the images have {channels} channels.")
    return tuple(values)
