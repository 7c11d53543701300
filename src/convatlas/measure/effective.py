"""The effective receptive field: which pixels a unit really answers to, beside those that it can see.

The theoretical field of a unit is a box; the pixels in its middle reach the unit on many more paths than those at its
border, so that the influence falls off like a Gaussian, and its width grows as the square root of the depth where
the box grows with the depth itself (Luo, Li, Urtasun & Zemel, "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", 2016).

The map is the mean over images of |d(sum over channels of the unit in the middle) / d(pixel)|, summed over the image's
channels, and scaled to the sum 1. Three widths are read from it:

- `fit.sigma`: of the Gaussian that lies nearest to it (least squares), with the share of the map's variance that
  this explains, `fit.quality`;
- `size()`: the square root of the number of pixels above 4.55 % of the largest, which is 1 - 95.45 %, what a Gaussian
  holds within two deviations. It is the paper's measure (section 3.1);
- `side_of()`: the side of the smallest square around the middle that holds 95.45 % of the map.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.errors import UsageError, did_you_mean
from convatlas.hooks import eval_mode, watched
from convatlas.measure.cost import measure
from convatlas.measure.refusals import refusals
from convatlas.measure.trace import trace
from convatlas.models.classifier import Classifier
from convatlas.randomness import preserved

TWO_SIGMA = 0.9545
Array = NDArray[np.float64]
Box = tuple[tuple[float, float], tuple[float, float]]
"""First and last row, first and last column."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """exp(-((y - cy) / sy)^2 / 2 - ((x - cx) / sx)^2 / 2), fitted to a map; in pixels, (y, x).

    Attributes:
        centre: of the fit; 0 is the middle of the first pixel.
        sigma: standard deviations of the fit.
        spread: standard deviations of the map itself, which far pixels widen.
        quality: R^2, the share of the map's variance that the fit explains; 1 is a Gaussian.
    """

    centre: tuple[float, float]
    sigma: tuple[float, float]
    spread: tuple[float, float]
    quality: float


@dataclass(frozen=True, slots=True, eq=False)
class EffectiveField:
    """What the unit in the middle of a layer answers to. `map` is (H, W) over the image and sums to 1.

    `unit` is the position (row, column) in the layer's map; `images` says how many were averaged.
    """

    layer: str
    unit: tuple[int, int]
    images: int
    map: Array
    fit: Gaussian

    def size(self, threshold: float = 1 - TWO_SIGMA) -> float:
        """Square root of the number of pixels above `threshold` times the largest value, in pixels."""
        return math.sqrt(int((self.map > threshold * self.map.max()).sum()))

    def side_of(self, share: float = TWO_SIGMA) -> int:
        """Side of the smallest square of pixels around the map's middle that holds `share` of it."""
        rows, columns = np.indices(self.map.shape)
        middle = [round(each) for each in _moments(self.map)[0]]
        distance = np.maximum(abs(rows - middle[0]), abs(columns - middle[1]))
        held = np.cumsum(np.bincount(distance.ravel(), weights=self.map.ravel()))
        return 2 * int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1

    @property
    def reached(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, first and last column, of the pixels with any influence at all."""
        rows, columns = np.flatnonzero(self.map.any(1)), np.flatnonzero(self.map.any(0))
        return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the map."""
        fit = {
            "centre": list(self.fit.centre),
            "sigma": list(self.fit.sigma),
            "spread": list(self.fit.spread),
            "quality": self.fit.quality,
        }
        return {
            "layer": self.layer,
            "unit": list(self.unit),
            "images": self.images,
            "fit": fit,
            "size_above_4.55_percent": self.size(),
            "side_of_95.45_percent": self.side_of(),
            "reached": [list(ends) for ends in self.reached],
        }


def effective_field(
    model: nn.Module, images: Tensor, layer: str | None = None, *, batch_size: int = 8
) -> EffectiveField:
    """The effective receptive field of the middle unit of a layer, averaged over images (N, C, H, W).

    The pass is in evaluation mode and ends at the layer, so that images may be larger than the head allows. The
    network is given back as it was.

    Args:
        model: any network of images.
        images: ready for the network; `noise` where nothing better is at hand.
        layer: a module's name; the last one with a map of more than one position if None.
        batch_size: images at a time.

    Raises:
        UsageError: there is no such layer, it gives no map, or no pixel has an influence on it.

    Examples:
        >>> three = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(3)))
        >>> for conv in three:
        ...     _ = nn.init.ones_(conv.weight)
        >>> field = effective_field(three, torch.zeros(1, 1, 15, 15), "2")
        >>> field.reached, round(field.fit.spread[0] ** 2, 6)  # a box of 3 has variance 2/3
        (((4, 10), (4, 10)), 2.0)
    """
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images of shape (N, C, H, W) are expected, not {tuple(images.shape)}.")
    if any(tensor.is_meta for tensor in model.parameters()):
        raise UsageError("the network is on the meta device; build it with content to look at its field.")
    name = last_map(model, tuple(images.shape[1:])) if layer is None else layer
    modules = dict(model.named_modules())
    if name not in modules or not name:
        raise UsageError(
            f"{type(model).__name__} has no layer {name!r}.{did_you_mean(name, modules)} `convatlas describe` lists "
            "all of them."
        )
    total = np.zeros(images.shape[2:], np.float64)
    unit = (0, 0)
    with preserved(), eval_mode(model), torch.enable_grad():
        for batch in images.split(batch_size):
            influence, unit = _influence(model, batch, name)
            total += influence.double().cpu().numpy()
    if not np.isfinite(total).all() or not total.sum() > 0:
        raise UsageError(
            f"no pixel has an influence on the middle of {name!r} that is a finite number: its units are dead, or "
            "weights there are 0 or not finite."
        )
    total /= total.sum()
    return EffectiveField(name, unit, len(images), total, fit(total))


def noise(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """`count` images of independent N(0, 1) pixels, (count, *shape), from a generator of their own."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def last_map(model: nn.Module, shape: tuple[int, ...]) -> str:
    """The last module whose output has more than one position along both axes, for images of `shape` (C, H, W).

    Of a classifier of the canon, the last one in `features`: what pools in its head is not looked at.
    """
    room = "features." if isinstance(model, Classifier) else ""
    for call in reversed(trace(model, shape).calls):
        if call.module is not None and call.name and call.name.startswith(room) and call.output is not None:
            sides = call.output.shape[2:]
            if len(sides) == 2 and min(sides) > 1:
                return call.name
    raise UsageError(
        f"no layer of {type(model).__name__} gives a map of more than one position for images of shape {shape}."
    )


def theoretical_box(
    model: nn.Module, shape: tuple[int, ...], layer: str, unit: tuple[int, int]
) -> Box | None:
    """The pixels that a unit can see by the arithmetic of receptive fields, which may lie beyond the image.

    All of the image along an axis that is mixed as a whole. None where an operation is not known.
    """
    rows = [row for row in measure(model, shape).rows if f"{row.name}.".startswith(f"{layer}.")]
    found = next((row.field for row in reversed(rows) if row.field is not None), None)
    if found is None or found.unknown or len(found.spans) != 2:
        return None
    whole = [(0.0, side - 1.0) for side in shape[1:]]
    ends = [
        span.of(place) if span else all_of_it
        for span, place, all_of_it in zip(found.spans, unit, whole, strict=True)
    ]
    return ends[0], ends[1]


class _Reached(Exception):  # noqa: N818
    """The layer has been called; what follows is not needed."""


def _influence(model: nn.Module, batch: Tensor, layer: str) -> tuple[Tensor, tuple[int, int]]:
    """|gradient| summed over images and channels, (H, W), and the unit's position."""
    pixels = batch.detach().clone().requires_grad_()
    caught: list[tuple[Tensor, tuple[int, int]]] = []

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...

    def leave(name: str, module: nn.Module, output: Any) -> None:
        if name == layer:
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise UsageError(
                    f"layer {layer!r} gives no map (N, C, H, W) but {shape}; choose a convolution, a pool or a stage."
                )
            middle = (output.shape[2] // 2, output.shape[3] // 2)
            caught.append((output[:, :, middle[0], middle[1]].sum(), middle))
            raise _Reached

    with refusals(model, (batch,)), suppress(_Reached), watched(model, enter, leave):
        model(pixels)
    if not caught:
        raise UsageError(f"layer {layer!r} is not called in evaluation mode; choose another.")
    centre, unit = caught[0]
    if not centre.requires_grad:
        raise UsageError(f"layer {layer!r} does not depend on the image in a way that has a gradient.")
    (gradient,) = torch.autograd.grad(centre, pixels)
    return gradient.abs().sum((0, 1)), unit


# --- the Gaussian ---------------------------------------------------------------------------------------------------


def _moments(heat: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and standard deviation by axis of a map that sums to 1."""
    centre: list[float] = []
    spread: list[float] = []
    for axis in (0, 1):
        profile = heat.sum(1 - axis)
        places = np.arange(len(profile))
        middle = float(profile @ places)
        centre.append(middle)
        spread.append(math.sqrt(max(float(profile @ (places - middle) ** 2), 0.0)))
    return (centre[0], centre[1]), (spread[0], spread[1])


def fit(heat: Array, rounds: int = 200) -> Gaussian:
    """The Gaussian nearest to a map (H, W) that sums to 1, by least squares (Levenberg, 1944; Marquardt, 1963).

    It begins at the map's centre, with the width of what lies above half of the largest value.
    """
    centre, spread = _moments(heat)
    values = heat / heat.max()
    half = math.sqrt(int((values > 0.5).sum()) / (2 * math.pi * math.log(2)))
    at = np.array([1.0, *centre, math.log(half), math.log(half)])
    y, x = np.indices(values.shape).reshape(2, -1).astype(np.float64)
    target, damping = values.ravel(), 1e-3
    found, slopes = _gaussian(at, y, x)
    loss = float(((target - found) ** 2).sum())
    for _ in range(rounds):
        normal, pull = slopes.T @ slopes, slopes.T @ (target - found)
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), pull)
        tried, tried_slopes = _gaussian(at + step, y, x)
        tried_loss = float(((target - tried) ** 2).sum())
        if tried_loss > loss:
            damping *= 10
            if damping > 1e12:
                break
            continue
        at, found, slopes, gain, loss = at + step, tried, tried_slopes, loss - tried_loss, tried_loss
        damping = max(damping / 10, 1e-12)
        if gain <= 1e-14 * loss:
            break
    variance = float(((target - target.mean()) ** 2).sum())
    quality = 1 - loss / variance if variance else 0.0
    sigma = (math.exp(float(at[3])), math.exp(float(at[4])))
    return Gaussian((float(at[1]), float(at[2])), sigma, spread, quality)


def _gaussian(at: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """Values at all pixels, and their slopes by height, centre (y, x) and log sigma (y, x): (pixels, 5)."""
    height, cy, cx = at[:3]
    sy, sx = np.exp(np.clip(at[3:], -20, 20))
    u, v = (y - cy) / sy, (x - cx) / sx
    shape = np.exp(-(u * u + v * v) / 2)
    values = height * shape
    return values, np.stack([shape, values * u / sy, values * v / sx, values * u * u, values * v * v], axis=1)
