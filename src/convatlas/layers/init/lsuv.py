"""LSUV: orthonormal weights, then unit variance layer by layer on real images (Mishkin & Matas, 2015).

A formula for the variance has to assume an activation and independent inputs. Instead of assuming, measure: send a
batch through the network, and divide each layer's weights by the deviation of what comes out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convatlas.layers.init.in_order import checked, in_order
from convatlas.layers.init.orthogonal import orthogonal
from convatlas.layers.init.variance import WeightLayer


@torch.no_grad()
def lsuv(network: nn.Module, batch: Tensor, *, tolerance: float = 0.1, rounds: int = 10) -> None:
    """Outputs of all layers with variance 1, within `tolerance`, on images (N, C, H, W); biases 0.

    The variance is that of all numbers of a layer's output, before its activation function, in evaluation mode.
    Layers that evaluation does not use, such as auxiliary heads, keep their orthonormal weights.

    Args:
        network: changed in place.
        batch: images, ready for the network.
        tolerance: Tol_var of the paper's algorithm 1, which has 0.1.
        rounds: T_max; a layer is linear in its weights, and one is enough but for rounding.

    Raises:
        UsageError: where the batch does not go through, or an output does not vary.
    """
    orthogonal(network)

    def unit_variance(name: str, layer: WeightLayer, x: Tensor) -> None:
        for _ in range(rounds):
            deviation = checked(name, layer.forward(x).std())
            layer.weight.div_(deviation)
            if abs(float(deviation) ** 2 - 1) < tolerance:
                return

    in_order(network, batch, unit_variance)
