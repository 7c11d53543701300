"""From a decoded picture of any size to the numbers that a network reads.

One geometry, `Preprocessing.fit`, serves training, evaluation and prediction, so that a network never
meets pictures prepared in two ways. It is saved with the weights. All resampling is Pillow's
antialiased filter on 8-bit pixels: uint8 in, uint8 out.

    crop     the shorter side to size / crop_ratio, then the centre: nothing is distorted, borders are lost
    pad      the longer side to size, then a border of `fill`: nothing is lost, nothing is distorted
    squash   both sides to size: nothing is lost, the aspect ratio is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from convatlas.errors import BadCheckpoint, UsageError
from convatlas.randomness import generator

Resize = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic"]

MAX_SIDE = 8192  # of a network's input: a larger one in a file is damage or malice
PAD_WITHOUT_RESAMPLING = 1.25  # a picture at most this much smaller than the target keeps its pixels
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_IN_CACHE = 1 << 19  # numbers that are worked on at a time: 2 MiB of float32
_SERIAL = 1 << 15  # numbers that PyTorch gives to one thread
_REDUCING_GAP = 3.0  # shrink by whole factors first, down to 3x the target: not to be told from a single pass


class Images(Protocol):
    """What this room asks of a split: named, labelled pictures that can be decoded one by one."""

    @property
    def keys(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def labels(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def ids(self) -> NDArray[np.int64]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def image(self, i: int, /) -> NDArray[np.uint8]: ...  # noqa: D102


def resample(
    image: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    """The part `box` (xyxy, source pixels, fractions allowed) of (H, W, C) as (size[0], size[1], C).

    Antialiased when it shrinks. The filter reads pixels outside the box where there are any, so a
    part of a picture looks like the same part of the whole picture resized.
    """
    height, width, channels = image.shape
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    source = Image.fromarray(image[..., 0] if channels == 1 else image)
    result = source.resize(
        (size[1], size[0]), _FILTERS[interpolation], box=(x0, y0, x1, y1), reducing_gap=_REDUCING_GAP
    )
    return np.asarray(result).reshape(size[0], size[1], channels)


def cut(
    image: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    """The part `box` (xyxy, rounded to whole pixels) of (H, W, C) as (size[0], size[1], C), for training.

    The same filter as `resample` in a third of the time, and the same pixels as torchvision's `resized_crop` of a
    tensor. It does not look beyond the part, and its weights have 16 bits: within the part a pixel differs from
    `resample` by one level at most, in its outermost rows by a few.
    """
    height, width = image.shape[:2]
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    x1, y1 = min(max(round(box[2]), x0 + 1), width), min(max(round(box[3]), y0 + 1), height)
    part = torch.from_numpy(image[None, y0:y1, x0:x1].copy()).permute(
        0, 3, 1, 2
    )  # a copy with the channels last
    if part.shape[2:] != size:
        part = functional.interpolate(part, size, mode=interpolation, antialias=True)
    return part.permute(0, 2, 3, 1)[0].numpy()


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input: geometry, channels and normalisation; saved with the weights.

    Attributes:
        size: (H, W) of the network's input, pixels.
        resize: "crop", "pad" or "squash".
        channels: 1 or 3; a grey picture is repeated into three, a coloured one becomes its luma.
        mean: Per channel, on the scale 0..1. Left out: zeros.
        std: Per channel, on the scale 0..1. Left out: ones.
        crop_ratio: For "crop", the share of the resized shorter side that is kept.
        interpolation: Pillow's filter, antialiased.
        fill: Grey level of the border of "pad".

    Raises:
        UsageError: A value makes no sense.

    Examples:
        >>> import numpy as np
        >>> digit = np.full((28, 28, 1), 255, dtype=np.uint8)
        >>> prepare = Preprocessing((32, 32), "pad", 1, mean=(0.5,), std=(0.25,))
        >>> image = prepare.fit(digit)  # not resampled: a border of two pixels
        >>> tuple(image.shape), int(image[0, 1, 1]), int(image[0, 2, 2])
        ((1, 32, 32), 0, 255)
        >>> prepare.normalise(image[None])[0, 0, 0, 0].item()
        -2.0
    """

    size: tuple[int, int]
    resize: Resize
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bilinear"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.channels in (1, 3):
            object.__setattr__(self, "mean", self.mean or (0.0,) * self.channels)
            object.__setattr__(self, "std", self.std or (1.0,) * self.channels)
        for wrong, expected in (
            (self.channels not in (1, 3), "channels must be 1 or 3"),
            (
                len(self.size) != 2 or not all(1 <= side <= MAX_SIDE for side in self.size),
                f"size must be (height, width), each from 1 to {MAX_SIDE} pixels",
            ),
            (self.resize not in ("crop", "pad", "squash"), "resize must be crop, pad or squash"),
            (
                len(self.mean) != self.channels or not all(abs(mean) <= 1e3 for mean in self.mean),
                "mean must hold one number per channel, at most 1000 in size",
            ),
            (
                len(self.std) != self.channels or not all(1e-6 <= std <= 1e6 for std in self.std),
                "std must hold one number per channel, from 1e-6 to 1e6",
            ),
            (not 0 < self.crop_ratio <= 1, "crop_ratio must lie in (0, 1]"),
            (self.interpolation not in _FILTERS, "interpolation must be bilinear or bicubic"),
            (not 0 <= self.fill <= 255, "fill must lie in 0..255"),
        ):
            if wrong:
                raise UsageError(f"this preprocessing makes no sense: {expected}; found {self}")

    def fit(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """The evaluation geometry: (H, W, 1 or 3) uint8 of any size -> (C, H, W) uint8 of `size`."""
        return torch.from_numpy(self.fitted(image).transpose(2, 0, 1).copy(order="C"))

    def fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`fit` with the channels last: (*size, C)."""
        image = self.recolour(image)
        height, width = image.shape[:2]
        if (height, width) == self.size and (self.resize != "crop" or self.crop_ratio == 1):
            return image
        if self.resize == "squash":
            return resample(image, (0, 0, width, height), self.size, self.interpolation)
        if self.resize == "crop":
            scale = max(self.size[0] / height, self.size[1] / width) / self.crop_ratio
            crop_h, crop_w = self.size[0] / scale, self.size[1] / scale
            x0, y0 = (width - crop_w) / 2, (height - crop_h) / 2
            return resample(image, (x0, y0, x0 + crop_w, y0 + crop_h), self.size, self.interpolation)
        return self._pad(image)

    def _pad(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shrink or grow until the picture just fits, and put it in the middle of a `fill` border."""
        height, width, channels = image.shape
        scale = min(self.size[0] / height, self.size[1] / width)
        if not 1 <= scale <= PAD_WITHOUT_RESAMPLING:
            height = min(max(round(height * scale), 1), self.size[0])
            width = min(max(round(width * scale), 1), self.size[1])
            image = resample(
                image, (0, 0, image.shape[1], image.shape[0]), (height, width), self.interpolation
            )
        canvas = np.full((*self.size, channels), self.fill, dtype=np.uint8)
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        canvas[top : top + height, left : left + width] = image
        return canvas

    def recolour(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 1 or 3) -> (H, W, channels): grey repeated, or colour as its luma (ITU-R 601)."""
        found = image.shape[2]
        if found == self.channels:
            return image
        if found == 1:
            return np.repeat(image, 3, axis=2)
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]

    def normalise(
        self,
        images: torch.Tensor,
        layout: torch.memory_format = torch.contiguous_format,
        out: torch.Tensor | None = None,
        *,
        serial: bool = False,
    ) -> torch.Tensor:
        """(x / 255 - mean) / std: uint8 (N, C, H, W) -> float32, in the memory format `layout`; into `out` if given.

        `serial`: by one thread, to the same bits. That is faster beside processes that decode: several threads wait, at
        the end of every operation, for the one whose core is taken.
        """
        numbers = _SERIAL if serial else _IN_CACHE
        mean, std = torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)
        scale = (1 / (255 * std)).to(images.device, torch.float32)
        offset = (-mean / std).to(images.device, torch.float32)
        result = out
        if result is None:
            result = torch.empty(
                images.shape, dtype=torch.float32, device=images.device, memory_format=layout
            )
        # product and sum apart, each rounded once: the same bits for a pixel wherever it lies in memory
        if layout == torch.channels_last and images.is_contiguous(memory_format=layout):
            width, channels = images.shape[3], images.shape[1]
            lines = images.permute(0, 2, 3, 1).reshape(-1, width * channels)
            made = result.permute(0, 2, 3, 1).view(lines.shape)
            scale, offset = scale.repeat(width), offset.repeat(width)
            rows = max(numbers // max(width * channels, 1), 1)
            for source, target in zip(lines.split(rows), made.split(rows), strict=True):
                target.copy_(source).mul_(scale).add_(offset)
            return result
        scale, offset = scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
        count = max(numbers // max(images[:1].numel(), 1), 1)
        rows = max(numbers // max(images[:count, :, :1].numel(), 1), 1)
        for some, made in zip(images.split(count), result.split(count), strict=True):
            for source, target in zip(some.split(rows, 2), made.split(rows, 2), strict=True):
                target.copy_(source.to(torch.float32).mul_(scale).add_(offset))
        return result

    def restore(self, images: torch.Tensor) -> torch.Tensor:
        """What `normalise` made, as uint8 (N, C, H, W) again; values outside the range are clipped."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return images.float().mul(std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        return {
            "size": list(self.size),
            "resize": self.resize,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "crop_ratio": self.crop_ratio,
            "interpolation": self.interpolation,
            "fill": self.fill,
        }

    @classmethod
    def from_json(cls, value: object) -> Preprocessing:
        """The inverse of `to_json`. Raises `BadCheckpoint` naming the field that makes no sense."""
        if not isinstance(value, Mapping):
            raise BadCheckpoint(
                f"the preprocessing must be an object with named fields; found {_show(value)}"
            )
        fields = cast("Mapping[object, object]", value)
        missing, unknown = set(_JSON) - set(fields), set(fields) - set(_JSON)
        if missing or unknown:
            raise BadCheckpoint(
                f"the preprocessing must have exactly the fields {', '.join(_JSON)}; "
                f"missing: {_names(missing)}; unknown: {_names(unknown)}"
            )
        for name, (holds, expected) in _JSON.items():
            if not holds(fields[name]):
                raise BadCheckpoint(
                    f"the preprocessing's {name} must be {expected}; found {_show(fields[name])}"
                )
        known = {str(name): tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        try:
            return cls(**cast("dict[str, Any]", known))
        except (UsageError, OverflowError) as error:
            raise BadCheckpoint(str(error)) from error


def _show(value: object) -> str:
    """A value from a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _names(names: set[Any]) -> str:
    return _show(sorted(map(str, names)))[1:-1] or "none"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or isinstance(value, float)


def _list_of(holds: Any, most: int) -> Any:
    return lambda value: isinstance(value, list) and 1 <= len(value) <= most and all(map(holds, value))


_JSON: dict[str, tuple[Any, str]] = {
    "size": (_list_of(_is_int, 2), "two whole numbers"),
    "resize": (lambda value: isinstance(value, str), "a word"),
    "channels": (_is_int, "a whole number"),
    "mean": (_list_of(_is_number, 3), "a list of numbers"),
    "std": (_list_of(_is_number, 3), "a list of numbers"),
    "crop_ratio": (_is_number, "a number"),
    "interpolation": (lambda value: isinstance(value, str), "a word"),
    "fill": (_is_int, "a whole number"),
}


def statistics(
    split: Images, preprocessing: Preprocessing, limit: int = 2000, seed: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, scale 0..1, of fitted pictures: what to normalise with.

    Give the train split only. At most `limit` pictures are read, drawn by the seed; `mean` and `std`
    of `preprocessing` play no part. A channel without any variation gets a deviation of 1.
    """
    count = len(split)
    if count == 0:
        raise UsageError("mean and std were asked of an empty split; give them in the settings instead.")
    chosen = np.arange(count)
    if count > limit:
        chosen = np.sort(generator(seed, "statistics").choice(count, limit, replace=False))
    # Whole numbers: the sums are exact whatever the order. A square fits a billion times into 64 bits.
    total = np.zeros(preprocessing.channels, dtype=np.int64)
    squares = np.zeros(preprocessing.channels, dtype=np.int64)
    for i in chosen:
        pixels = preprocessing.fit(split.image(int(i))).flatten(1).numpy().astype(np.int64)
        total += pixels.sum(axis=1)
        squares += (pixels * pixels).sum(axis=1)
    pixels_read = len(chosen) * preprocessing.size[0] * preprocessing.size[1]
    mean = total / pixels_read / 255
    variance = np.maximum(squares / pixels_read / 255**2 - mean**2, 0)
    std = np.where(variance > 1e-8, np.sqrt(variance), 1.0)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)
