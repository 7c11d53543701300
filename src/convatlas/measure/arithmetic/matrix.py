"""A convolution as a matrix: y = W x, with many zeros and few numbers that occur again and again.

Every output of a linear map is a weighted sum of all inputs; for a convolution most weights are zero, as a window sees
few pixels, and the others are shared, as all windows have the same kernel. In one dimension W is a Toeplitz matrix
(each weight fills a diagonal), in two a doubly block Toeplitz one. Its transpose hands gradients back to the input, and
as a layer of its own it is the transposed convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.output_size import conv_size


@dataclass(frozen=True, slots=True, eq=False)
class ConvMatrix:
    """The matrix of a convolution, and which weight stands where.

    Attributes:
        weight: the kernel, as it came.
        origin: (outputs, inputs); the place of the weight in `weight.flatten()`, -1 where no weight stands.
        output_shape: what the outputs are as maps: (...) or, with channels, (C_out, ...).
        input_shape: the same for the inputs.
    """

    weight: Tensor
    origin: Tensor
    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...]

    @property
    def dense(self) -> Tensor:
        """W, (outputs, inputs), with its zeros."""
        with_zero = torch.cat([self.weight.flatten(), self.weight.new_zeros(1)])
        return with_zero[self.origin]  # -1 is the last

    @property
    def sparse(self) -> Tensor:
        """W as a sparse COO tensor: only the places where a weight stands."""
        rows, columns = (self.origin >= 0).nonzero(as_tuple=True)
        values = self.weight.flatten()[self.origin[rows, columns]]
        # In lexicographic order and once each, as nonzero gives them.
        return torch.sparse_coo_tensor(
            torch.stack([rows, columns]), values, self.origin.shape, is_coalesced=True, check_invariants=True
        )

    @property
    def entries(self) -> int:
        """Numbers of the matrix: the weights of a fully connected layer between the same maps."""
        return self.origin.numel()

    @property
    def non_zeros(self) -> int:
        """Places where a weight stands, whatever its value: the multiply-adds that padding does not waste."""
        return int((self.origin >= 0).sum())

    @property
    def zeros(self) -> int:
        """Places where none stands."""
        return self.entries - self.non_zeros

    @property
    def distinct(self) -> int:
        """Weights that the places share."""
        return int(self.origin[self.origin >= 0].unique().numel())

    def places(self, *tap: int) -> int:
        """How often one weight stands in the matrix; `tap` is its place in the kernel."""
        wanted = int(torch.arange(self.weight.numel()).view(self.weight.shape)[tap])
        return int((self.origin == wanted).sum())

    def apply(self, x: Tensor) -> Tensor:
        """W x, in maps: `input_shape` -> `output_shape`."""
        return (self.sparse @ x.reshape(-1, 1)).reshape(self.output_shape)

    def transposed(self, y: Tensor) -> Tensor:
        """W^T y: the gradient of the input, given that of the output; the transposed convolution."""
        return (self.sparse.t() @ y.reshape(-1, 1)).reshape(self.input_shape)

    def text(self) -> str:
        """The matrix with a letter for each weight, for kernels of up to 26.

        Examples:
            >>> print(conv_matrix(torch.tensor([2, 3, 5]), (5,), padding=1).text())
            b c . . .
            a b c . .
            . a b c .
            . . a b c
            . . . a b
        """
        if self.weight.numel() > 26:
            raise UsageError(f"there are letters for 26 weights, and the kernel has {self.weight.numel()}.")
        letters = [chr(ord("a") + i) for i in range(self.weight.numel())] + ["."]
        return "\n".join(" ".join(letters[place] for place in row) for row in self.origin.tolist())

    def sentence(self) -> str:
        """The counts in words.

        Examples:
            >>> conv_matrix(torch.ones(3, 3), (4, 4)).sentence()
            '4 x 16 = 64 numbers: 28 zeros, and 36 places that share 9 weights.'
        """
        outputs, inputs = self.origin.shape
        return (
            f"{outputs:,} x {inputs:,} = {self.entries:,} numbers: {self.zeros:,} zeros, and {self.non_zeros:,} places "
            f"that share {self.distinct:,} weights."
        )


def conv_matrix(
    weight: Tensor,
    size: Sequence[int],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    flip: bool = False,
) -> ConvMatrix:
    """The matrix of a convolution over a signal with sides `size`, in any number of dimensions.

    Args:
        weight: (k...) for one channel, as many dimensions as `size`; or (C_out, C_in / groups, k...).
        size: sides of the input, without channels.
        stride: by how much the window moves.
        padding: zeros on either side; their columns are left out.
        dilation: distance of the taps.
        groups: parts of the channels that do not see each other.
        flip: the convolution of mathematics instead of cross-correlation; rows "c b a" instead of "a b c".

    Raises:
        UsageError: if the ranks do not fit, a kernel is larger than the padded input, or channels do not divide.

    Examples:
        >>> found = conv_matrix(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (3, 3))
        >>> found.dense[0].tolist()
        [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]
        >>> found.apply(torch.arange(9.0)).tolist()
        [[27.0, 37.0], [57.0, 67.0]]
    """
    channels = weight.dim() == len(size) + 2
    if not channels and weight.dim() != len(size):
        raise UsageError(
            f"a kernel for sides {tuple(size)} has {len(size)} dimensions, or {len(size) + 2} with channels; "
            f"one of shape {tuple(weight.shape)} came."
        )
    kernel = tuple(weight.shape[-len(size) :])
    c_out, c_in = tuple(weight.shape[:2]) if channels else (1, 1)
    if groups < 1 or c_out % groups:
        raise UsageError(f"{c_out} output channels do not divide into {groups} groups.")
    sides = tuple(
        conv_size(width, k, stride=stride, padding=padding, dilation=dilation).size
        for width, k in zip(size, kernel, strict=True)
    )
    outputs, inputs, taps = math.prod(sides), math.prod(size), math.prod(kernel)
    places = torch.arange(outputs).view(sides)
    pixels = torch.arange(inputs).view(*size)
    origin = torch.full((c_out * outputs, c_in * groups * inputs), -1)
    for number, tap in enumerate(product(*(range(k) for k in kernel))):
        seen = [
            torch.arange(side) * stride + t * dilation - padding
            for side, t in zip(sides, _mirrored(flip, tap, kernel), strict=True)
        ]
        inside = [(at >= 0) & (at < width) for at, width in zip(seen, size, strict=True)]
        rows = places[torch.meshgrid(*(i.nonzero()[:, 0] for i in inside), indexing="ij")].flatten()
        columns = pixels[
            torch.meshgrid(*(at[i] for at, i in zip(seen, inside, strict=True)), indexing="ij")
        ].flatten()
        for o in range(c_out):
            group = o // (c_out // groups)
            for i in range(c_in):
                origin[o * outputs + rows, (group * c_in + i) * inputs + columns] = (
                    o * c_in + i
                ) * taps + number
    if not channels:
        return ConvMatrix(weight, origin, sides, tuple(size))
    return ConvMatrix(weight, origin, (c_out, *sides), (c_in * groups, *size))


def _mirrored(flip: bool, tap: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """The place where a tap stands: mirrored in the convolution of mathematics."""
    return tuple(k - 1 - t if flip else t for t, k in zip(tap, kernel, strict=True))
