"""Squeeze-and-excitation: channels weigh each other by what they see globally (Hu, Shen, Albanie, Sun & Wu, 2017)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """x times a factor per channel, computed from the means of all channels: (N, C, H, W) -> (N, C, H, W).

    factor = gate(expand(act(reduce(mean of x)))), equations 2 to 4. The two layers are 1x1 convolutions of one pixel,
    that is, linear layers.

    Args:
        channels: C.
        hidden: channels between the two layers: C / r in the paper, with r = 16.
        act: between them.
        gate: after them; the paper's is the logistic sigmoid.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = act()
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x * self.gate(self.expand(self.act(self.reduce(self.squeeze(x)))))
