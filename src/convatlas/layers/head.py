"""The head of most networks since GoogLeNet: the mean over all pixels, then one linear layer."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def mean_head(channels: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """(N, channels, h, w) -> (N, num_classes): children `pool`, `flatten`, `dropout` unless it is 0, and `fc`."""
    layers = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
