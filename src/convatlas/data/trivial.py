"""TrivialAugment, wide: one random operation at one random strength for each image.

Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (2021): an operation
is drawn uniformly from a list and a strength uniformly from its range; nothing is tuned. The operations
are Pillow's, as AutoAugment and RandAugment use them; the ranges are the table of the paper's wide space
(appendix, table 7), each cut into 31 steps as in the authors' code.

    identity                      shear x, y      +-0.99        brightness  1 +- 0.99
    autocontrast                  translate x, y  +-32 px       colour      1 +- 0.99
    equalize                      rotate          +-135 deg     contrast    1 +- 0.99
    posterize  8..2 bits          solarize        255..0        sharpness   1 +- 0.99

A batch is sorted by operation, and each group is computed at once. What changes a pixel by its value alone
(all but the geometry, colour and sharpness) is a table of 256 entries per image and channel.
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

Operation = Callable[[torch.Tensor, NDArray[np.float64]], torch.Tensor]  # images and strengths -1..1


def augment(images: torch.Tensor, seed: int, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
    """One operation for each image: uint8 (N, 1 or 3, H, W) -> uint8, a new tensor."""
    u = uniform(seed, epoch, ids, "trivial", 3)
    names = tuple(OPERATIONS)
    chosen = np.minimum((u[:, 0] * len(names)).astype(np.int64), len(names) - 1)
    strength = np.floor(u[:, 1] * STEPS) / (STEPS - 1) * np.where(u[:, 2] < 0.5, -1.0, 1.0)
    result = images.clone()
    for number, name in enumerate(names):
        rows = np.flatnonzero(chosen == number)
        if len(rows) and name != "identity":
            which = torch.from_numpy(rows).to(images.device)
            result.index_copy_(0, which, OPERATIONS[name](images.index_select(0, which), strength[rows]))
    return result


# ---- geometry: the nearest pixel, black outside -------------------------------------------------------------


def _ones(strength: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.ones_like(strength), np.zeros_like(strength)


def _moved(images: torch.Tensor, *rows: NDArray[np.float64]) -> torch.Tensor:
    return warp.nearest(images, torch.from_numpy(np.stack(rows, axis=1)).to(images.device))


def _shear_x(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Rows slide along; the top edge stays (it is the corner, not the centre, that AutoAugment holds)."""
    one, zero = _ones(strength)
    slope = WIDEST * strength
    return _moved(images, one, slope, slope / 2, zero, one, zero)


def _shear_y(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Columns slide up or down; the left edge stays."""
    one, zero = _ones(strength)
    slope = WIDEST * strength
    return _moved(images, one, zero, zero, slope, one, slope / 2)


def _translate_x(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    one, zero = _ones(strength)
    by = np.trunc(strength * min(TRANSLATE_PX, images.shape[3]))
    return _moved(images, one, zero, -by, zero, one, zero)


def _translate_y(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    one, zero = _ones(strength)
    by = np.trunc(strength * min(TRANSLATE_PX, images.shape[2]))
    return _moved(images, one, zero, zero, zero, one, -by)


def _rotate(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Counterclockwise about the centre."""
    angle = np.deg2rad(strength * ROTATE_DEGREES)
    cos, sin = np.cos(angle), np.sin(angle)
    return warp.nearest(images, warp.about_centre(np.stack([cos, -sin, sin, cos], axis=1), images))


# ---- enhancement: x + (factor - 1) (x - dull), with a dull version of the picture for each ------------------


def _blend(images: torch.Tensor, dull: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
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


def _brightness(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    return _blend(images, torch.zeros((), device=images.device), strength)


def _colour(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Towards grey or away from it; a grey picture stays as it is."""
    return images if images.shape[1] == 1 else _blend(images, _luma(images), strength)


def _contrast(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    # whole numbers: their sum is exact in whatever order it is taken
    total = _luma(images).to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    mean = total.to(torch.float64) / (images.shape[2] * images.shape[3])
    return _blend(images, mean.float(), strength)


def _sharpness(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
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


def _posterize(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Keep the upper 8 to 2 bits."""
    bits = 8 - np.rint(np.abs(strength) * 6).astype(np.int64)
    mask = torch.from_numpy(256 - 2 ** (8 - bits)).to(images.device, torch.uint8)
    return images & mask[:, None, None, None]


def _solarize(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Invert what is at least as bright as a threshold."""
    threshold = torch.from_numpy(255 * (1 - np.abs(strength))).to(images.device, torch.float32)
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def _autocontrast(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    """Stretch each channel from its darkest and brightest pixel to 0..255."""
    low, high = images.flatten(2).aminmax(dim=2, keepdim=True)
    low, high = low.float(), high.float()
    flat = low == high
    values = torch.arange(256, device=images.device, dtype=torch.float32)
    stretched = (values - torch.where(flat, 0, low)) / torch.where(flat, 1, (high - low) / 255)
    return _look_up(images, stretched.clamp_(0, 255).to(torch.uint8))


def _equalize(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
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


def _identity(images: torch.Tensor, strength: NDArray[np.float64]) -> torch.Tensor:
    return images


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
}
