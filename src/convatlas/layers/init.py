"""The papers' initialisations, applied to every layer of a network. All work on the meta device."""

from __future__ import annotations

import math

from torch import nn


def glorot_uniform(network: nn.Module) -> None:
    """Weights of variance 2 / (fan_in + fan_out), biases 0: keeps the scale of signals through tanh layers.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010, equation 16.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def he_normal(network: nn.Module, *, per_group: bool = False) -> None:
    """Convolutions N(0, 2 / fan_out), biases 0: keeps the scale of gradients through ReLU layers.

    In grouped convolutions the fan-out counts connections that do not exist; torchvision does so too. `per_group`
    divides it by the groups: depthwise filters then start about sqrt(C) times as large, as EfficientNet's authors
    have them.

    Source: He et al., "Delving Deep into Rectifiers", 2015, equation 14: the backward case,
    which is torchvision's choice too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            groups = module.groups if per_group else 1
            fan_out = module.out_channels // groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
