"""Drop whole paths of a network while it is trained, as dropout drops units (Larsson, Maire & Shakhnarovich, 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero, for each image by itself, with probability `p`, and 1 / (1 - p) times the path otherwise; any shape, kept.

    In evaluation mode nothing is changed: the factor keeps the mean. `p` may be changed while training goes on.
    Raises `ValueError` for a probability outside [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a path is dropped with a probability in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.p
        return x * (kept / (1 - self.p))

    def extra_repr(self) -> str:
        """The probability, in the printed network."""
        return f"p={self.p}"
