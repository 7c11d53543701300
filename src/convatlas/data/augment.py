"""Augmentation: one code, by the batch, on uint8 (N, C, H, W).

Every number that an operation draws is `uniform(seed, epoch, ids, stream)`: how a sample looks in an epoch
depends on nothing else, not on its neighbours in the batch, on the number of workers, nor on the step at
which a run was taken up again. Mixing two samples is the exception by nature, and a function of
(seed, epoch, step). No generator has a state; every operation is a pure function.

The order is: crop, flip, affine, colour shift, TrivialAugment, erasing, a smaller side; then normalisation; then mixup
or CutMix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data import colour, trivial, warp
from convatlas.errors import UsageError
from convatlas.randomness import generator, uniform

Crop = Literal["none", "shift", "resized", "scale-jitter"]

RESIZED_ATTEMPTS = 10  # of Inception's crop, before it falls back to the centre
JITTER_CROP = 224  # px: the crop that the numbers of `scale_jitter` are meant for
ERASED_AREA = (0.02, 0.4)  # Zhong et al.: s_l and s_h of the experiments on CIFAR
ERASED_RATIO = (0.3, 1 / 0.3)  # r_1 and r_2
ERASING_ATTEMPTS = 10
_NOISE_BYTES = 1 << 20


@dataclass(frozen=True)
class Augment:
    """What happens to a training picture, and how strongly. The default does nothing.

    Attributes:
        crop: "shift" moves by up to `shift_px` pixels, the same as padding and cutting at random (He et
            al. 2015, CIFAR); "resized" cuts a random area and ratio and resizes it (Szegedy et al. 2014,
            section 6); "scale-jitter" resizes the shorter side to a random length and cuts a window of the
            network's size (Simonyan & Zisserman 2014, section 3.1).
        shift_px: Largest shift, pixels.
        resized_scale: Range of the share of the area that "resized" keeps.
        resized_ratio: Range of its width over height.
        scale_jitter: Range of the shorter side in pixels for a window of 224; for another window in proportion.
        flip: Mirror left and right with probability 1/2.
        alternate_flip: With `flip`: half of the pictures are mirrored in epoch 0, and each of them in every
            other epoch, so that two epochs show both sides of every picture (Jordan 2024, section 3.6).
        affine: (max degrees, max scale change, max degrees of shear) about the centre, bilinear.
        edge: What "shift" and `affine` find outside the picture: "zero" or "reflect".
        pca: Standard deviation of the colour shift along `components` (Krizhevsky et al. 2012); 0 is off.
        components: Of the training pixels, from `colour.components`; needed when `pca` is on.
        trivial: TrivialAugment, wide (Müller & Hutter 2021).
        erasing: Probability that a random rectangle becomes noise (Zhong et al. 2017).
        mixup: Alpha of mixup (Zhang et al. 2017); 0 is off.
        cutmix: Alpha of CutMix (Yun et al. 2019); 0 is off. With both on, a batch gets one of them.
        sides: (first epoch, side in pixels) in rising order: smaller pictures, which cost less; before the
            first, and with a side that is not smaller than the picture's, it stays as it is.
        shrink: How: "window" cuts out the middle, "resample" shows all of it with fewer pixels.

    Raises:
        UsageError: A value makes no sense.
    """

    crop: Crop = "none"
    shift_px: int = 4
    resized_scale: tuple[float, float] = (0.35, 1.0)
    resized_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    scale_jitter: tuple[int, int] = (256, 512)
    flip: bool = False
    alternate_flip: bool = False
    affine: tuple[float, float, float] | None = None
    edge: warp.Edge = "zero"
    pca: float = 0.0
    components: colour.Components = ()
    trivial: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    sides: tuple[tuple[int, int], ...] = ()
    shrink: warp.Shrink = "window"

    def __post_init__(self) -> None:
        low, high = self.resized_scale
        thin, wide = self.resized_ratio
        short, long = self.scale_jitter
        for wrong, expected in (
            (
                self.crop not in ("none", "shift", "resized", "scale-jitter"),
                "crop is none, shift, resized or scale-jitter",
            ),
            (self.shift_px < 0, "shift_px is at least 0"),
            (not 0 < low <= high <= 1, "resized_scale is a range inside (0, 1]"),
            (not 0 < thin <= wide < math.inf, "resized_ratio is a range of positive numbers"),
            (
                not JITTER_CROP <= short <= long,
                f"scale_jitter is a range of whole numbers from {JITTER_CROP} up",
            ),
            (
                self.affine is not None
                and not (0 <= self.affine[0] <= 180 and 0 <= self.affine[1] < 1 and 0 <= self.affine[2] < 90),
                "affine is (degrees up to 180, scale change below 1, shear degrees below 90)",
            ),
            (self.edge not in ("zero", "reflect"), "edge is zero or reflect"),
            (self.shrink not in ("window", "resample"), "shrink is window or resample"),
            (
                any(side < 1 for _, side in self.sides) or list(self.sides) != sorted(self.sides),
                "sides are (first epoch, side of at least 1 pixel) in rising order",
            ),
            (
                self.pca < 0 or (self.pca > 0 and not self.components),
                "pca is at least 0, and needs components",
            ),
            (not 0 <= self.erasing <= 1, "erasing is a probability"),
            (
                not (0 <= self.mixup < math.inf and 0 <= self.cutmix < math.inf),
                "mixup and cutmix are at least 0",
            ),
        ):
            if wrong:
                raise UsageError(f"this augmentation makes no sense: {expected}; found {self}")

    @property
    def resamples(self) -> bool:
        """Whether the crop is a box that is resized, and so is best cut from the full-size picture."""
        return self.crop in ("resized", "scale-jitter")

    @property
    def mixes(self) -> bool:
        """Whether batches come with a partner and a weight."""
        return self.mixup > 0 or self.cutmix > 0

    def boxes(
        self,
        sizes: NDArray[np.int64],
        out_size: tuple[int, int],
        seed: int,
        epoch: int,
        ids: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """What part of each picture to take: sizes (N, 2) as width, height -> boxes (N, 4) xyxy, source pixels.

        For a crop that resamples; `out_size` is (H, W). The same box for the same picture size,
        wherever it is cut.
        """
        sides = sizes.astype(np.float64)
        if self.crop == "resized":
            return self._resized_boxes(sides, seed, epoch, ids)
        if self.crop == "scale-jitter":
            return self._jittered_boxes(sides, out_size, seed, epoch, ids)
        raise UsageError(f"the crop {self.crop!r} cuts no boxes; only resized and scale-jitter do")

    def _resized_boxes(
        self, sizes: NDArray[np.float64], seed: int, epoch: int, ids: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Inception's law: area uniform, ratio log-uniform, whole pixels; the first of ten that fits."""
        u = uniform(seed, epoch, ids, "resized", 2 * RESIZED_ATTEMPTS + 2)
        tries = slice(0, RESIZED_ATTEMPTS), slice(RESIZED_ATTEMPTS, 2 * RESIZED_ATTEMPTS)
        width, height = sizes[:, :1], sizes[:, 1:]
        area = width * height * _between(u[:, tries[0]], *self.resized_scale)
        thin, wide = (math.log(ratio) for ratio in self.resized_ratio)
        ratio = np.exp(_between(u[:, tries[1]], thin, wide))
        w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first, each = fits.argmax(axis=1), np.arange(len(sizes))
        found = fits[each, first]
        width, height = sizes.T
        # none fits in a picture of an extreme shape: the largest centred box with a permitted ratio
        clipped = np.clip(width / height, *self.resized_ratio)
        w = np.where(found, w[each, first], np.minimum(width, np.maximum(np.rint(height * clipped), 1)))
        h = np.where(found, h[each, first], np.minimum(height, np.maximum(np.rint(width / clipped), 1)))
        x0 = np.where(found, np.floor(u[:, -2] * (width - w + 1)), np.floor((width - w) / 2))
        y0 = np.where(found, np.floor(u[:, -1] * (height - h + 1)), np.floor((height - h) / 2))
        return np.stack([x0, y0, x0 + w, y0 + h], axis=1)

    def _jittered_boxes(
        self,
        sizes: NDArray[np.float64],
        out_size: tuple[int, int],
        seed: int,
        epoch: int,
        ids: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """VGG's law: shorter side to S, uniform whole numbers, then a window anywhere on whole pixels."""
        u = uniform(seed, epoch, ids, "scale-jitter", 3)
        low, high = self.scale_jitter
        jitter = np.minimum(low + np.floor(u[:, 0] * (high - low + 1)), high) / JITTER_CROP
        # for a square window S = jitter x its side; for an oblong one both sides must fit at jitter = 1
        scale = jitter * np.maximum(out_size[1] / sizes[:, 0], out_size[0] / sizes[:, 1])
        window = np.array([out_size[1], out_size[0]], dtype=np.float64)
        room = np.rint(sizes * scale[:, None]) - window
        start = np.floor(u[:, 1:] * (np.maximum(room, 0) + 1)) / scale[:, None]
        side = np.minimum(window / scale[:, None], sizes)
        start = np.minimum(start, sizes - side)
        return np.concatenate([start, start + side], axis=1)

    def __call__(self, images: torch.Tensor, seed: int, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
        """All but the resampling crop and the mixing: uint8 (N, C, H, W) -> uint8, a new tensor.

        The shape stays, but where `sides` has a smaller one for this epoch.
        """
        if self.crop == "shift" or self.affine is not None or self.pca or self.trivial or self.erasing:
            # these work plane by plane; mirroring alone is as fast with channels last
            images = images.contiguous()
        if self.crop == "shift" and self.shift_px:
            span = 2 * self.shift_px + 1
            by = np.floor(uniform(seed, epoch, ids, "shift", 2) * span).astype(np.int64) - self.shift_px
            images = warp.shift(images, by, self.edge)
        if self.flip:
            images = warp.flip(images, self._mirrored(seed, epoch, ids))
        if self.affine is not None:
            height, width = images.shape[2:]
            maps = self._maps(height, width, seed, epoch, ids)
            images = warp.bilinear(images, torch.from_numpy(maps).to(images.device), self.edge)
        if self.pca:
            images = colour.shift(images, self.components, self.pca, seed, epoch, ids)
        if self.trivial:
            images = trivial.augment(images, seed, epoch, ids)
        if self.erasing:
            images = self._erase(images, seed, epoch, ids)
        side = next((side for first, side in reversed(self.sides) if epoch >= first), 0)
        return warp.smaller(images, side, self.shrink) if side else images

    def _mirrored(self, seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pictures are mirrored, (N,)."""
        if self.alternate_flip:
            return (uniform(seed, 0, ids, "flip")[:, 0] < 0.5) ^ (epoch % 2 == 1)
        return uniform(seed, epoch, ids, "flip")[:, 0] < 0.5

    def _maps(
        self, height: int, width: int, seed: int, epoch: int, ids: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Turn, scale and shear about the centre: maps (N, 6) from output to input pixels."""
        assert self.affine is not None  # noqa: S101
        degrees, scaling, shear = self.affine
        u = 2 * uniform(seed, epoch, ids, "affine", 3) - 1
        angle, tilt = np.deg2rad(u[:, 0] * degrees), np.tan(np.deg2rad(u[:, 2] * shear))
        grow = 1 / (1 + u[:, 1] * scaling)
        cos, sin = np.cos(angle) * grow, np.sin(angle) * grow
        a, b, d, e = cos, cos * tilt + sin, -sin, cos - sin * tilt
        return warp.about_centre(np.stack([a, b, d, e], axis=1), height, width)

    def _erase(self, images: torch.Tensor, seed: int, epoch: int, ids: NDArray[np.int64]) -> torch.Tensor:
        """Random erasing with noise (Zhong's RE-R): a rectangle of random area, ratio and place."""
        count, channels, height, width = images.shape
        n = ERASING_ATTEMPTS
        u = uniform(seed, epoch, ids, "erasing", 2 * n + 4)
        area = height * width * _between(u[:, :n], *ERASED_AREA)
        ratio = _between(u[:, n : 2 * n], *ERASED_RATIO)  # height / width; uniform, as algorithm 1 has it
        h, w = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (h >= 1) & (h < height) & (w >= 1) & (w < width)
        first, each = fits.argmax(axis=1), np.arange(count)
        h, w = h[each, first], w[each, first]
        chosen = (u[:, -1] < self.erasing) & fits[each, first]
        y0, x0 = np.floor(u[:, -4] * (height - h + 1)), np.floor(u[:, -3] * (width - w + 1))
        start = np.floor(u[:, -2] * _NOISE_BYTES).astype(np.int64)
        images = images.clone()
        noise = _noise(seed).to(images.device)
        for i in chosen.nonzero()[0]:
            rows, columns = slice(int(y0[i]), int(y0[i] + h[i])), slice(int(x0[i]), int(x0[i] + w[i]))
            place = images[i, :, rows, columns]
            index = (torch.arange(place.numel(), device=images.device) + int(start[i])) % _NOISE_BYTES
            place.copy_(noise[index].view(channels, *place.shape[1:]))
        return images

    def mix(
        self, images: torch.Tensor, seed: int, epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mixup or CutMix of normalised float images (N, C, H, W): (images, partner (N,), weight (N,)).

        The target of sample i is `weight[i] y[i] + (1 - weight[i]) y[partner[i]]`. One lambda, from
        Beta(alpha, alpha), serves the batch; CutMix's is corrected to the area that was really kept.
        """
        count, _, height, width = images.shape
        random = generator(seed, epoch, step, "mix")
        partner = torch.from_numpy(random.permutation(count)).to(images.device)
        cutmix = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        alpha = self.cutmix if cutmix else self.mixup
        weight = float(random.beta(alpha, alpha))
        if cutmix:
            x0, y0, x1, y1 = _cutmix_box(weight, width, height, random)
            mixed = images.clone()
            mixed[:, :, y0:y1, x0:x1] = images[:, :, y0:y1, x0:x1].index_select(0, partner)
            weight = 1 - (x1 - x0) * (y1 - y0) / (width * height)
        else:
            other = images.index_select(0, partner).mul_(1 - weight)
            mixed = images.mul(weight).add_(other)
        return mixed, partner, torch.full((count,), weight, device=images.device)


def _between(u: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + u * (high - low)


def _cutmix_box(
    weight: float, width: int, height: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Yun et al., equation 2: a box of area 1 - weight about a uniform centre, cut off at the border."""
    share = math.sqrt(1 - weight)
    w, h = int(width * share), int(height * share)
    x, y = int(random.integers(width)), int(random.integers(height))
    x0, y0 = max(x - w // 2, 0), max(y - h // 2, 0)
    return x0, y0, min(x - w // 2 + w, width), min(y - h // 2 + h, height)


@lru_cache(maxsize=4)
def _noise(seed: int) -> torch.Tensor:
    """Bytes that erased rectangles take their pixels from, each from a place of its own."""
    return torch.from_numpy(generator(seed, "erasing").integers(0, 256, _NOISE_BYTES, dtype=np.uint8))
