"""Initialisations that choose a variance from the shape of a layer. All work on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from torch import nn

from convatlas.errors import UsageError

WeightLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def weight_layers(network: nn.Module) -> Iterator[tuple[str, WeightLayer]]:
    """Name and module of every convolution and linear layer; one that hangs in the network twice comes once."""
    for name, module in network.named_modules():
        if isinstance(module, WeightLayer):
            yield name, module


def fans(layer: WeightLayer) -> tuple[int, int]:
    """Connections of one output number and of one input number, those that groups leave out not counted.

    Examples:
        >>> fans(nn.Conv2d(8, 16, 3)), fans(nn.Conv2d(8, 16, 3, groups=8)), fans(nn.Linear(5, 7))
        ((72, 144), (9, 18), (5, 7))
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    pixels = math.prod(layer.kernel_size)
    return layer.in_channels // layer.groups * pixels, layer.out_channels // layer.groups * pixels


def finish(network: nn.Module) -> None:
    """Biases 0, but where a layer's paper asks for another start: such a module has a method `own_start`."""
    for _, layer in weight_layers(network):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for module in network.modules():
        if hasattr(module, "own_start"):
            module.own_start()  # pyright: ignore[reportCallIssue]


def constant(network: nn.Module, *, value: float = 0.01) -> None:
    """All weights `value`: all units of a layer compute the same, get the same gradient, and stay the same."""
    for _, layer in weight_layers(network):
        nn.init.constant_(layer.weight, value)
    finish(network)


def small_gaussian(network: nn.Module, *, std: float = 0.01) -> None:
    """Weights N(0, std^2) in every layer: as AlexNet (0.01) and VGG (0.1) were trained.

    Raises `UsageError` for a deviation below 0.
    """
    if std < 0:
        raise UsageError(f"std={std!r} came; a deviation is 0 or more.")
    for _, layer in weight_layers(network):
        nn.init.normal_(layer.weight, std=std)
    finish(network)


def xavier(
    network: nn.Module,
    *,
    distribution: Literal["uniform", "normal"] = "uniform",
    fan: Literal["both", "in"] = "both",
    gain: float = 1.0,
) -> None:
    """Weights of variance gain^2 * 2 / (fan_in + fan_out): keeps the scale of signals and gradients in tanh networks.

    With `fan="in"` the variance is gain^2 / fan_in, which lectures write as randn / sqrt(Din).

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
    equations 12 and 16.
    """
    for _, layer in weight_layers(network):
        fan_in, fan_out = fans(layer)
        variance = gain**2 * (1 / fan_in if fan == "in" else 2 / (fan_in + fan_out))
        _fill(layer, variance, distribution)
    finish(network)


def he(
    network: nn.Module,
    *,
    fan: Literal["in", "out"] = "in",
    distribution: Literal["uniform", "normal"] = "normal",
    slope: float = 0.0,
) -> None:
    """Weights of variance 2 / (1 + slope^2) / fan: keeps the scale of signals (in) or of gradients (out) through ReLU.

    `slope` is that of a leaky ReLU below 0.

    Source: He et al., "Delving Deep into Rectifiers", 2015, equations 10, 14 and 15.
    """
    for _, layer in weight_layers(network):
        connections = fans(layer)[0 if fan == "in" else 1]
        _fill(layer, 2 / (1 + slope**2) / connections, distribution)
    finish(network)


def _fill(layer: WeightLayer, variance: float, distribution: str) -> None:
    if distribution == "normal":
        nn.init.normal_(layer.weight, std=math.sqrt(variance))
    else:
        bound = math.sqrt(3 * variance)
        nn.init.uniform_(layer.weight, -bound, bound)


# --- what families start with -----------------------------------------------------------------------------


def glorot_uniform(network: nn.Module) -> None:
    """Weights of variance 2 / (fan_in + fan_out), biases 0: see `xavier`."""
    for _, layer in weight_layers(network):
        nn.init.xavier_uniform_(layer.weight)
    finish(network)


def he_normal(network: nn.Module, *, per_group: bool = False) -> None:
    """Convolutions N(0, 2 / fan_out), biases 0: keeps the scale of gradients through ReLU layers.

    Linear layers stay as they are. In grouped convolutions the fan-out counts connections that do not exist;
    torchvision does so too. `per_group` divides it by the groups: depthwise filters then start about sqrt(C) times as
    large, as EfficientNet's authors have them.

    Source: He et al., "Delving Deep into Rectifiers", 2015, equation 14: the backward case, which is torchvision's
    choice too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            groups = module.groups if per_group else 1
            fan_out = module.out_channels // groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
