"""TrivialAugment, wide: one random operation at one random strength for each image.

Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (2021): an operation
is drawn uniformly from a list and a strength uniformly from its range; nothing is tuned. The operations
are Pillow's, as AutoAugment and RandAugment use them; the ranges are the paper's wide ones, in the 31 steps of
the authors' code.

    identity                      shear x, y      +-0.99        brightness  1 +- 0.99
    autocontrast                  translate x, y  +-32 px       colour      1 +- 0.99
    equalize                      rotate          +-135 deg     contrast    1 +- 0.99
    posterize  8..2 bits          solarize        255..0        sharpness   1 +- 0.99

A batch is grouped by operation, and each group is computed at once, all of the geometry by one map. What
changes a pixel by its value and its picture's histogram alone is a table of 256 entries per channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data import warp
from convatlas.randomness import uniform

STEPS = 31  # strengths 0..30 of each operation
TRANSLATE_PX = 32.0
ROTATE_DEGREES = 135.0
WIDEST = 0.99  # of shear and of the four enhancements
GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, in the digits that torchvision uses

Strength = NDArray[np.float64]  # (n,), from -1 to 1
Maps = NDArray[np.float64]  # (n, 6), as in `warp`


def draw(seed: int, epoch: int, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], Strength]:
    """Which operation (an index into `NAMES`) and how strongly (-1..1, in steps of 1/30), for each sample."""
    u = uniform(seed, epoch, ids, "trivial", 3)
    chosen = np.minimum((u[:, 0] * len(NAMES)).astype(np.int64), len(NAMES) - 1)
    return chosen, np.floor(u[:, 1] * STEPS) / (STEPS - 1) * np.where(u[:, 2] < 0.5, -1.0, 1.0)


def augment(images: torch.Tensor, seed: int, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
    """One operation for each image: uint8 (N, 1 or 3, H, W) -> uint8, a new tensor."""
    chosen, strength = draw(seed, epoch, ids)
    result = images.clone()
    moved = [(np.flatnonzero(chosen == NAMES.index(name)), maps) for name, maps in GEOMETRY.items()]
    rows = np.concatenate([rows for rows, _ in moved])
    if len(rows):
        maps = np.concatenate([maps(strength[rows], *images.shape[2:]) for rows, maps in moved])
        which = torch.from_numpy(rows).to(images.device)
        result.index_copy_(0, which, _moved(images.index_select(0, which), maps))
    for name, operation in ENHANCEMENTS.items():
        rows = np.flatnonzero(chosen == NAMES.index(name))
        if len(rows):
            which = torch.from_numpy(rows).to(images.device)
            result.index_copy_(0, which, operation(images.index_select(0, which), strength[rows]))
    return result


def apply(name: str, images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """One operation, by its name, for a whole batch: uint8 (N, C, H, W), strengths (N,) from -1 to 1."""
    if name in GEOMETRY:
        return _moved(images, GEOMETRY[name](strength, *images.shape[2:]))
    return images if name == "identity" else ENHANCEMENTS[name](images, strength)


# ---- geometry: the nearest pixel, black outside -------------------------------------------------------------


def _moved(images: torch.Tensor, maps: Maps) -> torch.Tensor:
    return warp.nearest(images, torch.from_numpy(maps).to(images.device))


def _shear_x(strength: Strength, height: int, width: int) -> Maps:
    """Rows slide along; the top edge stays (AutoAugment's shear holds the corner, not the centre)."""
    one, zero, slope = np.ones_like(strength), np.zeros_like(strength), WIDEST * strength
    return np.stack([one, slope, slope / 2, zero, one, zero], axis=1)


def _shear_y(strength: Strength, height: int, width: int) -> Maps:
    """Columns slide up or down; the left edge stays."""
    one, zero, slope = np.ones_like(strength), np.zeros_like(strength), WIDEST * strength
    return np.stack([one, zero, zero, slope, one, slope / 2], axis=1)


def _translate_x(strength: Strength, height: int, width: int) -> Maps:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return np.stack([one, zero, -np.trunc(strength * min(TRANSLATE_PX, width)), zero, one, zero], axis=1)


def _translate_y(strength: Strength, height: int, width: int) -> Maps:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return np.stack([one, zero, zero, zero, one, -np.trunc(strength * min(TRANSLATE_PX, height))], axis=1)


def _rotate(strength: Strength, height: int, width: int) -> Maps:
    """Counterclockwise about the centre."""
    angle = np.deg2rad(strength * ROTATE_DEGREES)
    cos, sin = np.cos(angle), np.sin(angle)
    return warp.about_centre(np.stack([cos, -sin, sin, cos], axis=1), height, width)


# ---- enhancement: x + (factor - 1) (x - dull), with a dull version of the picture for each ------------------


def _blend(images: torch.Tensor, dull: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Factor x + (1 - factor) dull, cut off to whole grey levels, as Pillow does."""
    factor = torch.from_numpy(1 + WIDEST * strength).to(images.device, torch.float32)[:, None, None, None]
    # products and sum apart: fused, the last bit would depend on where in the vector a pixel happens to lie
    mixed = images.float().mul_(factor).add_(dull * (1 - factor))
    return mixed.clamp_(0, 255).to(torch.uint8)


def _luma(images: torch.Tensor) -> torch.Tensor:
    """Whole grey levels, float32 (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = (images[:, i : i + 1].float() for i in range(3))
    return (red * GREY[0]).add_(green * GREY[1]).add_(blue * GREY[2]).floor_()


def _brightness(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    return _blend(images, torch.zeros((), device=images.device), strength)


def _colour(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Towards grey or away from it; a grey picture stays as it is."""
    return images if images.shape[1] == 1 else _blend(images, _luma(images), strength)


def _contrast(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    # whole numbers: their sum is exact in whatever order it is taken
    total = _luma(images).to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    mean = total.to(torch.float64) / (images.shape[2] * images.shape[3])
    return _blend(images, mean.float(), strength)


def _sharpness(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Away from a 3x3 mean whose centre counts five times; the border pixels stay."""
    height, width = images.shape[2:]
    if height < 3 or width < 3:
        return images
    x = images.float()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    mean = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(x[:, :, 1:-1, 1:-1], alpha=4)
    dull = x
    dull[:, :, 1:-1, 1:-1] = mean.div_(13).round_()
    return _blend(images, dull, strength)


# ---- tables: a new value for each of the 256 old ones -------------------------------------------------------


def _look_up(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Pixel values through tables, uint8 (N, C or 1, 256)."""
    tables = tables.expand(images.shape[0], images.shape[1], 256)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _posterize(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Keep the upper 8 to 2 bits."""
    bits = 8 - np.rint(np.abs(strength) * 6).astype(np.int64)
    mask = torch.from_numpy(256 - 2 ** (8 - bits)).to(images.device, torch.uint8)
    return images & mask[:, None, None, None]


def _solarize(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Invert what is at least as bright as a threshold."""
    threshold = np.ceil(255 * (1 - np.abs(strength)) - 1e-6)  # less a hair: 68.00000000000001 is 68
    values = np.arange(256)
    tables = np.where(values >= threshold[:, None], 255 - values, values).astype(np.uint8)
    return _look_up(images, torch.from_numpy(tables).to(images.device)[:, None])


def _autocontrast(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Stretch each channel from its darkest and brightest pixel to 0..255."""
    low, high = images.flatten(2).aminmax(dim=2, keepdim=True)
    low, high = low.float(), high.float()
    flat = low == high
    values = torch.arange(256, device=images.device, dtype=torch.float32)
    stretched = (values - torch.where(flat, 0, low)) / torch.where(flat, 1, (high - low) / 255)
    return _look_up(images, stretched.clamp_(0, 255).to(torch.uint8))


def _equalize(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Spread each channel's grey levels evenly, by Pillow's rule in whole numbers."""
    count, channels, height, width = images.shape
    planes = images.flatten(0, 1).flatten(1).long()  # (N C, H W)
    offset = torch.arange(len(planes), device=images.device)[:, None] * 256
    histogram = torch.bincount((planes + offset).flatten(), minlength=256 * len(planes)).view(-1, 256)
    brightest = histogram.gather(1, planes.amax(dim=1, keepdim=True))
    step = (height * width - brightest).div(255, rounding_mode="floor")
    below = histogram.cumsum(dim=1) - histogram
    table = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    same = torch.arange(256, device=images.device).expand_as(table)
    table = torch.where(step > 0, table, same).to(torch.uint8)
    return _look_up(images, table.view(count, channels, 256))


GEOMETRY: dict[str, Callable[[Strength, int, int], Maps]] = {
    "rotate": _rotate,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
}
ENHANCEMENTS: dict[str, Callable[[torch.Tensor, Strength], torch.Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
NAMES = ("identity", *GEOMETRY, *ENHANCEMENTS)  # the place of a name is part of what a seed means
