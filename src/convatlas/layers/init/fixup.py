"""Fixup: deep residual networks without normalisation (Zhang, Dauphin & Ma, 2019).

In a residual network every block adds variance, so that signals and gradients grow with depth; BatchNorm hides it.
Fixup starts all branches at 0, and those layers in them that are not 0 so small that a step of SGD changes the output
equally much at any depth. Scalars stand in for what else BatchNorm does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.init.variance import WeightLayer, finish, he, weight_layers

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Scalar(nn.Module):
    """x * scale + bias with one number each; only the bias with `scale=False`. Any shape, kept."""

    def __init__(self, *, scale: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1)) if scale else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        return (x if self.scale is None else x * self.scale) + self.bias


def residual_branches(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Sequential]]:
    """Each block that adds a branch to its input, and the branch.

    A block tells by its children: `residual`, a Sequential, and `shortcut`, what the branch is added to (None in plain
    networks); or by an attribute `adds` that is true, where the input itself is added.
    """
    for block in network.modules():
        branch = getattr(block, "residual", None)
        adds = (
            isinstance(getattr(block, "shortcut", None), nn.Module) or getattr(block, "adds", False) is True
        )
        if isinstance(branch, nn.Sequential) and adds:
            yield block, branch


def fixup(network: nn.Module) -> None:
    """Exchange BatchNorm for scalars, and initialise so that training does not depend on depth.

    1. The classifier and the last layer of each branch are 0. 2. All other layers are He's, those in branches times
    L^(-1 / (2m - 2)), for L branches of m layers. 3. Before each layer and each activation of a branch stands a bias
    of one number, and at its end a factor. Other BatchNorms become biases too. The authors train the scalars with a
    tenth of the learning rate.

    Parameters and their names change, so this comes before weights are loaded or an optimiser is made. Raises
    `UsageError` for a network without residual branches.

    Source: Zhang, Dauphin & Ma, "Fixup Initialization: Residual Learning Without Normalization", 2019, section 3.
    """
    blocks = list(residual_branches(network))
    if not blocks:
        raise UsageError(
            f"Fixup is for residual networks, and {type(network).__name__} has no residual branches. Take 'lsuv', "
            "which needs no normalisation either."
        )
    like = next(network.parameters())
    for block, branch in blocks:
        block.residual = _with_scalars(branch, last=True)
    for name, module in list(network.named_modules()):
        if isinstance(module, _NORMS):
            network.set_submodule(name, Scalar(scale=False))
    he(network, fan="out")
    for _, branch in residual_branches(network):
        layers = [layer for _, layer in _in_line(branch)]
        for layer in layers[:-1]:
            layer.weight.data.mul_(len(blocks) ** (-1 / (2 * len(layers) - 2)))
        nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(_classifier(network).weight)
    finish(network)
    network.to(like.device, like.dtype).train(network.training)


def _with_scalars(branch: nn.Sequential, *, last: bool) -> nn.Sequential:
    """The same layers, a bias before each of them and in place of each norm; with `last`, a factor at the end."""
    layers = OrderedDict[str, nn.Module]()
    children = list(branch.named_children())
    for i, (name, child) in enumerate(children):
        at_end = last and i == len(children) - 1
        if isinstance(child, _NORMS):
            layers[name] = Scalar(scale=at_end)
            continue
        if isinstance(child, WeightLayer):
            layers[f"{name}_bias"] = Scalar(scale=False)
        layers[name] = _with_scalars(child, last=False) if isinstance(child, nn.Sequential) else child
        if at_end:
            layers["scale"] = Scalar(scale=True)
    return nn.Sequential(layers)


def _in_line(branch: nn.Sequential) -> Iterator[tuple[str, WeightLayer]]:
    """The weight layers that a signal passes one after another; not those of gates beside them."""
    for name, child in branch.named_children():
        if isinstance(child, WeightLayer):
            yield name, child
        elif isinstance(child, nn.Sequential):
            yield from _in_line(child)


def _classifier(network: nn.Module) -> WeightLayer:
    """What the network calls its classifier, or its last weight layer."""
    get = getattr(network, "get_classifier", None)
    found = get() if get is not None else None
    return found if isinstance(found, WeightLayer) else list(weight_layers(network))[-1][1]
