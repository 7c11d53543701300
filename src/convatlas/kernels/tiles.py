"""Tiles of a map in other coordinates, and back: what Winograd's algorithm does around its products.

A tile is a square of Q x Q pixels d, and M (P, Q) takes it to M d M^T, of P x P. The next one stands `step` pixels
further, so that tiles may overlap. Maps are of bf16 or float32; sums are taken in float32 and rounded once.

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
from convatlas.kernels.compiled import Kernel, compiled, numbers, shared

Floats = NDArray[np.float32]
Numbers = NDArray[Any]  # float32, or the bits of bf16
Matrix = tuple[tuple[float, ...], ...]  # rows
CHANNELS = {torch.bfloat16: 256, torch.float32: 64}  # at a time: what belongs to a tile stays in a cache


def gathered(x: Tensor, matrix: Matrix, step: int, margin: int) -> Tensor:
    """M d M^T of every tile of a map (N, C, H, W), channels last: (P^2, tiles, C).

    The first tile begins `margin` pixels before the map, and they go on by rows until they cover it, image by image;
    outside it are zeros.
    """
    n, c, height, width = x.shape
    tiles = n * -(-height // step) * -(-width // step)
    out = torch.empty(len(matrix) ** 2, tiles, c, dtype=x.dtype, device=x.device)
    kernel = _gathering(matrix, step, margin, x.dtype)
    shared(kernel, n, numbers(x), numbers(out), tiles, c, height, width)
    return out


def scattered(tiles: Tensor, shape: Sequence[int], matrix: Matrix, step: int, margin: int) -> Tensor:
    """The transpose of `gathered`: (P^2, tiles, C) -> `shape` (N, C, H, W), channels last.

    Each tile z becomes M^T z M, and where they overlap their sum is taken.
    """
    out = torch.empty(tuple(shape), dtype=tiles.dtype, device=tiles.device, memory_format=torch.channels_last)
    n, c, height, width = shape
    kernel = _scattering(matrix, step, margin, tiles.dtype)
    shared(kernel, n, numbers(out), numbers(tiles), tiles.shape[1], c, height, width)
    return out


def laid(tiles: Tensor, out: Tensor, matrix: Matrix) -> None:
    """M d M^T of tiles (Q^2, tiles, C), for M (P, Q), side by side: into `out` (N, C, H, W), channels last."""
    n, c, height, width = out.shape
    kernel = _laying(matrix, out.dtype)
    shared(kernel, n, numbers(out), numbers(tiles), tiles.shape[1], c, height, width)


@njit(inline="always")
def _turned(matrix: Any, source: Floats, columns: int, target: Floats, depth: int) -> None:
    """M times each column of (Q, columns, depth), and the two axes changed: (columns, P, depth)."""
    for column in range(columns):
        for k in range(U(depth)):
            for p in range(len(matrix)):
                total = np.float32(0)
                for q in range(len(matrix[0])):
                    total += matrix[p][q] * source[U((q * columns + column) * depth) + k]
                target[U((column * len(matrix) + p) * depth) + k] = total


@njit(inline="always")
def _same(number: Any) -> Any:
    return number


def _of(dtype: torch.dtype) -> tuple[Any, Any, int, str]:
    """How a number is read and written, how many channels are taken at a time, and the types of a kernel."""
    read, write, array = (
        (widened, rounded, "uint16[::1]") if dtype == torch.bfloat16 else (_same, _same, "float32[::1]")
    )
    return read, write, CHANNELS[dtype], f"void(int64, int64, {array}, {array}, int64, int64, int64, int64)"


@cache
def _gathering(matrix: Matrix, step: int, margin: int, dtype: torch.dtype) -> Kernel:
    read, write, depth, signature = _of(dtype)
    m = tuple(tuple(np.float32(number) for number in row) for row in matrix)
    places, reach = len(matrix), len(matrix[0])

    @compiled(signature)
    def kernel(
        start: int, stop: int, x: Numbers, out: Numbers, tiles: int, channels: int, height: int, width: int
    ) -> None:
        rows, columns = -(-height // step), -(-width // step)
        d = np.zeros(reach * reach * depth, np.float32)
        half = np.zeros(reach * places * depth, np.float32)
        turned = np.zeros(places * places * depth, np.float32)
        for tile in range(start * rows * columns, stop * rows * columns):
            image, place = tile // (rows * columns), tile % (rows * columns)
            top, left = place // columns * step - margin, place % columns * step - margin
            for first in range(0, channels, depth):
                count = min(depth, channels - first)
                for i in range(reach):
                    for j in range(reach):
                        at, down, across = (i * reach + j) * depth, top + i, left + j
                        if 0 <= down < height and 0 <= across < width:
                            pixel = (image * height + down) * width + across
                            for k in range(U(count)):
                                d[U(at) + k] = read(x[U(pixel * channels + first) + k])
                        else:
                            d[at : at + depth] = 0
                _turned(m, d, reach, half, depth)
                _turned(m, half, places, turned, depth)
                for p in range(places * places):
                    at = (p * tiles + tile) * channels + first
                    for k in range(U(count)):
                        out[U(at) + k] = write(turned[U(p * depth) + k])

    return kernel


@cache
def _scattering(matrix: Matrix, step: int, margin: int, dtype: torch.dtype) -> Kernel:
    read, write, depth, signature = _of(dtype)
    m = tuple(tuple(np.float32(number) for number in column) for column in zip(*matrix, strict=True))
    places, reach = len(matrix), len(matrix[0])

    @compiled(signature)
    def kernel(
        start: int, stop: int, out: Numbers, x: Numbers, tiles: int, channels: int, height: int, width: int
    ) -> None:
        rows, columns = -(-height // step), -(-width // step)
        z = np.zeros(places * places * depth, np.float32)
        half = np.zeros(places * reach * depth, np.float32)
        turned = np.zeros(reach * reach * depth, np.float32)
        total = np.zeros(height * width * depth, np.float32)
        for image in range(start, stop):
            for first in range(0, channels, depth):
                count = min(depth, channels - first)
                total[:] = 0
                for place in range(rows * columns):
                    tile = image * rows * columns + place
                    for p in range(places * places):
                        at = (p * tiles + tile) * channels + first
                        for k in range(U(count)):
                            z[U(p * depth) + k] = read(x[U(at) + k])
                    _turned(m, z, places, half, depth)
                    _turned(m, half, reach, turned, depth)
                    top, left = place // columns * step - margin, place % columns * step - margin
                    for i in range(max(0, -top), min(reach, height - top)):
                        for j in range(max(0, -left), min(reach, width - left)):
                            at = ((top + i) * width + left + j) * depth
                            for k in range(U(depth)):
                                total[U(at) + k] += turned[U((i * reach + j) * depth) + k]
                for pixel in range(height * width):
                    at = (image * height * width + pixel) * channels + first
                    for k in range(U(count)):
                        out[U(at) + k] = write(total[U(pixel * depth) + k])

    return kernel


@cache
def _laying(matrix: Matrix, dtype: torch.dtype) -> Kernel:
    read, write, depth, signature = _of(dtype)
    m = tuple(tuple(np.float32(number) for number in row) for row in matrix)
    step, reach = len(matrix), len(matrix[0])

    @compiled(signature)
    def kernel(
        start: int, stop: int, out: Numbers, x: Numbers, tiles: int, channels: int, height: int, width: int
    ) -> None:
        rows, columns = -(-height // step), -(-width // step)
        z = np.zeros(reach * reach * depth, np.float32)
        half = np.zeros(reach * step * depth, np.float32)
        turned = np.zeros(step * step * depth, np.float32)
        for tile in range(start * rows * columns, stop * rows * columns):
            image, place = tile // (rows * columns), tile % (rows * columns)
            top, left = place // columns * step, place % columns * step
            for first in range(0, channels, depth):
                count = min(depth, channels - first)
                for p in range(reach * reach):
                    at = (p * tiles + tile) * channels + first
                    for k in range(U(count)):
                        z[U(p * depth) + k] = read(x[U(at) + k])
                _turned(m, z, reach, half, depth)
                _turned(m, half, step, turned, depth)
                for i in range(min(step, height - top)):
                    for j in range(min(step, width - left)):
                        at = ((image * height + top + i) * width + left + j) * channels + first
                        for k in range(U(count)):
                            out[U(at) + k] = write(turned[U((i * step + j) * depth) + k])

    return kernel
