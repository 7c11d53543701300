"""What a training will do, decided before it begins: network, start, recipe and preprocessing for these images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from convatlas.data import Data, Preprocessing, statistics
from convatlas.errors import UsageError, did_you_mean
from convatlas.models import find, overrides
from convatlas.train import choose, origin
from convatlas.train.origin import Start
from convatlas.train.recipe import Recipe, read_settings
from convatlas.train.recipes import find_recipe, prepared


@dataclass(frozen=True)
class Plan:
    """Network and recipe as they will be used. `reason` says why the network, if it was chosen here."""

    model: str
    options: Mapping[str, Any]  # of the network, for `create_model`
    start: Start
    recipe: Recipe
    preprocessing: Preprocessing
    reason: str | None
    notes: tuple[str, ...]  # what the recipe chose for these images


def check_wishes(
    model: str | None,
    recipe: str | Recipe,
    settings: Mapping[str, Any] | None,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Raise `UsageError` for what can be known to be wrong before any image is read."""
    start = origin.check_wish(weights, None if model is None else find(model))
    if model is None and start is not None and start.run is not None:
        model = start.run.model
    meant = _meant(recipe, settings)
    read_settings(settings or {})
    if model is None and meant:
        model = meant
    if options and model is None:
        raise UsageError(f"the option {next(iter(options))!r} is one of a network: name it by --model.")
    if model is not None:
        _check_options(model, options or {})


def _check_options(model: str, options: Mapping[str, Any]) -> None:
    known = overrides(find(model))
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"{model} has no option {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}."
            )
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(item is None or isinstance(item, (bool, int, float, str)) for item in items):
            raise UsageError(
                f"option {name} = {value!r}: a number, a word, true or false, or a list is expected."
            )


def plan(
    data: Data,
    model: str | None = None,
    recipe: str | Recipe = "quick",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Decide what is open; what the user sets wins, then what belongs to the weights, then the recipe.

    Raises `UsageError` for an unknown name or setting, and as `origin.settle`.
    """
    name, size, reason = _network(data, model, weights, _meant(recipe, settings))
    spec = find(name)
    start = origin.settle(weights, data, spec)
    base, notes = prepared(recipe, data, name) if isinstance(recipe, str) else (recipe, [])
    if isinstance(recipe, str):
        base = replace(base, **start.settings(data))
    final = base.with_settings(settings or {})
    final = replace(final, image_size=final.image_size or size or _native_size(spec.image, data))
    channels = start.channels(data)
    chosen: dict[str, Any] = {
        "num_classes": len(data.classes),
        "in_channels": channels,
        **start.options(name),
    }
    if name == final.network:
        chosen |= dict(final.options)
    if final.dropout >= 0:
        chosen["dropout"] = final.dropout
    chosen |= options or {}
    preprocessing = start.prepared(_preprocessing(final, data, seed, channels))
    return Plan(name, chosen, start, final, preprocessing, reason, tuple(notes))


def to_read(
    recipe: str | Recipe, settings: Mapping[str, Any] | None, reading: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of `open_data`: what is wished, and the recipe's share of val where nothing is said of it."""
    return {"val_share": _named(recipe).with_settings(settings or {}).val_share, **reading}


def _named(recipe: str | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else find_recipe(recipe).recipe


def _meant(recipe: str | Recipe, settings: Mapping[str, Any] | None) -> str:
    """The network that a recipe is for, "" if any. Raises `UsageError` for an unknown recipe."""
    return str((settings or {}).get("network", _named(recipe).network))


def _network(data: Data, model: str | None, weights: str | None, meant: str) -> tuple[str, int, str | None]:
    """Name, image size (0: not decided here), and why, if it was chosen here."""
    if model is not None:
        return model, 0, None
    start = origin.check_wish(weights, None)
    if start is not None and start.run is not None:
        return start.run.model, 0, f"the network of {start.title}"
    if meant:
        return find(meant).name, 0, "the network that the recipe is for"
    return choose.network(data)


def _native_size(image: int, data: Data) -> int:
    """The network's own size, but not far above that of small images."""
    side = data.typical_side()
    return image if side > 64 or image <= 64 else (32 if side <= 40 else 64)


def _preprocessing(recipe: Recipe, data: Data, seed: int, channels: int) -> Preprocessing:
    """Geometry from the recipe; mean and deviation from there too, or measured on the training images."""
    plain = Preprocessing(
        size=(recipe.image_size, recipe.image_size),
        resize=recipe.resize,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        crop_ratio=recipe.crop_ratio,
    )
    measured = (
        (recipe.mean, recipe.std)
        if recipe.mean and recipe.std
        else statistics(data.train.here(), plain, seed=seed)
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
