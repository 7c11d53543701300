"""The colour shift against an eigendecomposition by another road, and its law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA

from convatlas.data.augment import Augment
from convatlas.data.colour import components, shift
from convatlas.errors import UsageError


class Photos:
    """Two real photographs of one size."""

    pixels = load_sample_images().images
    keys, labels, ids = ["temple", "flower"], np.array([0, 1]), np.array([0, 1])

    def __len__(self) -> int:
        return 2

    def image(self, i: int, /) -> np.ndarray:
        return self.pixels[i]


def test_components_are_those_of_a_principal_component_analysis() -> None:
    pixels = np.concatenate([photo.reshape(-1, 3) for photo in Photos.pixels]).astype(np.float64) / 255
    theirs = PCA().fit(pixels)
    ours = np.array(components(Photos()))[::-1]  # theirs has the largest first
    assert np.linalg.norm(ours, axis=1) == pytest.approx(theirs.explained_variance_, rel=1e-4)
    directions = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert np.abs((directions * theirs.components_).sum(axis=1)) == pytest.approx(np.ones(3), rel=1e-6)


def test_each_picture_moves_as_a_whole_by_a_normal_amount() -> None:
    rows = components(Photos())
    count = 4000
    grey = torch.full((count, 3, 2, 2), 128, dtype=torch.uint8)
    moved = shift(grey, rows, 0.5, 1, 2, np.arange(count)).float() - 128
    assert bool((moved == moved[:, :, :1, :1]).all())
    covariance = np.cov(moved[:, :, 0, 0].numpy().T)
    expected = (255 * 0.5) ** 2 * np.array(rows).T @ np.array(rows)
    assert covariance == pytest.approx(expected, rel=0.1, abs=0.2)


def test_it_depends_on_seed_epoch_and_sample_alone() -> None:
    augment = Augment(pca=0.5, components=components(Photos()))
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    ids = np.array([5, 9, 2, 7, 1, 0])
    whole = augment(images, 3, 4, ids)
    assert torch.equal(whole[2:4], augment(images[2:4], 3, 4, ids[2:4]))
    assert not torch.equal(whole, augment(images, 3, 5, ids))


def test_values_stay_in_range_and_components_are_needed() -> None:
    rows = ((900.0, 900.0, 900.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    edge = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(50, 3, 1, 2)
    assert set(shift(edge, rows, 1.0, 0, 0, np.arange(50)).unique().tolist()) == {0, 255}
    with pytest.raises(UsageError, match="components"):
        Augment(pca=0.1)
