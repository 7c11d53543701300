"""Moving the pixels of a batch: mirror, shift, and affine maps with a map of its own for each image.

Coordinates are pixels: the centre of the top left pixel is (0, 0), x grows to the right, y down. A
map is (a, b, c, d, e, f) as Pillow's `Image.transform` has it: the output pixel (x, y) is
read at (a x + b y + c, d x + e y + f) of the input.

Coordinates are made of separate products and sums, each rounded once, and never by a matrix product:
a product of matrices may round otherwise in a batch of another size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Edge = Literal["zero", "reflect"]
Shrink = Literal["window", "resample"]


def flip(images: torch.Tensor, chosen: NDArray[np.bool_]) -> torch.Tensor:
    """Mirror left and right the images where `chosen` (N,) is true: uint8 (N, C, H, W), a new tensor."""
    result = images.clone()
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        for i in chosen.nonzero()[
            0
        ].tolist():  # a kernel of its own for bytes of this layout, but not for a list of them
            result[i : i + 1] = images[i : i + 1].flip(3)
        return result
    if images.is_cpu:  # NumPy mirrors bytes three times as fast as torch does
        result.numpy()[chosen] = images.numpy()[chosen][..., ::-1]
        return result
    which = torch.from_numpy(chosen.nonzero()[0]).to(images.device)
    return result.index_copy_(0, which, images.index_select(0, which).flip(3))


def smaller(images: torch.Tensor, side: int, how: Shrink) -> torch.Tensor:
    """The middle of each image, or all of it with fewer pixels: uint8 (N, C, H, W) -> (N, C, h, w), at most `side`.

    An image that is not larger stays. "resample" is bilinear and antialiased.
    """
    height, width = images.shape[2:]
    h, w = min(height, side), min(width, side)
    if (h, w) == (height, width):
        return images
    if how == "window":
        top, left = (height - h) // 2, (width - w) // 2
        return images[:, :, top : top + h, left : left + w].contiguous()
    return functional.interpolate(images, size=(h, w), mode="bilinear", antialias=True)


def shift(images: torch.Tensor, by: NDArray[np.int64], edge: Edge) -> torch.Tensor:
    """Move each image by whole pixels, `by` (N, 2): right and down; uint8 (N, C, H, W), a new tensor.

    The same as padding all sides and cutting a window of the old size at random (He et al. 2015,
    section 4.2: four pixels of zeros). `reflect` mirrors about the border pixel.
    """
    if len(images) == 0:
        return images.clone()
    height, width = images.shape[2:]
    if edge == "reflect":
        dx, dy = torch.from_numpy(by).to(images.device).unbind(1)
        rows = _reflected(torch.arange(height, device=images.device) - dy[:, None], height)
        columns = _reflected(torch.arange(width, device=images.device) - dx[:, None], width)
        return _gather(images, (rows[:, :, None] * width + columns[:, None, :]).flatten(1))
    left, up = (int(most) for most in np.abs(by).max(axis=0))
    padded = functional.pad(images, (left, left, up, up))
    each, x, y = np.arange(len(images)), left - by[:, 0], up - by[:, 1]
    # all windows of the old size, as a view: (N, C, positions y, positions x, H, W)
    if images.is_cpu:  # and it copies windows twice as fast
        windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
        return torch.from_numpy(windows[each, :, y, x])
    places = [torch.from_numpy(place).to(images.device) for place in (each, y, x)]
    return padded.unfold(2, height, 1).unfold(3, width, 1)[places[0], :, places[1], places[2]]


def _reflected(coordinate: torch.Tensor, size: int) -> torch.Tensor:
    """Any whole coordinate, mirrored at the first and last pixel until it lies inside."""
    period = max(2 * (size - 1), 1)
    folded = coordinate.remainder(period)
    return torch.where(folded < size, folded, period - folded)


def _gather(images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pixels by number, (N, H W) into (N, C, H, W); the same for every channel."""
    channels = images.shape[1]
    taken = images.flatten(2).gather(2, index[:, None, :].expand(-1, channels, -1))
    return taken.view(*images.shape[:2], *images.shape[2:])


def _source(maps: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each output pixel is read: x and y, float32 (N, H, W), from maps (N, 6)."""
    y = torch.arange(size[0], dtype=torch.float32, device=maps.device)[:, None]
    x = torch.arange(size[1], dtype=torch.float32, device=maps.device)[None, :]
    a, b, c, d, e, f = (maps.float()[:, i, None, None] for i in range(6))
    return a * x + (b * y + c), d * x + (e * y + f)


def nearest(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Affine maps (N, 6) with the nearest pixel and zeros outside: uint8 (N, C, H, W)."""
    height, width = images.shape[2:]
    x, y = (axis.round_() for axis in _source(maps, (height, width)))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows, columns = y.clamp_(0, height - 1).to(torch.int32), x.clamp_(0, width - 1).to(torch.int32)
    index = rows.mul_(width).add_(columns).flatten(1).long()
    return _gather(images, index).mul_(inside[:, None])


def bilinear(
    images: torch.Tensor, maps: torch.Tensor, edge: Edge = "zero", size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Affine maps (N, 6), bilinear: uint8 (N, C, H, W) -> uint8 (N, C, *size)."""
    height, width = images.shape[2:]
    x, y = _source(maps, size or (height, width))
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    padding = "zeros" if edge == "zero" else "reflection"
    moved = functional.grid_sample(images.float(), grid, "bilinear", padding, align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def cut(images: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The part `boxes` (N, 4) xyxy of each image, resized: uint8 (N, C, H, W) -> (N, C, *size).

    Bilinear, and so without antialiasing: meant for parts that grow, or shrink by less than two.
    """
    x0, y0, x1, y1 = boxes.to(torch.float64).unbind(1)
    across, down = (x1 - x0) / size[1], (y1 - y0) / size[0]
    zero = torch.zeros_like(x0)
    # pixel (0, 0) of the output covers [x0, x0 + across): its centre is half of that inside
    maps = torch.stack((across, zero, x0 + across / 2 - 0.5, zero, down, y0 + down / 2 - 0.5), dim=1)
    # the filter must not read zeros beyond the picture's border
    return bilinear(images, maps, "reflect", size)


def about_centre(matrices: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Maps (N, 6) from matrices (N, 4) = (a, b, d, e) that leave the picture's centre where it is."""
    a, b, d, e = matrices.T
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.stack([a, b, x - (a * x + b * y), d, e, y - (d * x + e * y)], axis=1)
