"""The picture of a batch: pixels where they belong, labels that can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convatlas.data.batch import Batch
from convatlas.data.picture import CELL_PX, GAP_PX, PAPER, _font, _shortened, label, picture
from convatlas.data.transforms import Preprocessing

CLASSES = ("cat", "dog", "Übergröße", "a\nb", "a very long name of a class that nobody would type " * 3)


def batch(count: int, prepare: Preprocessing, mixed: float | None = None) -> tuple[Batch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (count, prepare.channels, *prepare.size), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(count) % len(CLASSES)
    other = None if mixed is None else labels.roll(-1)
    weight = None if mixed is None else torch.full((count,), mixed)
    return Batch(prepare.normalise(pixels), labels, torch.arange(count), other, weight), pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_is_there_with_its_own_pixels(channels: int) -> None:
    prepare = Preprocessing((16, 16), "pad", channels, (0.3,) * channels, (0.2,) * channels)
    samples, pixels = batch(11, prepare)
    sheet = np.asarray(picture(samples, CLASSES, prepare, columns=4))
    rows = (sheet.shape[0] - GAP_PX) // 3
    for i in range(11):
        y, x = GAP_PX + i // 4 * rows, GAP_PX + i % 4 * (CELL_PX + GAP_PX)
        shown = sheet[y : y + CELL_PX, x : x + CELL_PX]
        np.testing.assert_array_equal(shown[4::8, 4::8], pixels[i].permute(1, 2, 0).expand(-1, -1, 3).numpy())
        below = sheet[y + CELL_PX + 2 : y + rows - GAP_PX, x : x + CELL_PX]
        assert (below.min(axis=2) < 128).sum() > 20  # dark strokes of a label
    last = sheet[-rows:, -CELL_PX:]
    assert (last == PAPER).all()  # the place of a twelfth sample is empty


def test_labels_name_what_is_mixed_and_how_much() -> None:
    prepare = Preprocessing((4, 4), "pad", 1)
    assert label(batch(5, prepare)[0], 0, CLASSES) == ("cat",)
    assert label(batch(5, prepare, 0.7)[0], 0, CLASSES) == ("cat 70 %", "+ dog 30 %")
    assert label(batch(5, prepare, 0.0)[0], 0, CLASSES) == ("dog",)
    assert label(batch(5, prepare, 1.0)[0], 1, CLASSES) == ("dog",)
    alike, _ = batch(2, prepare, 0.5)
    alike.labels[:] = 1
    assert label(alike, 0, CLASSES) == ("dog",)
    assert label(batch(5, prepare)[0], 3, CLASSES) == ("a\N{REPLACEMENT CHARACTER}b",)


def test_a_long_label_fits_and_keeps_its_share() -> None:
    assert _shortened("cat", 60) == "cat"
    short = _shortened("a very long name of a class 30 %", 100)
    assert _font().getlength(short) <= 100
    assert short.startswith("a ver")
    assert short.endswith("… 30 %")


@pytest.mark.parametrize("size", [(224, 224), (32, 64), (300, 40), (1, 1), (8, 8)])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_any_size_and_count(size: tuple[int, int], count: int) -> None:
    prepare = Preprocessing(size, "pad", 3)
    sheet = picture(batch(count, prepare, 0.4 if count else None)[0], CLASSES, prepare)
    assert sheet.mode == "RGB"
    assert sheet.width <= 8 * (CELL_PX + GAP_PX) + GAP_PX
