"""Names of layers in other libraries, where they follow from the order of ours."""

from __future__ import annotations

import re

from torch import nn


def numbered(features: nn.Module) -> list[tuple[str, str]]:
    r"""Substitutions from our `features.child.layer` to torchvision's early style: one flat list, numbered from 0.

    Examples:
        >>> from collections import OrderedDict
        >>> conv1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3), relu=nn.ReLU()))
        >>> numbered(nn.Sequential(OrderedDict(conv1=conv1, pool1=nn.MaxPool2d(2))))[-1]
        ('^features\\.pool1\\.', 'features.2.')
    """
    leaves: list[str] = []
    for name, child in features.named_children():
        leaves += [f"{name}.{leaf}" for leaf, _ in child.named_children()] or [name]
    return [(rf"^features\.{re.escape(name)}\.", f"features.{i}.") for i, name in enumerate(leaves)]
