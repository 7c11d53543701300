"""SAF-pooling: pool the best responses, then switch some of them off while training (Hasanpour et al., 2018).

Max-pooling keeps the strongest response of each window, and a network may come to rely on few of them. If some are
switched off, others must carry the same content, and a later layer composes features that are spread out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError

Mode = Literal["random", "deterministic", "none"]


class StrongestOff(nn.Module):
    """Zero the share `p` of an image's responses that are the largest, and 1 / (1 - p) times the others.

    (N, C, H, W) -> (N, C, H, W), in training mode; in evaluation mode nothing is changed. The count is rounded down.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training or self.p == 0:
            return x
        responses = x.flatten(1)
        strongest = responses.topk(int(self.p * responses.shape[1]), dim=1).indices
        kept = torch.ones_like(responses).scatter(1, strongest, 0.0) / (1 - self.p)
        return x * kept.view_as(x)

    def extra_repr(self) -> str:
        """The share, in the printed network."""
        return f"p={self.p}"


def saf_pooling(p: float, mode: Mode = "random") -> nn.Sequential:
    """Maxima of 2x2 windows, then a share `p` switched off: (N, C, H, W) -> (N, C, H / 2, W / 2).

    Children `pool` and `switch`. The mode "random" is dropout, as in the authors' files; "deterministic" switches off
    the strongest responses of each image; with "none", or p = 0, only the pool is left.

    Raises:
        UsageError: for another mode, or a share outside [0, 1).
    """
    if mode not in ("random", "deterministic", "none"):
        raise UsageError(f"saf={mode!r} is not known; 'random', 'deterministic' and 'none' are.")
    if not 0 <= p < 1:
        raise UsageError(f"a share of {p} of the responses cannot be switched off; one in [0, 1) can.")
    layers = OrderedDict[str, nn.Module](pool=nn.MaxPool2d(2))
    if p and mode != "none":
        layers["switch"] = nn.Dropout(p) if mode == "random" else StrongestOff(p)
    return nn.Sequential(layers)
