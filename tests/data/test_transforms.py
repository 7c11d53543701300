"""Preprocessing: one geometry, against Pillow's own resize; statistics; what a file may hold."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convatlas.data.transforms import Preprocessing, resample, statistics
from convatlas.errors import BadCheckpoint, UsageError


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise: something that a resize can get wrong."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(7 * x + 3 * c) + np.cos(9 * y - c) for c in range(channels)]
    smooth = np.stack(waves, axis=2) * 55 + 128
    return np.clip(smooth + random.normal(0, 6, (height, width, channels)), 0, 255).astype(np.uint8)


class Pictures:
    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images
        self.keys = [f"{i}.png" for i in range(len(images))]
        self.labels = self.ids = np.arange(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int, /) -> np.ndarray:
        return self.images[i]


def chw(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("source", [(96, 128), (300, 211), (20, 31)])
def test_crop_is_resize_of_the_shorter_side_and_a_centre_crop(source: tuple[int, int], channels: int) -> None:
    image = picture(*source, channels)
    fitted = Preprocessing((56, 56), "crop", channels).fit(image).numpy()
    scale = 64 / min(source)
    whole = Image.fromarray(image.squeeze()).resize(
        (round(source[1] * scale), round(source[0] * scale)), Image.Resampling.BILINEAR
    )
    left, top = (whole.width - 56) // 2, (whole.height - 56) // 2
    expected = chw(whole.crop((left, top, left + 56, top + 56)))
    # ours is not rounded to whole pixels of the resized picture: at most half a pixel apart
    assert np.abs(fitted.astype(int) - expected).mean() < 3
    assert fitted.shape == (channels, 56, 56)


def test_crop_equals_pillow_where_the_numbers_are_whole() -> None:
    image = picture(128, 192)
    expected = chw(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR).crop((20, 4, 76, 60)))
    fitted = Preprocessing((56, 56), "crop", 3).fit(image).numpy()
    assert np.abs(fitted.astype(int) - expected).max() <= 1


def test_crop_without_a_margin_keeps_the_pixels() -> None:
    image = picture(32, 40)
    fitted = Preprocessing((32, 32), "crop", 3, crop_ratio=1.0).fit(image).numpy()
    np.testing.assert_array_equal(fitted, image[:, 4:36].transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_is_pillows_resize(interpolation: str) -> None:
    image = picture(91, 60)
    fitted = Preprocessing((40, 24), "squash", 3, interpolation=interpolation).fit(image).numpy()  # type: ignore[arg-type]
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = chw(Image.fromarray(image).resize((24, 40), method))
    np.testing.assert_array_equal(fitted, expected)


def test_a_great_reduction_in_two_steps_looks_like_one() -> None:
    image = picture(2000, 1500)
    fitted = Preprocessing((32, 32), "squash", 3).fit(image).numpy()
    expected = chw(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(fitted.astype(int) - expected).max() <= 2


def test_pad_keeps_nearly_fitting_pixels_and_shrinks_or_grows_others() -> None:
    prepare = Preprocessing((32, 32), "pad", 1, fill=7)
    digit = picture(28, 28, 1)
    expected = np.full((1, 32, 32), 7, dtype=np.uint8)
    expected[0, 2:30, 2:30] = digit[..., 0]
    np.testing.assert_array_equal(prepare.fit(digit).numpy(), expected)
    for side, resampled in ((26, False), (25, True), (33, True), (32, False)):  # 32 / 1.25 = 25.6
        fitted = prepare.fit(np.full((side, side, 1), 200, dtype=np.uint8)).numpy()
        assert (fitted == 7).any() != (resampled or side == 32)
    wide = prepare.fit(np.full((50, 100, 1), 200, dtype=np.uint8)).numpy()[0]
    np.testing.assert_array_equal(wide[:, 0], [7] * 8 + [200] * 16 + [7] * 8)


def test_nothing_is_distorted_but_by_squash() -> None:
    image = np.zeros((120, 240, 3), dtype=np.uint8)
    y, x = np.mgrid[:120, :240]
    image[(y - 60) ** 2 + (x - 120) ** 2 < 30**2] = 255  # a disc in the middle
    for resize, ratio in (("crop", 1.0), ("pad", 1.0), ("squash", 0.5)):
        inside = Preprocessing((80, 80), resize, 3).fit(image).numpy()[0] > 127  # type: ignore[arg-type]
        across, down = inside.any(axis=0).sum(), inside.any(axis=1).sum()
        assert across / down == pytest.approx(ratio, abs=0.08)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 3]),
    st.sampled_from(["crop", "pad", "squash"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_any_picture_fits_any_size(
    height: int, width: int, found: int, channels: int, resize: str, size: tuple[int, int]
) -> None:
    image = np.full((height, width, found), 99, dtype=np.uint8)
    fitted = Preprocessing(size, resize, channels, fill=99).fit(image)  # type: ignore[arg-type]
    assert fitted.shape == (channels, *size)
    assert fitted.dtype == torch.uint8
    assert fitted.is_contiguous()
    assert (fitted.int() - 99).abs().max() <= 1  # a flat picture stays flat


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1)])
def test_pictures_of_extreme_shape(shape: tuple[int, int], resize: str) -> None:
    fitted = Preprocessing((24, 48), resize, 3).fit(np.full((*shape, 3), 50, dtype=np.uint8))  # type: ignore[arg-type]
    assert fitted.shape == (3, 24, 48)
    assert int(fitted.max()) == 50


def test_grey_becomes_three_equal_channels_and_colour_its_luma() -> None:
    grey, colour = picture(9, 9, 1), picture(9, 9, 3)
    three = Preprocessing((9, 9), "squash", 3).fit(grey).numpy()
    assert (three == grey.transpose(2, 0, 1)).all()
    luma = Preprocessing((9, 9), "squash", 1).fit(colour).numpy()[0]
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalise_and_back(channels: int, layout: torch.memory_format) -> None:
    prepare = Preprocessing((6, 5), "crop", channels, (0.1, 0.5, 0.9)[:channels], (0.2, 0.3, 0.4)[:channels])
    images = torch.randint(0, 256, (7, channels, 6, 5), dtype=torch.uint8, generator=torch.manual_seed(0))
    ours = prepare.normalise(images, layout)
    mean = np.array(prepare.mean)[:, None, None]
    expected = (images.numpy() / 255 - mean) / np.array(prepare.std)[:, None, None]
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=layout)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)
    assert torch.equal(prepare.restore(ours), images)


def test_normalising_is_the_same_alone_and_in_a_batch() -> None:
    prepare = Preprocessing((9, 7), "crop", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.randint(0, 256, (13, 3, 9, 7), dtype=torch.uint8, generator=torch.manual_seed(0))
    alone = torch.cat([prepare.normalise(image[None]) for image in images])
    assert torch.equal(prepare.normalise(images), alone)
    assert torch.equal(prepare.normalise(images, torch.channels_last), alone)
    large = torch.randint(0, 256, (5, 3, 300, 301), dtype=torch.uint8, generator=torch.manual_seed(0))
    alone = torch.cat([prepare.normalise(image[None]) for image in large])
    lies = large.contiguous(memory_format=torch.channels_last)
    for images, layout, serial in product(
        (large, lies), (torch.channels_last, torch.contiguous_format), (True, False)
    ):
        assert torch.equal(prepare.normalise(images, layout, serial=serial), alone)


def test_a_box_is_cut_out_of_the_whole_picture() -> None:
    image = picture(64, 80)
    whole = resample(image, (0, 0, 80, 64), (32, 40))
    part = resample(image, (16, 8, 48, 40), (16, 16))
    np.testing.assert_array_equal(part, whole[4:20, 8:24])


def test_statistics_are_those_of_all_pixels() -> None:
    images = [picture(10, 12, seed=i) for i in range(9)]
    mean, std = statistics(Pictures(images), Preprocessing((10, 12), "squash", 3))
    pixels = np.stack(images) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), atol=1e-6)


def test_statistics_of_a_sample_are_a_function_of_the_seed() -> None:
    split = Pictures([np.full((2, 2, 1), i, dtype=np.uint8) for i in range(200)])
    prepare = Preprocessing((2, 2), "squash", 1)
    first = statistics(split, prepare, limit=20, seed=3)
    assert first == statistics(split, prepare, limit=20, seed=3)
    assert first != statistics(split, prepare, limit=20, seed=4)
    assert first[0][0] == pytest.approx(99.5 / 255, abs=0.15)


def test_statistics_of_a_flat_channel_divide_by_one() -> None:
    mean, std = statistics(
        Pictures([np.full((4, 4, 1), 51, dtype=np.uint8)]), Preprocessing((4, 4), "squash", 1)
    )
    assert mean == (0.2,)
    assert std == (1.0,)
    with pytest.raises(UsageError, match="empty"):
        statistics(Pictures([]), Preprocessing((4, 4), "squash", 1))


def test_json_and_back() -> None:
    prepare = Preprocessing((32, 48), "pad", 3, (0.1, 0.2, 0.3), (1, 2, 3), 0.9, "bicubic", 12)
    assert Preprocessing.from_json(json.loads(json.dumps(prepare.to_json()))) == prepare


GOOD = Preprocessing((32, 48), "pad", 1, (0.1,), (0.5,)).to_json()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": [32]}, "size"),
        ({"size": [0, 4]}, "size"),
        ({"size": [10**9, 4]}, "size"),
        ({"size": [True, 4]}, "size"),
        ({"size": "32"}, "size"),
        ({"size": [3.5, 4]}, "size"),
        ({"resize": "stretch"}, "stretch"),
        ({"resize": ["crop"]}, "resize"),
        ({"channels": 4}, "channels"),
        ({"channels": 3}, "mean"),
        ({"mean": [math.nan]}, "mean"),
        ({"mean": []}, "mean"),
        ({"mean": [10**400]}, "mean"),
        ({"mean": [1e300]}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"std": [-1.0]}, "std"),
        ({"std": [math.inf]}, "std"),
        ({"std": ["1"]}, "std"),
        ({"crop_ratio": 0}, "crop_ratio"),
        ({"crop_ratio": None}, "crop_ratio"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"interpolation": {}}, "interpolation"),
        ({"fill": 256}, "fill"),
        ({"fill": 1.5}, "fill"),
        ({"colour": 1}, "colour"),
    ],
)
def test_nonsense_in_a_file_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(BadCheckpoint, match=named):
        Preprocessing.from_json(GOOD | change)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, {"size": [1, 1]}])
def test_a_file_without_the_fields_is_refused(value: object) -> None:
    with pytest.raises(BadCheckpoint, match=r"field"):
        Preprocessing.from_json(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(GOOD)), json_values, max_size=3))
def test_a_mutated_file_is_read_or_refused(change: dict[str, object]) -> None:
    try:
        prepare = Preprocessing.from_json(GOOD | change)
    except BadCheckpoint:
        return
    assert prepare.fit(np.zeros((3, 3, 1), dtype=np.uint8)).shape == (prepare.channels, *prepare.size)


def test_nonsense_in_code_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="crop_ratio"):
        Preprocessing((8, 8), "crop", 1, crop_ratio=1.2)
