"""The layers of a head that slides: linear layers and poolings as convolutions over maps of any size.

They hold the parameters of the layers that they stand for, not copies of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]


class SlidingLinear(nn.Module):
    """A linear layer over windows of (C, h, w) as a convolution: (N, C, H, W) -> (N, out, H', W').

    It holds the linear layer's own parameters, (out, C h w) and (out,): nothing is copied, and what trains one trains
    both. `dilation` is the distance of the places that the window's rows and columns stand for.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, window: Pair, dilation: Pair) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.window, self.dilation = window, dilation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return functional.conv2d(x, self.kernel, self.bias, dilation=self.dilation)

    @property
    def kernel(self) -> Tensor:
        """The weights as a convolution has them: (out, C, h, w)."""
        return self.weight.view(self.weight.shape[0], -1, *self.window)

    def extra_repr(self) -> str:
        """As a Conv2d prints itself."""
        out, c_in, *_ = self.kernel.shape
        return f"{c_in}, {out}, kernel_size={self.window}" + spread(self.dilation)


class FoldedLinear(nn.Module):
    """The same after a pooling that stretches h x w places to other sides, as adaptive pooling does for small images.

    Pooling is linear, so it goes into the kernel: h x w places again. The fold is worked out in every pass, so the
    weights are still shared. `rows` (o1, h) and `columns` (o2, w) are the means that the pooling takes.
    """

    rows: Tensor
    columns: Tensor
    bias: nn.Parameter | None

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, rows: Tensor, columns: Tensor
    ) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return functional.conv2d(x, self.kernel, self.bias)

    @property
    def kernel(self) -> Tensor:
        """The weights with the pooling folded in: (out, C, h, w)."""
        weight = self.weight.view(self.weight.shape[0], -1, self.rows.shape[0], self.columns.shape[0])
        return torch.einsum("ocij,ih,jw->ochw", weight, self.rows.to(weight), self.columns.to(weight))

    def extra_repr(self) -> str:
        """As a Conv2d prints itself, and what is folded into it."""
        out, c_in, *window = self.kernel.shape
        return f"{c_in}, {out}, kernel_size={tuple(window)}, pooled to {self.rows.shape[0]}x{self.columns.shape[0]}"


class SlidingPool(nn.Module):
    """Mean or maximum over a window that moves by one place: (N, C, H, W) -> (N, C, H - h + 1, W - w + 1)."""

    def __init__(self, window: Pair, *, largest: bool = False) -> None:
        super().__init__()
        self.window, self.largest = window, largest

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H - h + 1, W - w + 1)."""
        pool = functional.max_pool2d if self.largest else functional.avg_pool2d
        return pool(x, self.window, stride=1)

    def extra_repr(self) -> str:
        """What is taken of which window."""
        return f"{'max' if self.largest else 'mean'}, kernel_size={self.window}, stride=1"


class Pointwise(nn.Module):
    """A function that treats all places alike, with the arguments that the network gives it: any shape, kept."""

    def __init__(self, name: str, call: Callable[[Tensor], Tensor], own: dict[str, Tensor]) -> None:
        super().__init__()
        self.name, self.call = name, call
        for each, tensor in own.items():  # so that they move with the module
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(each, tensor)
            else:
                self.register_buffer(each, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return self.call(x)

    def extra_repr(self) -> str:
        """The function's name."""
        return self.name


def pooling_matrix(size: int, outputs: int) -> Tensor:
    """The means that adaptive pooling takes of `size` places: (outputs, size), rows that sum to 1.

    Examples:
        >>> pooling_matrix(2, 3).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    return functional.adaptive_avg_pool1d(torch.eye(size, device="cpu")[None], outputs)[0].T.contiguous()


def spread(dilation: Pair) -> str:
    """How a dilation is printed: not at all where it is 1."""
    return "" if dilation == (1, 1) else f", dilation={dilation}"
