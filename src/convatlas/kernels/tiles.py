"""Tiles of a map in other coordinates, and back: what Winograd's algorithm does around its products.

A tile is a square of Q x Q pixels d, and M (P, Q) takes it to M d M^T, of P x P. The next one stands `step` pixels
further, so that tiles may overlap. Sums are taken in float32 and rounded once.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4.1, with M = B^T and A.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from convatlas.kernels.bf16 import U, rounded, widened
from convatlas.kernels.compiled import Bits, Kernel, bits, compiled, shared

Floats = NDArray[np.float32]
Matrix = tuple[tuple[float, ...], ...]  # rows
CHANNELS = 256  # at a time: what belongs to a tile stays in a cache


def gathered(x: Tensor, matrix: Matrix, step: int, margin: int) -> Tensor:
    """M d M^T of every tile of a bf16 map (N, C, H, W), channels last: (P^2, tiles, C).

    The first tile begins `margin` pixels before the map, and they go on by rows until they cover it, image by image;
    outside it are zeros.
    """
    n, c, height, width = x.shape
    tiles = n * -(-height // step) * -(-width // step)
    out = torch.empty(len(matrix) ** 2, tiles, c, dtype=x.dtype, device=x.device)
    shared(_gathering(matrix, step, margin), n, bits(x), bits(out), tiles, c, height, width)
    return out


def scattered(tiles: Tensor, shape: Sequence[int], matrix: Matrix, step: int, margin: int) -> Tensor:
    """The transpose of `gathered`: (P^2, tiles, C) -> `shape` (N, C, H, W), channels last.

    Each tile z becomes M^T z M, and where they overlap their sum is taken.
    """
    out = torch.empty(tuple(shape), dtype=tiles.dtype, device=tiles.device, memory_format=torch.channels_last)
    n, c, height, width = shape
    shared(_scattering(matrix, step, margin), n, bits(out), bits(tiles), tiles.shape[1], c, height, width)
    return out


@njit(inline="always")
def _turned(matrix: Any, source: Floats, columns: int, target: Floats) -> None:
    """M times each column of (Q, columns, CHANNELS), and the two axes changed: (columns, P, CHANNELS)."""
    for column in range(columns):
        for k in range(U(CHANNELS)):
            for p in range(len(matrix)):
                total = np.float32(0)
                for q in range(len(matrix[0])):
                    total += matrix[p][q] * source[U((q * columns + column) * CHANNELS) + k]
                target[U((column * len(matrix) + p) * CHANNELS) + k] = total


_SIGNATURE = "void(int64, int64, uint16[::1], uint16[::1], int64, int64, int64, int64)"


@cache
def _gathering(matrix: Matrix, step: int, margin: int) -> Kernel:
    m = tuple(tuple(np.float32(number) for number in row) for row in matrix)
    places, reach = len(matrix), len(matrix[0])

    @compiled(_SIGNATURE)
    def kernel(
        start: int, stop: int, x: Bits, out: Bits, tiles: int, channels: int, height: int, width: int
    ) -> None:
        rows, columns = -(-height // step), -(-width // step)
        d = np.zeros(reach * reach * CHANNELS, np.float32)
        half = np.zeros(reach * places * CHANNELS, np.float32)
        turned = np.zeros(places * places * CHANNELS, np.float32)
        for tile in range(start * rows * columns, stop * rows * columns):
            image, place = tile // (rows * columns), tile % (rows * columns)
            top, left = place // columns * step - margin, place % columns * step - margin
            for first in range(0, channels, CHANNELS):
                count = min(CHANNELS, channels - first)
                for i in range(reach):
                    for j in range(reach):
                        at, down, across = (i * reach + j) * CHANNELS, top + i, left + j
                        if 0 <= down < height and 0 <= across < width:
                            pixel = (image * height + down) * width + across
                            for k in range(U(count)):
                                d[U(at) + k] = widened(x[U(pixel * channels + first) + k])
                        else:
                            d[at : at + CHANNELS] = 0
                _turned(m, d, reach, half)
                _turned(m, half, places, turned)
                for p in range(places * places):
                    at = (p * tiles + tile) * channels + first
                    for k in range(U(count)):
                        out[U(at) + k] = rounded(turned[U(p * CHANNELS) + k])

    return kernel


@cache
def _scattering(matrix: Matrix, step: int, margin: int) -> Kernel:
    m = tuple(tuple(np.float32(number) for number in column) for column in zip(*matrix, strict=True))
    places, reach = len(matrix), len(matrix[0])

    @compiled(_SIGNATURE)
    def kernel(
        start: int, stop: int, out: Bits, x: Bits, tiles: int, channels: int, height: int, width: int
    ) -> None:
        rows, columns = -(-height // step), -(-width // step)
        z = np.zeros(places * places * CHANNELS, np.float32)
        half = np.zeros(places * reach * CHANNELS, np.float32)
        turned = np.zeros(reach * reach * CHANNELS, np.float32)
        total = np.zeros(height * width * CHANNELS, np.float32)
        for image in range(start, stop):
            for first in range(0, channels, CHANNELS):
                count = min(CHANNELS, channels - first)
                total[:] = 0
                for place in range(rows * columns):
                    tile = image * rows * columns + place
                    for p in range(places * places):
                        at = (p * tiles + tile) * channels + first
                        for k in range(U(count)):
                            z[U(p * CHANNELS) + k] = widened(x[U(at) + k])
                    _turned(m, z, places, half)
                    _turned(m, half, reach, turned)
                    top, left = place // columns * step - margin, place % columns * step - margin
                    for i in range(max(0, -top), min(reach, height - top)):
                        for j in range(max(0, -left), min(reach, width - left)):
                            at = ((top + i) * width + left + j) * CHANNELS
                            for k in range(U(CHANNELS)):
                                total[U(at) + k] += turned[U((i * reach + j) * CHANNELS) + k]
                for pixel in range(height * width):
                    at = (image * height * width + pixel) * channels + first
                    for k in range(U(count)):
                        out[U(at) + k] = rounded(total[U(pixel * CHANNELS) + k])

    return kernel
