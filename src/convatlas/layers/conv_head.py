"""The head of Network In Network: one map for each class, and its mean (Lin, Chen & Yan, 2013, section 3.2)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from convatlas.layers.init import he_normal


def conv_head(channels: int, num_classes: int) -> nn.Sequential:
    """(N, channels, h, w) -> (N, num_classes): children `classifier`, `relu`, `pool` and `flatten`.

    A class's map shows where the network sees it; a linear layer would see places, too, and learn them by heart.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            classifier=class_maps(channels, num_classes),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
    )


def class_maps(channels: int, num_classes: int) -> nn.Conv2d:
    """A fresh classifier of such a head: (N, channels, h, w) -> (N, num_classes, h, w)."""
    classifier = nn.Conv2d(channels, num_classes, 1)
    he_normal(classifier)
    return classifier
