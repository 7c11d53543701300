"""Winograd's convolution: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015).

m x m outputs of a 3x3 filter need (m + 2)^2 multiplications in place of 9 m^2, if input, filter and output are each
brought to other coordinates and back by constants:

    Y = A^T [(G g G^T) * (B^T d B)] A        for an input tile d of (m + 2)^2 and a filter g of 3x3

With channels, * is one product of matrices at each of the (m + 2)^2 places, (tiles, C) times (C, K). The gradients are
the same three steps turned round. A tile is a row of the matrices here, so B^T d B is (B^T x B^T) d, x Kronecker's.

The constants are Cook and Toom's: two polynomials are multiplied at some points, and the product found from its
values. Larger tiles need more points, and lose digits: in bf16 the result errs by 0.4 % for m = 2 and 1.6 % for m = 4,
where the direct sum errs by 0.2 %. How much depends on the points (Barabasz, Anderson, Soodhalter and Gregg, "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2018): with the usual 0, +-1 and
+-2 it is 2.0 % for m = 4, with 0, +-1 and +-1/2 2.5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # the first m + 1, beside infinity
SIDES = (2, 3, 4)  # m
FILTER = 3


class Winograd2d(nn.Conv2d):
    """A 3x3 convolution, padded by 1, that learns by Winograd's algorithm: (N, C, H, W) -> (N, K, H, W).

    On a processor and in training only. Elsewhere it is a convolution like any other: a graphics card's library chooses
    its algorithm itself, and what is measured or shipped needs no other rounding. The state dict is a convolution's.
    It pays from about 128 channels, on maps of at most some 10x10: there the products are most of the work.

    Examples:
        >>> layer = Winograd2d(128, 128)
        >>> x = torch.randn(1, 128, 7, 7)
        >>> bool((layer.train()(x) - layer.eval()(x)).abs().max() < 1e-4)
        True
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, FILTER, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        fits = self.training and input.dim() == 4 and input.device.type == "cpu"
        if not (fits and tile(*input.shape[2:])):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        return winograd(input, self.weight)


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve x (N, C, H, W) with filters (K, C, 3, 3), padded by 1: (N, K, H, W), in the type of x, channels last.

    Tiles have the side that needs the fewest multiplications. Filters are brought to their coordinates in their own
    type, so they should be float32 where x is bf16. Source: section 4 of the paper; both have gradients.

    Examples:
        >>> x, weight = torch.randn(2, 5, 7, 6), torch.randn(4, 5, 3, 3)
        >>> torch.allclose(winograd(x, weight), torch.conv2d(x, weight, padding=1), atol=1e-4)
        True
    """
    return _Winograd.apply(x, weight, tile(*x.shape[2:]) or SIDES[0])  # pyright: ignore[reportReturnType]


def tile(height: int, width: int) -> int:
    """The side m of tiles that needs the fewest multiplications for this map; 0: the direct sum needs fewer."""
    side = min(SIDES, key=lambda m: multiplications(height, width, m))
    return side if multiplications(height, width, side) < height * width * FILTER**2 else 0


def multiplications(height: int, width: int, side: int) -> int:
    """How many a map of height x width needs with tiles of `side`, for a channel and a filter."""
    return -(-height // side) * -(-width // side) * (side + FILTER - 1) ** 2


@cache
def constants(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """B^T (a, a), G (a, 3) and A^T (m, a) for m = `side` and a = m + 2, each times itself by Kronecker.

    With V_k the first k powers of the points, y = V_m^T [(V_3 g) * (V_a^-T d)]. Each row of B^T is then made as large
    as it is in print, and G as much smaller.
    """
    reach = side + FILTER - 1
    points = np.array(POINTS[: reach - 1], np.float64)

    def powers(count: int) -> NDArray[np.float64]:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([points[:, None] ** np.arange(count), at_infinity])

    apart = points[:, None] - points + np.eye(reach - 1)
    size = np.append(apart.prod(1), 1.0)[:, None]
    inputs, filters, outputs = np.linalg.inv(powers(reach)).T * size, powers(FILTER) / size, powers(side).T
    inputs, filters, outputs = (np.kron(each, each).astype(np.float64) for each in (inputs, filters, outputs))
    return inputs, filters, outputs


def _constants(side: int, dtype: torch.dtype, of_filters: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    inputs, filters, outputs = (torch.from_numpy(each) for each in constants(side))
    return inputs.to(dtype), filters.to(of_filters), outputs.to(dtype)


class _Winograd(torch.autograd.Function):
    """Tensors between the steps are (places, ...): a^2 of the transformed, m^2 of an output tile, 9 of a filter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: int) -> Tensor:
        k, c = weight.shape[:2]
        with torch.autocast(x.device.type, enabled=False):
            inputs, filters, outputs = _constants(side, x.dtype, weight.dtype)
            taps = weight.permute(2, 3, 0, 1).reshape(FILTER**2, k * c)
            seen = (inputs @ _tiles(x, side)).view(len(inputs), -1, c)
            learnt = (filters @ taps).to(x.dtype).view(len(inputs), k, c)
            products = torch.bmm(seen, learnt.transpose(1, 2))
            y = _joined(outputs @ products.view(len(inputs), -1), x.shape, k, side)
        ctx.save_for_backward(seen, learnt, weight)
        ctx.shape, ctx.side = x.shape, side
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        seen, learnt, weight = ctx.saved_tensors
        k, c = weight.shape[:2]
        dx = dweight = None
        with torch.autocast(dy.device.type, enabled=False):
            inputs, filters, outputs = _constants(ctx.side, dy.dtype, weight.dtype)
            dproducts = (outputs.T @ _pieces(dy, ctx.side)).view(len(inputs), -1, k)
            if ctx.needs_input_grad[0]:
                dseen = torch.bmm(dproducts, learnt)
                dx = _overlaid(inputs.T @ dseen.view(len(inputs), -1), ctx.shape, ctx.side)
            if ctx.needs_input_grad[1]:
                dlearnt = torch.bmm(dproducts.transpose(1, 2), seen).to(weight.dtype)
                dtaps = (filters.T @ dlearnt.view(len(inputs), -1)).view(FILTER, FILTER, k, c)
                dweight = torch.empty_like(weight).copy_(dtaps.permute(2, 3, 0, 1))
        return dx, dweight, None


# Tiles are taken from a map place by place: all that stand at one place of their tiles lie `side` apart in it, so that
# each copy moves whole rows of channels.


def _tiles(x: Tensor, side: int) -> Tensor:
    """Input tiles, which overlap by 2: (N, C, H, W) -> (a^2, N * rows * columns * C)."""
    n, c, height, width = x.shape
    (rows, columns), reach = _counted(x.shape, side), side + FILTER - 1
    margins = (1, columns * side + 1 - width, 1, rows * side + 1 - height)
    padded = nn.functional.pad(x, margins).permute(0, 2, 3, 1)
    tiles = x.new_empty(reach, reach, n, rows, columns, c)
    for down, across in product(range(reach), repeat=2):
        tiles[down, across] = padded[
            :, down : down + rows * side : side, across : across + columns * side : side
        ]
    return tiles.view(reach**2, -1)


def _overlaid(tiles: Tensor, shape: Sequence[int], side: int) -> Tensor:
    """The transpose of `_tiles`: where tiles overlap, their sum. -> (N, C, H, W)."""
    n, c, height, width = shape
    (rows, columns), reach = _counted(shape, side), side + FILTER - 1
    tiles = tiles.view(reach, reach, n, rows, columns, c)
    padded = tiles.new_empty(n, rows * side + 2, columns * side + 2, c)
    padded[:, -2:] = padded[:, :, -2:] = 0  # where no tile begins
    for down, across in product(range(reach), repeat=2):
        there = padded[:, down : down + rows * side : side, across : across + columns * side : side]
        if max(down, across) < side:
            there.copy_(tiles[down, across])
        else:  # reaches into the next tile
            there.add_(tiles[down, across])
    dx = padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
    return dx.contiguous(memory_format=torch.channels_last)


def _pieces(y: Tensor, side: int) -> Tensor:
    """Output tiles: (N, K, H, W) -> (m^2, N * rows * columns * K)."""
    (n, k), (rows, columns) = y.shape[:2], _counted(y.shape, side)
    margins = (0, columns * side - y.shape[3], 0, rows * side - y.shape[2])
    padded = nn.functional.pad(y, margins).permute(0, 2, 3, 1)
    pieces = y.new_empty(side, side, n, rows, columns, k)
    for down, across in product(range(side), repeat=2):
        pieces[down, across] = padded[:, down::side, across::side]
    return pieces.view(side**2, -1)


def _joined(pieces: Tensor, shape: Sequence[int], k: int, side: int) -> Tensor:
    """The inverse of `_pieces`, cut to the map: -> (N, K, H, W)."""
    (n, _, height, width), (rows, columns) = shape, _counted(shape, side)
    pieces = pieces.view(side, side, n, rows, columns, k)
    y = torch.empty(
        (n, k, height, width), dtype=pieces.dtype, device=pieces.device, memory_format=torch.channels_last
    )  # no view of anything, so that a ReLU behind it may overwrite it
    for down, across in product(range(side), repeat=2):
        there = y.permute(0, 2, 3, 1)[:, down::side, across::side]
        there.copy_(pieces[down, across, :, : there.shape[1], : there.shape[2]])
    return y


def _counted(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-shape[2] // side), -(-shape[3] // side)
