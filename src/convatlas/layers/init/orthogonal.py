"""Orthogonal matrices: a deep linear network that turns signals and does not stretch them (Saxe et al., 2013)."""

from __future__ import annotations

from torch import nn

from convatlas.layers.init.variance import finish, weight_layers


def orthogonal(network: nn.Module, *, gain: float = 1.0) -> None:
    """Weights with W W^T = gain^2 I, or W^T W where W has more rows than columns, biases 0.

    W is the layer's matrix (outputs, inputs), of a convolution (outputs, inputs * pixels of the kernel). Groups are
    orthogonal each by itself. All singular values are equal to `gain` (dynamical isometry), not only so on average.

    Source: Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", 2013, section 3.
    """
    for _, layer in weight_layers(network):
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        for weight in layer.weight.data.chunk(groups):
            nn.init.orthogonal_(weight, gain)
    finish(network)
