"""Random walk initialisation: the length of a gradient may wander with depth, but must not drift.

Going back through a layer multiplies the squared length of the gradient by a random factor. Its logarithm is a step of
a random walk, and He's factor makes the mean of the factor 1, not that of its logarithm, which is less (Jensen). With
a slightly larger scale g the walk is unbiased, and networks of hundreds of layers keep their gradients.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.init.variance import fans, finish, weight_layers


def scale(n: int, nonlinearity: Literal["relu", "linear"]) -> float:
    """The factor g for layers of `n` units: exp(1 / 2n), or sqrt(2) exp(1.2 / (max(n, 6) - 2.4)) with ReLU.

    Raises `UsageError` for another nonlinearity.

    Examples:
        >>> round(scale(100, "linear"), 4), round(scale(100, "relu"), 4)
        (1.005, 1.4317)
    """
    if nonlinearity == "linear":
        return math.exp(1 / (2 * n))
    if nonlinearity == "relu":
        return math.sqrt(2) * math.exp(1.2 / (max(n, 6) - 2.4))
    raise UsageError(f"nonlinearity={nonlinearity!r} is not known; 'relu' and 'linear' are.")


def random_walk(network: nn.Module, *, nonlinearity: Literal["relu", "linear"] = "relu") -> None:
    """Weights N(0, g^2 / n), biases 0.

    The paper has layers of equal width n. Where they differ, n is the fan-in: then it is the length of the whole
    gradient that keeps its size, and of a convolution's, too.

    Source: Sussillo & Abbott, "Random Walk Initialization for Training Very Deep Feedforward Networks", 2014,
    equations 6, 12 and 13.
    """
    for _, layer in weight_layers(network):
        n, _ = fans(layer)
        nn.init.normal_(layer.weight, std=scale(n, nonlinearity) / math.sqrt(n))
    finish(network)
