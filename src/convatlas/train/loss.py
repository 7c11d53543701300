"""Loss functions that papers state and PyTorch does not have."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

RUBBISH = 0.1  # j of equation 9; the paper asks for a positive constant and prints none


def map_loss(logits: Tensor, labels: Tensor, j: float = RUBBISH) -> Tensor:
    """The discriminative maximum-a-posteriori criterion: logits (N, K), labels (N,) -> (N,).

    LeCun et al. 1998, equation 9, with logits = -penalties y: y_label + log(exp(-j) + sum_i exp(-y_i)).
    The constant stands for a class of rubbish: wrong classes that are far away already are not pushed on.
    """
    rubbish = logits.new_full((logits.shape[0], 1), -j)
    return (
        torch.logsumexp(torch.cat([logits, rubbish], dim=1), dim=1) - logits.gather(1, labels[:, None])[:, 0]
    )


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2015, section 7): (N, K), (N,) -> (N,)."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
