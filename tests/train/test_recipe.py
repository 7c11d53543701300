"""Recipes: what the papers print, and how settings are read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.errors import BadCheckpoint, UsageError
from convatlas.train import Recipe, read_toml, recipes


def rates(name: str, at: list[float]) -> list[float]:
    return [recipes()[name].rate(progress) for progress in at]


def test_resnet_cifar_divides_at_32k_and_48k_of_64k_iterations() -> None:
    recipe = recipes()["resnet-cifar-2015"]
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (128, 0.9, 1e-4)
    at = [31_999 / 64_000, 32_000 / 64_000, 47_999 / 64_000, 48_000 / 64_000]
    assert rates("resnet-cifar-2015", at) == pytest.approx([0.1, 0.01, 0.01, 0.001])
    assert recipe.epochs * (45_000 // 128) == pytest.approx(64_000, rel=0.01)


def test_resnet_on_imagenet() -> None:
    recipe = recipes()["resnet-2015"]
    assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (256, 0.1, 0.9, 1e-4)
    assert recipe.scale_jitter == (256, 480)
    assert recipe.epochs * 1_281_167 / 256 == pytest.approx(600_000, rel=0.01)


def test_vgg_divides_three_times_and_keeps_pixels_in_255() -> None:
    recipe = recipes()["vgg-2014"]
    assert (recipe.batch_size, recipe.lr, recipe.weight_decay, recipe.dropout) == (256, 0.01, 5e-4, 0.5)
    assert recipe.rate(0.999) == pytest.approx(0.01 * 1e-3)
    assert recipe.scale_jitter == (256, 512)
    assert recipe.std == (1 / 255,)
    assert recipe.epochs * 1_281_167 / 256 == pytest.approx(370_000, rel=0.01)


def test_lenet_follows_the_printed_levels_and_pixel_range() -> None:
    recipe = recipes()["lenet-1998"]
    printed = [0.0005] * 2 + [0.0002] * 3 + [0.0001] * 3 + [0.00005] * 4 + [0.00001] * 8
    ours = [recipe.rate((epoch + 0.5) / 20) / recipe.lr * 0.0005 for epoch in range(20)]
    assert ours == pytest.approx(printed)
    assert [(pixel - recipe.mean[0]) / recipe.std[0] for pixel in (0, 1)] == pytest.approx([-0.1, 1.175])


def test_every_recipe_survives_json_and_names_its_source() -> None:
    for name, recipe in recipes().items():
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert recipe.name == name
        assert recipe.source


def test_options_are_numbers_or_true_or_false() -> None:
    recipe = Recipe(options=(("narrow", True), ("width", 2.0)))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(UsageError, match="float is expected, not list"):
        Recipe().with_settings({"options": [["width", [1]]]})


def test_settings_are_read_as_the_fields_type() -> None:
    recipe = Recipe().with_settings(
        {
            "lr": "0.05",
            "epochs": "3",
            "flip": "true",
            "milestones": "[0.5, 0.75]",
            "schedule": "steps",
            "ema": 0,
        }
    )
    assert (recipe.lr, recipe.epochs, recipe.flip, recipe.milestones) == (0.05, 3, True, (0.5, 0.75))
    assert recipe.schedule == "steps"
    assert type(recipe.ema) is float


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("learning_rat", "0.1", "no setting"),
        ("epoch", "3", "'epochs'"),
        ("lr", "fast", "float is expected"),
        ("lr", "nan", "float is expected"),
        ("lr", "-1", "outside"),
        ("epochs", "2.5", "int is expected"),
        ("epochs", "true", "int is expected"),
        ("epochs", "0", "outside"),
        ("flip", "1", "bool is expected"),
        ("schedule", "cosin", "'cosine'"),
        ("milestones", "0.5", "a list is expected"),
        ("resized_scale", "[0.5]", "2 values"),
        ("resized_scale", "[0.9, 0.1]", "rising"),
        ("affine", "[1.0]", "degrees"),
        ("levels", "[[0.5]]", "2 values"),
        ("std", "[0.0]", "above 0"),
        ("accumulate", "1000", "more than batch_size"),
        ("sizes", "[[0.5, 24], [0.1, 28]]", "rising order"),
        ("sizes", "[[0, 4]]", "from 8"),
        ("sizes", "[[0, 24.5]]", "int is expected"),
        ("rates", '[["*.bias", -1.0]]', "outside"),
        ("hold_from", '[["*.bias", 2]]', "outside"),
        ("init", "whitning", "'whitening'"),
        ("init", "fixup", "no start of a training"),
        ("validate_every", "0", "outside"),
    ],
)
def test_wrong_settings_say_what_is_expected(key: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=None) as caught:
        Recipe().with_settings({key: value})
    assert says in str(caught.value)


@given(
    st.dictionaries(
        st.text(max_size=12),
        st.one_of(
            st.text(max_size=30), st.integers(), st.floats(), st.none(), st.lists(st.integers(), max_size=3)
        ),
        max_size=3,
    )
)
def test_any_settings_are_taken_or_refused_by_a_usage_error(settings: dict[str, object]) -> None:
    names = [field.name for field in dataclasses.fields(Recipe)]
    chosen = {names[len(key) * 7919 % len(names)]: value for key, value in settings.items()}
    with contextlib.suppress(UsageError):
        Recipe().with_settings(chosen)
    unknown = {f"{key}?": value for key, value in settings.items()}
    if unknown:
        with pytest.raises(UsageError, match="no setting"):
            Recipe().with_settings(unknown)


def test_damaged_json_is_a_bad_checkpoint() -> None:
    for value in (None, [], {"lr": "x"}, {"unknown": 1}, {"epochs": 1e400}):
        with pytest.raises(BadCheckpoint):
            Recipe.from_json(value)


def test_toml_has_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('lr = 0.02\nmilestones = [0.3, 0.6]\nschedule = "steps"\n')
    recipe = Recipe().with_settings(read_toml(path))
    assert recipe.rate(0.5) == pytest.approx(0.002)
    path.write_text("lr = = 1")
    with pytest.raises(UsageError, match="not a recipe in TOML"):
        read_toml(path)
    with pytest.raises(UsageError, match="does not exist"):
        read_toml(tmp_path / "absent.toml")
