"""The papers' initialisations, applied to every layer of a network. All work on the meta device."""

from __future__ import annotations

from torch import nn


def glorot_uniform(network: nn.Module) -> None:
    """Weights of variance 2 / (fan_in + fan_out), biases 0: keeps the scale of signals through tanh layers.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, eq. 16.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def he_normal(network: nn.Module) -> None:
    """Convolutions N(0, 2 / fan_out), biases 0: keeps the scale of gradients through ReLU layers.

    Source: He et al., "Delving Deep into Rectifiers", 2015, eq. 14 (the backward case; torchvision's choice too).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def gaussian(
    network: nn.Module, std: float, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
) -> None:
    """Weights N(0, std^2) of one scale for every layer of these kinds, biases 0."""
    for module in network.modules():
        if isinstance(module, kinds) and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
