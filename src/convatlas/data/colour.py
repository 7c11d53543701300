"""Colour shift along the principal components of the training pixels (Krizhevsky et al. 2012, section 4.1).

To every pixel of a picture the same amount is added: the components of the training set's colours, each times
its eigenvalue times a number from N(0, std) that is drawn once a picture and epoch. Natural light varies along
these components, and the identity of an object does not. The paper gives std = 0.1 and no unit for pixels;
here they lie in [0, 1], with which the shifts are a few grey levels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data.transforms import Images
from convatlas.randomness import generator, uniform

Components = tuple[tuple[float, ...], ...]  # (C, C): row k is eigenvector k times its eigenvalue


def components(split: Images, limit: int = 2000, seed: int = 0) -> Components:
    """Eigenvectors times eigenvalues of the covariance of colours, pixels in [0, 1], over at most `limit` pictures.

    Every picture counts alike, whatever its size. Give the train split only.
    """
    count = len(split)
    chosen = np.arange(count)
    if count > limit:
        chosen = np.sort(generator(seed, "components").choice(count, limit, replace=False))
    mean = second = 0.0
    for i in chosen:
        image = split.image(int(i))
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64) / 255
        mean = mean + pixels.mean(axis=0) / len(chosen)
        second = second + pixels.T @ pixels / len(pixels) / len(chosen)
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    # a sign is arbitrary, and the draw is symmetric: fix it, so that two machines agree
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
    return tuple(tuple(round(float(x), 8) for x in row) for row in (vectors * np.maximum(values, 0)).T)


def shift(
    images: torch.Tensor,
    components: Components,
    std: float,
    seed: int,
    epoch: int,
    ids: NDArray[np.int64],
) -> torch.Tensor:
    """Add each picture's own shift: uint8 (N, C, H, W) -> uint8, a new tensor."""
    count = len(components)
    u = uniform(seed, epoch, ids, "pca", 2 * count)
    normal = np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:])  # Box & Muller
    by = torch.from_numpy(255 * std * normal @ np.array(components)).round().clamp(-255, 255).to(torch.int16)
    moved = images.to(torch.int16) + by.to(images.device)[:, :, None, None]
    return moved.clamp_(0, 255).to(torch.uint8)
