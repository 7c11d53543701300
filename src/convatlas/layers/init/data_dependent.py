"""Data-dependent initialisation: unit variance of every channel, and all layers learning equally fast.

Two steps, after Kraehenbuehl, Doersch, Donahue & Darrell, 2015. Within a layer: filters, random or learnt from the
layer's input, are scaled until each output channel has mean 0 and variance 1 on a batch (algorithm 1). Between layers:
weights are scaled against each other until the gradient, relative to the weights, is equally large in all layers, so
that one learning rate suits all of them (algorithm 2).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.init.in_order import channels, checked, in_order, normalised
from convatlas.layers.init.variance import WeightLayer, small_gaussian, weight_layers

Filters = Literal["random", "pca", "kmeans"]
PATCHES = 1024  # of a layer's input, that filters are learnt from
ENOUGH = 1e-6  # of the largest variance: directions that vary less are noise
VARIES = 1e-4  # of the deviation that independent inputs would give: a channel that varies less is constant


def data_dependent(
    network: nn.Module,
    batch: Tensor,
    *,
    filters: Filters = "random",
    bias: float = 0.0,
    damping: float = 0.5,
    rounds: int = 50,
    tolerance: float = 0.01,
) -> None:
    """Normalise every channel on images (N, C, H, W), then equalise the rates of change of all layers.

    The scale of the network's output stays where the layers are homogeneous (ReLU, pooling); other nonlinearities are
    corrected round by round. A layer that goes into BatchNorm is left out of the second step: in training its scale
    does not matter.

    Args:
        network: changed in place.
        batch: images, ready for the network.
        filters: "random", Gaussian; "pca", principal components of the input's patches, whitened; "kmeans", their
            clusters.
        bias: the mean of every channel, beta of the paper.
        damping: alpha of algorithm 2, which has 0.25: the share of a layer's distance that a round goes. 1 is enough
            where all layers are homogeneous.
        rounds: at most so many of algorithm 2.
        tolerance: it ends where all rates are so near to their mean, relatively.

    Raises:
        UsageError: where the batch does not go through, or an output does not vary.
    """
    if filters not in ("random", "pca", "kmeans"):
        raise UsageError(f"filters={filters!r} are not known; 'random', 'pca' and 'kmeans' are.")
    small_gaussian(network, std=1.0)
    fixed = _with_own_start(network)

    def normalise(name: str, layer: WeightLayer, x: Tensor) -> None:
        if filters != "random" and not isinstance(layer, nn.ConvTranspose2d):
            layer.weight.copy_(_learnt(layer, x, filters))
        outputs = channels(layer.forward(x))
        deviation = checked(name, outputs.std(1))
        shape = (1, -1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1)
        _refuse_constant(name, layer, x, deviation)
        layer.weight.div_(deviation.view(*shape, *(1,) * (layer.weight.ndim - 2)))
        if layer.bias is not None and id(layer) not in fixed:
            layer.bias.copy_(bias - outputs.mean(1) / deviation)

    with torch.no_grad():
        in_order(network, batch, normalise)
    equalise(network, batch, damping=damping, rounds=rounds, tolerance=tolerance)


def rates_of_change(network: nn.Module, batch: Tensor, top: Tensor) -> dict[str, float]:
    """By layer, the root mean square of the gradient over that of the weights, for the output's gradient `top`.

    Layers without a gradient are left out. Source: section 3, equation 5; in one number a layer, as the authors' code.
    """
    layers = {name: layer for name, layer in weight_layers(network) if layer.weight.requires_grad}
    with torch.enable_grad():
        output = in_order(network, batch, lambda name, layer, x: None)
        found = torch.autograd.grad(
            output, [layer.weight for layer in layers.values()], top, allow_unused=True
        )
    rates: dict[str, float] = {}
    for (name, layer), gradient in zip(layers.items(), found, strict=True):
        if gradient is not None and bool(gradient.any()):  # pyright: ignore[reportUnnecessaryComparison]
            rates[name] = float(
                gradient.square().mean().sqrt() / layer.weight.detach().square().mean().sqrt()
            )
    return rates


def equalise(network: nn.Module, batch: Tensor, *, damping: float, rounds: int, tolerance: float) -> None:
    """Scale weights until all layers without BatchNorm after them have the same rate of change (algorithm 2).

    In a homogeneous network a layer that is scaled by s changes its own rate by 1 / s^2 as against all others, so
    s = sqrt(rate / mean). The mean is the geometric one, and the product of all s is 1: the output keeps its scale.
    Biases follow the scale of what they are added to. Where the rounds end before the tolerance is met, the weights of
    the best one stay.
    """
    with torch.no_grad():
        arriving: dict[str, float] = {}

        def note(name: str, layer: WeightLayer, x: Tensor) -> None:
            arriving[name] = float(x.abs().mean())

        without = normalised(network, batch)
        top = torch.randn_like(in_order(network, batch, note))
    fixed, worst, least = _with_own_start(network), math.inf, math.inf
    layers = [layer for _, layer in weight_layers(network)]
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias) if tensor is not None]
    best = [tensor.detach().clone() for tensor in tensors]
    for done in range(rounds + 1):
        rates = {
            name: rate for name, rate in rates_of_change(network, batch, top).items() if name not in without
        }
        if len(rates) < 2:
            break
        logs = torch.tensor(list(rates.values()), dtype=torch.float64).log()
        off = dict(zip(rates, (logs - logs.mean()).tolist(), strict=True))
        before, worst = worst, max(map(abs, off.values()))
        if worst < tolerance:
            return
        if worst < least:
            least, best = worst, [tensor.detach().clone() for tensor in tensors]
        if done == rounds:
            break
        if worst > before:  # gates and squashing functions can answer more than a layer was scaled
            damping /= 2

        def rescale(
            name: str, layer: WeightLayer, x: Tensor, off: dict[str, float] = off, damping: float = damping
        ) -> None:
            now = float(x.abs().mean())
            factor = math.exp(damping * max(-1.0, min(1.0, off.get(name, 0.0) / 2)))
            layer.weight.mul_(factor)
            if layer.bias is not None and id(layer) not in fixed and arriving[name] > 0:
                layer.bias.mul_(factor * now / arriving[name])
            arriving[name] = now

        with torch.no_grad():
            in_order(network, batch, rescale)
    with torch.no_grad():
        for tensor, kept in zip(tensors, best, strict=True):
            tensor.copy_(kept)


def _refuse_constant(name: str, layer: WeightLayer, x: Tensor, deviation: Tensor) -> None:
    """Raises `UsageError` for a channel whose deviation is rounding, or that of a single image.

    So it is where a depthwise filter sees a map that has died, or that answers to one patch alone. To divide by it
    would make weights that amplify other images a million times.
    """
    filters = layer.weight.flatten(1) if not isinstance(layer, nn.ConvTranspose2d) else layer.weight.flatten()
    norms = filters.norm(dim=-1)
    constant = int((deviation < VARIES * norms * x.square().mean().sqrt()).sum())
    if constant:
        raise UsageError(
            f"{constant} of {len(deviation)} channels of {name!r} hardly vary on these {len(x)} images: "
            "give more images, or such as vary more."
        )


def _with_own_start(network: nn.Module) -> set[int]:
    """Layers whose biases the paper fixes."""
    owners = [module for module in network.modules() if hasattr(module, "own_start")]
    return {id(layer) for owner in owners for _, layer in weight_layers(owner)}


# --- filters from patches ---------------------------------------------------------------------------------


def _learnt(layer: nn.Conv2d | nn.Linear, x: Tensor, filters: str) -> Tensor:
    """Weights in the shape of the layer's, group by group."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    wanted = layer.weight.shape[0] // groups
    found = [_directions(patches, wanted, filters) for patches in _patches(layer, x)]
    return torch.cat(found).view_as(layer.weight)


def _patches(layer: nn.Conv2d | nn.Linear, x: Tensor) -> list[Tensor]:
    """What an output number of the layer sees, at random places, for each group: (patches, fan-in), centred."""
    if isinstance(layer, nn.Linear):
        every = [x.flatten(0, -2)]
    else:
        padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
        columns = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)  # pyright: ignore[reportArgumentType]
        every = list(columns.transpose(1, 2).flatten(0, 1).chunk(layer.groups, dim=1))
    chosen = torch.randperm(every[0].shape[0], device=x.device)[:PATCHES]
    return [patches[chosen] - patches[chosen].mean(0) for patches in every]


def _directions(patches: Tensor, wanted: int, filters: str) -> Tensor:
    """`wanted` filters, (wanted, fan-in): as many as the patches can tell apart, and random ones for the rest."""
    _, spread, directions = torch.linalg.svd(patches / len(patches) ** 0.5, full_matrices=False)
    kept = spread > ENOUGH**0.5 * spread[0].clamp(min=torch.finfo(spread.dtype).tiny)
    whiten = directions[kept].T / spread[kept]  # (fan-in, directions): patches @ whiten has covariance 1
    if filters == "pca":
        found = whiten.T[:wanted]  # the strongest first
    else:
        centres = _kmeans(F.normalize(patches @ whiten, dim=1), wanted)
        found = centres @ whiten.T
    rest = torch.randn(wanted - len(found), patches.shape[1], dtype=patches.dtype, device=patches.device)
    return torch.cat((found, rest))


def _kmeans(points: Tensor, clusters: int, rounds: int = 10) -> Tensor:
    """Centres of directions (points, dimensions), each of length 1: (clusters or as many as points, dimensions)."""
    centres = points[torch.randperm(len(points), device=points.device)[:clusters]]
    for _ in range(rounds):
        nearest = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        empty = sums.norm(dim=1, keepdim=True) == 0
        centres = torch.where(empty, centres, F.normalize(sums, dim=1))
    return centres
