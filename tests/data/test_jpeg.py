"""JPEG at the scale that is needed, and by two decoders: the same files, the same pixels, the same place."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as theirs

from convatlas.data import Augment, Batches, Preprocessing, open_data
from convatlas.data.containers import inspect
from convatlas.data.decode import decode, decode_scaled
from convatlas.data.reader import FITTED, SHRUNK, Reader, Shrunk, reduction
from convatlas.data.store import kept_side
from convatlas.data.transforms import cut, resample
from convatlas.errors import BadImage
from corpus import encoded, exif, photo, segments

DECODER: Any = sys.modules["convatlas.data.decode"]
KINDS: tuple[dict[str, object], ...] = (
    {},
    {"quality": 97, "subsampling": 0},
    {"subsampling": 1},
    {"progressive": True},
    {"quality": 25, "optimize": True},
    {"restart_marker_blocks": 3},
    {"keep_rgb": True},
)


def outcome(content: bytes, by: int) -> np.ndarray | str:
    try:
        return decode_scaled(content, lambda *_: by).pixels
    except BadImage as error:
        return error.reason


def by_pillow_alone(monkeypatch: pytest.MonkeyPatch, content: bytes, by: int) -> np.ndarray | str:
    with monkeypatch.context() as patch:
        patch.setattr(DECODER, "_simplejpeg", None)
        return outcome(content, by)


# ---- two decoders ------------------------------------------------------------------------------------------


def test_simplejpeg_is_at_work_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparisons below would compare Pillow with itself."""

    class Told:
        def decode_jpeg(self, *_: object, **__: object) -> np.ndarray:
            return np.full((72, 96, 3), 7, np.uint8)

    monkeypatch.setattr(DECODER, "_simplejpeg", Told())
    assert (decode(encoded(photo(0))) == 7).all()


def test_unusual_codings_are_left_to_pillow() -> None:
    """What one build of libjpeg decodes another may not: lossless, arithmetic, two frames."""
    content = encoded(photo(0))
    at = content.index(b"\xff\xc0")
    frame = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
    assert inspect(content).usual
    assert not inspect(content[:at] + frame + content[at:]).usual
    for marker in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB):
        assert not inspect(content[:at] + bytes((0xFF, marker)) + content[at + 2 :]).usual


@pytest.mark.parametrize("by", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_both_decoders_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, object], by: int
) -> None:
    for seed, mode in ((1, "RGB"), (2, "L"), (3, "CMYK")):
        content = encoded(photo(seed, 97 + 10 * by, 75 + 8 * seed).convert(mode), **kind)
        for channels in (1, 3):
            ours = decode_scaled(content, lambda *_: by, channels=channels).pixels
            monkeypatch.setattr(DECODER, "_simplejpeg", None)
            assert np.array_equal(ours, decode_scaled(content, lambda *_: by, channels=channels).pixels)
            monkeypatch.undo()


def test_both_decoders_accept_and_refuse_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred damaged files: flipped bits, cut ends, bytes put in, headers overwritten."""
    chance = random.Random(5)
    seeds = [encoded(photo(i), **kind) for i, kind in enumerate(KINDS)]
    accepted = 0
    for _ in range(300):
        content = bytearray(chance.choice(seeds))
        match chance.randrange(4):
            case 0:
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            case 1:
                del content[chance.randrange(2, len(content)) :]
            case 2:
                at = chance.randrange(len(content))
                content[at:at] = chance.randbytes(chance.randrange(1, 30))
            case _:
                content[chance.randrange(min(600, len(content)))] = chance.randrange(256)
        by = chance.choice((1, 1, 2, 8))
        ours, alone = outcome(bytes(content), by), by_pillow_alone(monkeypatch, bytes(content), by)
        assert type(ours) is type(alone)
        assert np.array_equal(ours, alone)
        accepted += not isinstance(ours, str)
    assert 50 < accepted < 250


# ---- scaled decoding ---------------------------------------------------------------------------------------


def averaged(pixels: np.ndarray, by: int, left: int, top: int) -> np.ndarray:
    """The slow way: means of squares of `by` pixels, of which the first begins `left`, `top` outside."""
    height, width = pixels.shape[:2]
    edges = ((top, -(height + top) % by), (left, -(width + left) % by), (0, 0))
    padded = np.pad(pixels.astype(np.float64), edges, mode="edge")
    rows, columns = padded.shape[0] // by, padded.shape[1] // by
    return padded.reshape(rows, by, columns, by, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_scaled_pixel_is_the_mean_of_its_square_however_the_picture_is_turned(
    orientation: int, by: int
) -> None:
    content = segments(encoded(photo(4, 203, 157), quality=95, subsampling=0), exif(orientation))
    whole, scaled = decode(content), decode_scaled(content, lambda *_: by)
    assert scaled.by == by
    expected = averaged(whole, by, scaled.left, scaled.top)
    assert scaled.pixels.shape == expected.shape
    rows = slice(
        1 if scaled.top else 0, None if scaled.top else -1
    )  # the square that reaches beyond is not compared
    columns = slice(1 if scaled.left else 0, None if scaled.left else -1)
    apart = np.abs(scaled.pixels - expected)[rows, columns]
    assert apart.mean() < 1.5
    assert apart.max() < 12
    width, height = whole.shape[1], whole.shape[0]
    x0, y0, x1, y1 = scaled.within((0, 0, width, height))
    assert (x0, y0) == (scaled.left / by, scaled.top / by)
    assert x1 <= scaled.pixels.shape[1]
    assert y1 <= scaled.pixels.shape[0]
    assert x1 - x0 == pytest.approx(width / by)


def test_the_size_is_told_as_the_picture_stands() -> None:
    told: list[tuple[int, int]] = []

    def shrink(width: int, height: int) -> int:
        told.append((width, height))
        return 1

    for orientation, size in ((1, (96, 72)), (6, (72, 96))):
        decode_scaled(segments(encoded(photo(0)), exif(orientation)), shrink)
        assert told.pop() == size


@pytest.mark.parametrize(
    "content",
    [encoded(photo(0), "PNG"), encoded(photo(0), "WEBP", lossless=True), encoded(photo(0).convert("CMYK"))],
    ids=["PNG", "WEBP", "CMYK"],
)
def test_other_files_keep_their_size(content: bytes) -> None:
    scaled = decode_scaled(content, lambda *_: 4)
    assert scaled.by == 1
    assert np.array_equal(scaled.pixels, decode(content))


@pytest.mark.parametrize("by", [1, 2, 8])
@pytest.mark.parametrize("percent", [30, 70, 98])
def test_a_file_that_ends_too_early_is_refused_at_every_scale(by: int, percent: int) -> None:
    content = encoded(photo(1, 400, 300), quality=90)
    with pytest.raises(BadImage, match="truncated"):
        decode_scaled(content[: len(content) * percent // 100], lambda *_: by)


@pytest.mark.parametrize("by", [1, 8])
def test_the_cap_counts_the_files_own_pixels(by: int) -> None:
    with pytest.raises(BadImage, match="too many pixels"):
        decode_scaled(encoded(photo(0)), lambda *_: by, max_pixels=96 * 72 - 1)


def test_reduction_never_makes_a_part_smaller_than_what_is_wanted() -> None:
    for side in range(1, 3000, 37):
        by = reduction((10, 10, 10 + side, 10 + 2 * side), (224, 224))
        assert by == 1 or side / by >= 224
        assert by == 8 or side / (2 * by) < 224


# ---- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_is_torchvisions_and_nearly_pillows(interpolation: Any, channels: int) -> None:
    rng = np.random.default_rng(0)
    for seed in range(6):
        image = np.asarray(photo(seed, 300, 250))[..., :channels]
        x0, y0 = (int(v) for v in rng.integers(0, 60, 2))
        x1, y1 = x0 + int(rng.integers(70, 240)), y0 + int(rng.integers(70, 190))
        ours = cut(image, (x0, y0, x1, y1), (96, 80), interpolation)
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        same = theirs.resized_crop(
            tensor,
            y0,
            x0,
            y1 - y0,
            x1 - x0,
            [96, 80],
            theirs.InterpolationMode(interpolation),
            antialias=True,
        )
        assert np.abs(ours.astype(int) - same.permute(1, 2, 0).numpy()).max() <= 1  # another layout's kernel
        exact = resample(image, (x0, y0, x1, y1), (96, 80), interpolation)
        apart = np.abs(ours.astype(int) - exact)
        assert apart[6:-6, 6:-6].max() <= 1
        assert apart.mean() < 0.5


def test_a_part_stays_inside_and_is_never_empty() -> None:
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    assert np.array_equal(cut(image, (0, 0, 4, 5), (5, 4)), image)
    for box in ((3.6, 4.7, 9.0, 9.0), (-3.0, -2.0, 0.2, 0.3), (2.0, 2.0, 2.1, 2.1)):
        assert cut(image, box, (7, 6)).shape == (7, 6, 3)


# ---- batches of files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve photographs, large, small, turned, and one that is no JPEG."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(24):
        width, height = ((700, 520), (300, 420), (190, 170))[i % 3]
        content = encoded(photo(i, width, height), quality=92)
        if i % 5 == 0:
            content = segments(content, exif(1 + i % 8))
        name = f"{i:02d}.jpg"
        if i == 7:
            content, name = encoded(photo(i, width, height), "PNG"), "07.png"
        path = root / "ab"[i % 2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return root


PREPARE = Preprocessing((96, 80), "crop", 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))


def test_what_evaluation_sees_is_the_plain_decoders_picture(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(photos, val_share=0, test_share=0)
    monkeypatch.setattr(DECODER, "_simplejpeg", None)
    expected = torch.stack([PREPARE.fit(data.train.image(i)) for i in range(len(data.train))])
    for i in range(len(data.train)):  # and that is Pillow's own, turned as the file says
        path = photos / data.train.keys[i]
        from PIL import ImageOps

        plain = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB"))
        assert np.array_equal(data.train.image(i), plain)
    monkeypatch.undo()
    for workers in (0, 2):
        batches = Batches(
            data.train,
            PREPARE,
            batch_size=5,
            shuffle=False,
            drop_last=False,
            workers=workers,
            channels_last=workers > 0,
        )
        seen = torch.cat([batch.images for batch in batches.epoch(0)])
        batches.close()
        assert torch.equal(seen, PREPARE.normalise(expected))


@pytest.mark.parametrize("crop", ["resized", "scale-jitter"])
def test_training_parts_are_those_of_the_slow_way(photos: Path, crop: Any) -> None:
    """Decoded at full size and cut by Pillow: the same place, and nearly the same pixels."""
    data = open_data(photos, val_share=0, test_share=0)
    augment = Augment(crop=crop)
    batches = Batches(
        data.train, PREPARE, batch_size=24, augment=augment, shuffle=False, drop_last=False, workers=2
    )
    means: list[float] = []
    for epoch in range(3):
        (batch,) = list(batches.epoch(epoch))
        for row in range(len(batch)):
            image = data.train.image(row)
            sizes = np.array([[image.shape[1], image.shape[0]]])
            box = augment.boxes(sizes, PREPARE.size, 0, epoch, data.train.ids[row : row + 1])[0]
            x0, y0, x1, y1 = box.tolist()
            slow = resample(image, (x0, y0, x1, y1), PREPARE.size).astype(int)
            fast = PREPARE.restore(batch.images[row : row + 1])[0].permute(1, 2, 0).numpy()
            means.append(float(np.abs(fast - slow).mean()))
    batches.close()
    assert max(means) < 3.0  # rounding a box to whole pixels is a shift by half of one at most
    assert float(np.median(means)) < 1.5


def test_a_cached_picture_is_shrunk_only_where_it_is_large(photos: Path) -> None:
    data = open_data(photos, val_share=0, test_share=0)
    augment = Augment(crop="resized")
    kept = Shrunk(data.train, kept_side(PREPARE.size, augment))
    assert 96 < kept.side < 192
    reader = Reader(data.train, PREPARE, augment, 0, kept)
    for position in range(len(data.train)):
        whole = data.train.image(position)
        out = np.zeros((1, 1, int(kept.bytes.max())), np.uint8)
        reader.fill((SHRUNK, np.arange(len(data.train))), position, out)
        width, height = kept.sizes[position]
        pixels = out.reshape(-1)[: kept.bytes[position]].reshape(height, width, 3)
        if min(whole.shape[:2]) <= kept.side:
            assert np.array_equal(pixels, whole)
        else:
            assert min(width, height) == kept.side
            slow = resample(whole, (0, 0, whole.shape[1], whole.shape[0]), (height, width)).astype(int)
            assert np.abs(pixels - slow).mean() < 1.5
    assert FITTED != SHRUNK
