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
+-2 it is 2.0 % for m = 4, with 0, +-1 and +-1/2 2.5 %. In float32 it errs by 1e-6 to 2e-6, a direct sum by 3e-7 to
1e-6.

In bf16 tiles are made of the whole batch and kept for the backward pass. In float32 they are made of a few images at a
time, which stay in a cache, and made again in the backward pass: so the layer keeps no more than any convolution.
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

from convatlas.kernels import compiled

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # the first m + 1, beside infinity
SIDES = (2, 3, 4)  # m
FILTER = 3
PART = 2**24  # bytes of tiles that are made at a time in float32


class Winograd2d(nn.Conv2d):
    """A 3x3 convolution, padded by 1, that learns by Winograd's algorithm: (N, C, H, W) -> (N, K, H, W).

    On a processor and in training only. Elsewhere it is a convolution like any other: a graphics card's library chooses
    its algorithm itself, and what is measured or shipped needs no other rounding. The state dict is a convolution's.
    In bf16 it pays from about 128 channels, on maps of at most some 10x10: there the products are most of the work.

    Examples:
        >>> layer = Winograd2d(128, 128)
        >>> x = torch.randn(1, 128, 7, 7)
        >>> bool((layer.train()(x) - layer.eval()(x)).abs().max() < 1e-4)
        True
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, FILTER, padding=1, bias=bias)

    @staticmethod
    def replaces(module: nn.Module) -> bool:
        """Whether a module is a convolution that this one could be in the place of."""
        return (
            type(module) is nn.Conv2d
            and (module.kernel_size, module.stride, module.dilation) == ((FILTER, FILTER), (1, 1), (1, 1))
            and module.padding == (1, 1)
            and (module.groups, module.padding_mode) == (1, "zeros")
        )

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        fits = self.training and input.dim() == 4 and input.device.type == "cpu"
        if not (fits and tile(*input.shape[2:])):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        out = winograd(input, self.weight)
        return out if self.bias is None else out.add_(self.bias.to(out.dtype).view(-1, 1, 1))


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve x (N, C, H, W) with filters (K, C, 3, 3), padded by 1: (N, K, H, W), in the type of x, channels last.

    Tiles have the side that needs the fewest multiplications. Filters are brought to their coordinates in their own
    type, so they should be float32 where x is bf16. Source: section 4 of the paper; both have gradients.

    Examples:
        >>> x, weight = torch.randn(2, 5, 7, 6), torch.randn(4, 5, 3, 3)
        >>> torch.allclose(winograd(x, weight), torch.conv2d(x, weight, padding=1), atol=1e-4)
        True
    """
    how = _Whole if x.dtype == torch.bfloat16 else _InParts
    return how.apply(x, weight, tile(*x.shape[2:]) or SIDES[0])  # pyright: ignore[reportReturnType]


def tile(height: int, width: int) -> int:
    """The side m of tiles that needs the fewest multiplications for this map; 0: the direct sum needs fewer."""
    side = min(SIDES, key=lambda m: multiplications(height, width, m))
    return side if multiplications(height, width, side) < height * width * FILTER**2 else 0


def multiplications(height: int, width: int, side: int) -> int:
    """How many a map of height x width needs with tiles of `side`, for a channel and a filter."""
    return -(-height // side) * -(-width // side) * (side + FILTER - 1) ** 2


@cache
def constants(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """B^T (a, a), G (a, 3) and A^T (m, a) for m = `side` and a = m + 2.

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
    inputs = (np.linalg.inv(powers(reach)).T * size).astype(np.float64)
    return inputs, powers(FILTER) / size, powers(side).T


# Tensors between the steps are (places, tiles, channels): a^2 places of a tile, or of a filter.


class _Whole(torch.autograd.Function):
    """The tiles of a whole batch at once, kept for the gradient of the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: int) -> Tensor:
        inputs, _, outputs = constants(side)
        with torch.autocast(x.device.type, enabled=False):
            learnt = _learnt(_taps(weight), side).to(x.dtype)
            seen = _gathered(x, inputs, side, 1)
            products = torch.bmm(seen, learnt.transpose(1, 2))
            y = _scattered(products, (len(x), len(weight), *x.shape[2:]), outputs.T, side, 0)
        ctx.save_for_backward(seen, learnt, weight)
        ctx.shape, ctx.side = x.shape, side
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        seen, learnt, weight = ctx.saved_tensors
        k, c = weight.shape[:2]
        inputs, filters, outputs = constants(ctx.side)
        dx = dweight = None
        with torch.autocast(dy.device.type, enabled=False):
            dproducts = _gathered(dy, outputs.T, ctx.side, 0)
            if ctx.needs_input_grad[0]:
                dx = _scattered(torch.bmm(dproducts, learnt), ctx.shape, inputs, ctx.side, 1)
            if ctx.needs_input_grad[1]:
                dlearnt = torch.bmm(dproducts.transpose(1, 2), seen).to(weight.dtype).view(-1, k * c)
                dtaps = (_of_squares(filters, weight.dtype).T @ dlearnt).view(FILTER, FILTER, k, c)
                dweight = torch.empty_like(weight).copy_(dtaps.permute(2, 3, 0, 1))
        return dx, dweight, None


class _InParts(torch.autograd.Function):
    """The tiles of a few images at a time; the gradient of the input is a convolution, too, with turned filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.side = side
        with torch.autocast(x.device.type, enabled=False):
            learnt = _learnt(_taps(weight), side).to(x.dtype)
            return _convolved(x, learnt.transpose(1, 2), side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        dx = dweight = None
        with torch.autocast(dy.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                learnt = _learnt(_taps(weight).flip(0), ctx.side).to(dy.dtype)
                dx = _convolved(dy, learnt, ctx.side)
            if ctx.needs_input_grad[1]:
                dweight = torch.empty_like(weight).copy_(_correlated(x, dy, ctx.side))
        return dx, dweight, None


def _taps(weight: Tensor) -> Tensor:
    """Filters (K, C, 3, 3), place by place: (9, K, C)."""
    return weight.permute(2, 3, 0, 1).reshape(FILTER**2, *weight.shape[:2])


def _learnt(taps: Tensor, side: int) -> Tensor:
    """Filters in their coordinates: (9, K, C) -> (places, K, C)."""
    filters = _of_squares(constants(side)[1], taps.dtype)
    return (filters @ taps.reshape(FILTER**2, -1)).view(-1, *taps.shape[1:])


def _convolved(x: Tensor, learnt: Tensor, side: int) -> Tensor:
    """Maps (N, C, H, W) with filters in their coordinates, (places, C, K): (N, K, H, W)."""
    inputs, _, outputs = constants(side)
    shape = len(x), learnt.shape[2], *x.shape[2:]
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for part in _parts(x.shape, shape[1], side):
        products = torch.bmm(_gathered(x[part], inputs, side, 1), learnt)
        _laid(products, outputs, y[part])
    return y


def _correlated(x: Tensor, dy: Tensor, side: int) -> Tensor:
    """The gradient of filters (K, C, 3, 3) between x (N, C, H, W) and dy (N, K, H, W)."""
    k, c = dy.shape[1], x.shape[1]
    inputs, filters, outputs = constants(side)
    dlearnt = x.new_zeros(len(inputs) ** 2, k, c)
    for part in _parts(x.shape, k, side):
        dproducts = _gathered(dy[part], outputs.T, side, 0)
        dlearnt.baddbmm_(dproducts.transpose(1, 2), _gathered(x[part], inputs, side, 1))
    dtaps = _of_squares(filters, x.dtype).T @ dlearnt.view(-1, k * c)
    return dtaps.view(FILTER, FILTER, k, c).permute(2, 3, 0, 1)


def _parts(shape: Sequence[int], k: int, side: int) -> list[slice]:
    """Images (N, C, H, W) in parts: tiles fit into a cache, and are no fewer than channels, as filters are read too."""
    n, c, height, width = shape
    tiles, most = -(-height // side) * -(-width // side), max(c, k)
    number = max(PART // ((side + FILTER - 1) ** 2 * tiles * most * 4), -(-most // tiles), 1)
    return [slice(first, first + number) for first in range(0, n, number)]


def _gathered(x: Tensor, matrix: NDArray[np.float64], step: int, margin: int) -> Tensor:
    """M d M^T of every tile d of a map (N, C, H, W), for M (P, Q): (P^2, tiles, C).

    A tile has Q x Q pixels and stands `step` from the next. The first begins `margin` before the map; outside it are
    zeros.
    """
    if compiled.usable(x, torch.bfloat16, torch.float32):
        return _kernels().gathered(x, _rows(matrix), step, margin)
    n, c = x.shape[:2]
    rows, columns, height, width = _covered(x.shape, matrix, step)
    margins = (0, 0, margin, width - margin - x.shape[3], margin, height - margin - x.shape[2])
    padded = nn.functional.pad(x.permute(0, 2, 3, 1), margins).contiguous()
    image, down, across, _ = padded.stride()
    reach = matrix.shape[1]
    places = (down, across, image, step * down, step * across, 1)
    tiles = padded.as_strided((reach, reach, n, rows, columns, c), places).contiguous()
    return _changed(tiles.view(reach, reach, -1), matrix).view(len(matrix) ** 2, -1, c)


def _scattered(
    tiles: Tensor, shape: Sequence[int], matrix: NDArray[np.float64], step: int, margin: int
) -> Tensor:
    """The transpose of `_gathered`: (P^2, tiles, C) -> `shape` (N, C, H, W); where tiles overlap, their sum."""
    if compiled.usable(tiles):
        return _kernels().scattered(tiles, shape, _rows(matrix), step, margin)
    n, c = shape[:2]
    rows, columns, height, width = _covered(shape, matrix, step)
    reach = range(matrix.shape[1])
    pixels = _changed(tiles.view(len(matrix), len(matrix), -1), matrix.T)
    pixels = pixels.view(len(reach), len(reach), n, rows, columns, c)
    whole = tiles.new_empty(n, height, width, c).permute(0, 3, 1, 2)
    whole[:, :, rows * step :] = whole[:, :, :, columns * step :] = 0  # where no tile begins
    for down, across in product(reach, repeat=2):
        there = whole.permute(0, 2, 3, 1)[:, down::step, across::step][:, :rows, :columns]
        if max(down, across) < step:
            there.copy_(pixels[down, across])
        else:  # reaches into the next tile
            there.add_(pixels[down, across])
    map_ = whole[:, :, margin : margin + shape[2], margin : margin + shape[3]]
    return map_.clone(memory_format=torch.channels_last)  # no view, so that a ReLU behind it may overwrite it


def _laid(tiles: Tensor, matrix: NDArray[np.float64], out: Tensor) -> None:
    """M d M^T of tiles d (Q^2, tiles, C), for M (P, Q), side by side in a map `out` (N, C, H, W), channels last."""
    if compiled.usable(out, torch.float32):
        _kernels().laid(tiles, out, _rows(matrix))
        return
    (step, reach), (n, c, height, width) = matrix.shape, out.shape
    rows, columns = -(-height // step), -(-width // step)
    pixels = _changed(tiles.view(reach, reach, -1), matrix).view(step, step, n, rows, columns, c)
    pixels = pixels.permute(2, 3, 0, 4, 1, 5)
    out = out.permute(0, 2, 3, 1)
    if (height, width) == (rows * step, columns * step):
        out.view(n, rows, step, columns, step, c).copy_(pixels)
    else:
        out.copy_(pixels.reshape(n, rows * step, columns * step, c)[:, :height, :width])


# A map is moved place by place: all that stand at one place of their tiles lie `step` apart in it, so that each copy
# moves whole rows of channels.


def _covered(shape: Sequence[int], matrix: NDArray[np.float64], step: int) -> tuple[int, int, int, int]:
    """Rows and columns of tiles, and height and width of what they cover."""
    rows, columns = -(-shape[2] // step), -(-shape[3] // step)
    beyond = matrix.shape[1] - step
    return rows, columns, rows * step + beyond, columns * step + beyond


def _changed(squares: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """M d M^T of squares d (Q, Q, numbers): (P^2, numbers); in bf16 rounded once."""
    p, q = matrix.shape
    if squares.dtype == torch.bfloat16:
        return _of_squares(matrix, squares.dtype) @ squares.view(q * q, -1)
    m = torch.from_numpy(np.ascontiguousarray(matrix)).to(squares.dtype)
    half = (m @ squares.view(q, -1)).view(p, q, -1)
    return torch.bmm(m.expand(p, p, q), half).view(p * p, -1)


def _of_squares(matrix: NDArray[np.float64], dtype: torch.dtype) -> Tensor:
    """The matrix (P^2, Q^2) that takes the numbers of a square d to those of M d M^T."""
    return torch.from_numpy(np.kron(matrix, matrix)).to(dtype)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def _kernels() -> Any:
    """Imported where they are used: they ask for numba."""
    from convatlas.kernels import tiles

    return tiles
