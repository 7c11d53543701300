"""The squashing function of the networks before ReLU (LeCun et al., 1998; Cireşan et al., 2012)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3), so that f(1) = 1 and f(-1) = -1, where its curvature is largest (LeCun, appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return 1.7159 * torch.tanh(x * (2 / 3))
