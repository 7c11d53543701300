"""The papers' initialisations, applied to every layer of a network. All work on the meta device."""

from __future__ import annotations

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


def he_normal(network: nn.Module) -> None:
    """Convolutions N(0, 2 / fan_out), biases 0: keeps the scale of gradients through ReLU layers.

    Source: He et al., "Delving Deep into Rectifiers", 2015, equation 14: the backward case,
    which is torchvision's choice too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
