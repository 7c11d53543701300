"""Near-duplicates: against all pairs measured one by one, and on real pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from convatlas.data.decode import decode
from convatlas.data.similar import RADIUS, components, equal, near_duplicates
from convatlas.data.sources import open_source
from convatlas.data.sources.source import Item, Listing, Source
from convatlas.data.survey import survey
from corpus import encoded, photo

RNG = np.random.default_rng(0)


def all_pairs(thumbs, radius):
    """Every pair within the radius, measured by the definition, without flat pictures."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    shows = flat.std(axis=1) >= 2
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    return {(i, j) for i, j in np.argwhere(apart <= radius).tolist() if i < j and shows[i] and shows[j]}


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pair_is_missed_and_none_invented(channels):
    base = RNG.normal(128, 50, (40, 16, 16, channels))
    near = [base + RNG.normal(0, noise, base.shape) for noise in (0.5, 1.5, 2.5, 3.5, 6)]
    thumbs = np.concatenate([base, *near]).clip(0, 255).astype(np.uint8)
    thumbs = np.broadcast_to(thumbs, (*thumbs.shape[:3], 3)).copy()
    sizes = np.full((len(thumbs), 2), 300, np.int32)
    expected = all_pairs(thumbs, RADIUS)
    assert 40 < len(expected) < 400
    assert {tuple(pair) for pair in near_duplicates(thumbs, sizes).tolist()} == expected


def test_brightness_and_contrast_do_not_count_but_flat_pictures_do_not_match():
    base = RNG.integers(60, 120, (1, 16, 16, 1)).repeat(3, axis=3)
    flat = np.full((1, 16, 16, 3), 77)
    thumbs = np.concatenate([base, base * 2, flat, flat, flat + 5]).astype(np.uint8)
    sizes = np.full((5, 2), 300, np.int32)
    assert near_duplicates(thumbs, sizes).tolist() == [[0, 1]]


def test_few_pictures():
    for count in (0, 1):
        assert near_duplicates(
            np.zeros((count, 16, 16, 3), np.uint8), np.zeros((count, 2), np.int32)
        ).shape == (0, 2)


def test_many_equal_pictures_make_one_family_in_little_memory():
    thumbs = RNG.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8).repeat(30_000, axis=0)
    links = near_duplicates(thumbs, np.full((30_000, 2), 300, np.int32))
    assert len(links) == 29_999
    assert len(set(components(30_000, links).tolist())) == 1


def test_a_large_family_of_unequal_pictures_is_joined(monkeypatch):
    monkeypatch.setattr("convatlas.data.similar._DENSE", 1000)
    base = RNG.normal(128, 50, (1, 16, 16, 1)) + RNG.normal(0, 0.5, (3000, 16, 16, 1))
    thumbs = np.repeat(base.clip(0, 255).astype(np.uint8), 3, axis=3)
    links = near_duplicates(thumbs, np.full((3000, 2), 300, np.int32))
    assert len(links) < 100_000
    assert len(set(components(3000, links).tolist())) == 1


def test_components_are_what_a_search_finds():
    links = RNG.integers(0, 60, (30, 2))
    found = components(60, links)
    reach = np.eye(60, dtype=bool)
    reach[links[:, 0], links[:, 1]] = reach[links[:, 1], links[:, 0]] = True
    for _ in range(6):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert np.array_equal(found[:, None] == found[None], reach)
    assert equal(["a", "", "b", "a", "", "a"]).tolist() == [[0, 3], [0, 5]]


class Memory(Source):
    """Files in memory."""

    kind = "memory"

    def __init__(self, files):
        super().__init__("memory")
        self.files = files

    def listing(self):
        return Listing([Item(key, "a", key) for key in sorted(self.files)])

    def content(self, place):
        return self.files[place]


def variants(image):
    width, height = image.size
    half, third = (image.resize((width // n, height // n), Image.Resampling.BICUBIC) for n in (2, 3))
    return {
        "a-original.png": encoded(image, "PNG"),
        **{f"q{quality}.jpg": encoded(image, quality=quality) for quality in (50, 60, 75, 90, 95)},
        "half.png": encoded(half, "PNG"),
        "third.jpg": encoded(third, quality=80),
        "half-q50.jpg": encoded(half, quality=50),
        "larger.webp": encoded(image.resize((width * 3 // 2, height * 3 // 2)), "WEBP", quality=80),
        "squashed.jpg": encoded(image.resize((200, 200)), quality=80),
    }


def families(files):
    seen = survey(Memory(files), workers=0)
    unit = components(len(seen.items), near_duplicates(seen.thumbs, seen.sizes))
    found = {}
    for item, number in zip(seen.items, unit.tolist(), strict=True):
        found.setdefault(number, set()).add(item.key.partition("/")[0])
    return list(found.values())


def test_copies_of_made_pictures_are_found():
    files = {f"{i}/{name}": c for i in range(12) for name, c in variants(photo(i, 320, 240)).items()}
    assert sorted(families(files), key=str) == [{str(i)} for i in sorted(range(12), key=str)]


@pytest.mark.data
def test_copies_of_photographs_are_found(real_data):
    import zipfile

    files = {}
    for name in ("bccd.zip", "camvid-half.zip"):
        with zipfile.ZipFile(real_data(name)) as archive:
            members = [m for m in archive.namelist() if m.endswith(".jpg")]
            for i, member in enumerate(members[:: len(members) // 15]):
                image = Image.fromarray(decode(archive.read(member)))
                files |= {f"{name}-{i}/{kind}": content for kind, content in variants(image).items()}
    found = families(files)
    assert all(len(family) == 1 for family in found)
    assert len(found) == len({key.partition("/")[0] for key in files})


@pytest.mark.data
@pytest.mark.parametrize(("name", "most"), [("mnist", 2), ("cifar10.zip", 40)])
def test_different_small_pictures_stay_apart(real_data, name, most):
    seen = survey(open_source(real_data(name)))
    pairs = near_duplicates(seen.thumbs, seen.sizes)
    assert len(seen.items) in (60_000, 70_000)
    assert len(pairs) <= most


@pytest.mark.data
def test_copies_of_small_colour_pictures(real_data):
    """32 px leave little: nearly all are found at JPEG 95, three in four at 75 and better."""
    source = open_source(real_data("cifar10.zip"))
    items = source.listing().items[::400]
    for quality, least in ((95, 0.97), (75, 0.75)):
        files = {}
        for i, item in enumerate(items):
            image = Image.fromarray(source.pixels(item.place, 3))
            files |= {f"{i}/a.png": encoded(image, "PNG"), f"{i}/b.jpg": encoded(image, quality=quality)}
        found = families(files)
        assert 2 * len(items) - len(found) >= least * len(items)
        assert all(len(family) == 1 for family in found)


def test_thumbnails_of_arrays_and_of_files_agree():
    from convatlas.data.survey import _resampling

    grey = np.asarray(photo(1, 28, 28).convert("L"))
    shrunk = _resampling(28) @ grey.astype(np.float32) @ _resampling(28).T
    expected = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(grey), "PNG"))).resize((16, 16), 2))
    assert np.abs(shrunk - expected).max() <= 1.5
