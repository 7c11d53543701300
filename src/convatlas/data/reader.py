"""From a position in a split to pixels of the network's size: what a worker does for a row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data.augment import Augment
from convatlas.data.decode import Scaled, Shrink
from convatlas.data.transforms import Images, Preprocessing, cut, resample
from convatlas.errors import ConvAtlasError, DataError

FITTED = -1  # in the place of an epoch: the evaluation geometry, nothing random
SHRUNK = -2  # the whole picture, made smaller for the cache

Job = tuple[int, NDArray[np.int64]]  # epoch, FITTED or SHRUNK, and positions in the split
Box = tuple[float, float, float, float]


@runtime_checkable
class Surveyed(Images, Protocol):
    """A split whose pictures' content hashes and sizes are known, and that can decode them smaller."""

    @property
    def hashes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def sizes(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    def scaled(self, i: int, /, shrink: Shrink | None = None) -> Scaled: ...  # noqa: D102


class Shrunk:
    """Whole pictures of a split, shrunk to a shorter side of at most `side` pixels, one after the other in memory.

    `pixels` is flat; a picture of which the shorter side is no longer than `side` is kept as it is.
    """

    def __init__(self, split: Surveyed, side: int) -> None:
        self.channels = split.channels
        shorter = np.maximum(split.sizes.min(axis=1), 1)
        scale = np.minimum(side / shorter, 1.0)[:, None]
        self.sizes = np.maximum(np.rint(split.sizes * scale), 1).astype(np.int64)  # (N, 2): width, height
        self.bytes = self.sizes.prod(axis=1) * self.channels
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.bytes)])
        self.side = side
        self.pixels = np.empty(0, np.uint8)

    def image(self, position: int) -> NDArray[np.uint8]:
        """One picture (H, W, C)."""
        width, height = self.sizes[position]
        return self.pixels[self.starts[position] : self.starts[position + 1]].reshape(
            height, width, self.channels
        )


@dataclass(frozen=True)
class Reader:
    """Reads pictures of a split and gives them the network's size; runs in this process or in a worker."""

    split: Images
    preprocessing: Preprocessing
    augment: Augment | None
    seed: int
    kept: Shrunk | None = None
    _drawn: dict[str, Any] = field(default_factory=dict[str, Any], compare=False)  # last job, its boxes
    _surveyed: Surveyed | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # asked once: a protocol takes its time over the answer
        object.__setattr__(self, "_surveyed", self.split if isinstance(self.split, Surveyed) else None)

    def image(self, position: int) -> NDArray[np.uint8]:
        """A decoded picture (H, W, C). Raises `DataError` with its name if it cannot be read any more."""
        return self._scaled(position, None).pixels

    def fill(self, job: Job, row: int, out: NDArray[np.uint8]) -> None:
        """Put picture `row` of a job into `out`, uint8 (H, W, C)."""
        epoch, positions = job
        position = int(positions[row])
        if epoch == SHRUNK:
            pixels = self._shrunk(position)
            out.reshape(-1)[: pixels.size] = pixels.reshape(-1)
        elif self.augment is None or epoch == FITTED or not self.augment.resamples:
            out[...] = self.preprocessing.fitted(self.image(position))
        else:
            out[...] = self._cut(job, row, self.augment)

    def finish(self, job: Job, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rest of the augmentation, of all pictures of a job together: (N, H, W, C) -> (N, h, w, C)."""
        epoch, positions = job
        if self.augment is None or epoch < 0 or not len(positions):
            return pictures
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        made = self.augment(images, self.seed, epoch, self.split.ids[positions])
        return made.permute(0, 2, 3, 1).numpy()

    def describe(self, job: Job, row: int) -> str:
        """The name of the picture that a row is made from."""
        return self.split.keys[int(job[1][row])]

    def _cut(self, job: Job, row: int, augment: Augment) -> NDArray[np.uint8]:
        """The random part of a picture, resized: (H, W, C)."""
        size, position = self.preprocessing.size, int(job[1][row])
        if self.kept is not None and self._surveyed is not None:
            image = self.kept.image(position)
            width, height = (int(side) for side in self._surveyed.sizes[position])
            x0, y0, x1, y1 = self._box(job, row, width, height, augment)
            across, down = image.shape[1] / width, image.shape[0] / height
            part = x0 * across, y0 * down, x1 * across, y1 * down
        else:
            boxes = list[Box]()

            def shrink(width: int, height: int) -> int:
                boxes.append(self._box(job, row, width, height, augment))
                return reduction(boxes[0], size)

            found = self._scaled(position, shrink)
            image = found.pixels
            height, width = image.shape[:2]
            part = found.within(boxes[0] if boxes else self._box(job, row, width, height, augment))
        return cut(self.preprocessing.recolour(image), part, size, self.preprocessing.interpolation)

    def _box(self, job: Job, row: int, width: int, height: int, augment: Augment) -> Box:
        """The part of a picture of that size; those of a whole job are drawn at once where the sizes are known."""
        epoch, positions = job
        sizes, chosen = np.array([[width, height]]), positions[row : row + 1]
        known = self._surveyed.sizes if self._surveyed is not None else None
        if known is not None and (known[chosen] == sizes).all():
            if self._drawn.get("job") is not job:
                every = augment.boxes(
                    known[positions].astype(np.int64),
                    self.preprocessing.size,
                    self.seed,
                    epoch,
                    self.split.ids[positions],
                )
                self._drawn.update(job=job, boxes=every)
            x0, y0, x1, y1 = self._drawn["boxes"][row].tolist()
        else:
            drawn = augment.boxes(sizes, self.preprocessing.size, self.seed, epoch, self.split.ids[chosen])
            x0, y0, x1, y1 = drawn[0].tolist()
        return x0, y0, x1, y1

    def _shrunk(self, position: int) -> NDArray[np.uint8]:
        """The whole picture at the size at which it is cached."""
        assert self.kept is not None  # noqa: S101
        width, height = (int(side) for side in self.kept.sizes[position])
        found = self._scaled(position, lambda w, h: reduction((0, 0, w, h), (height, width)))
        if found.pixels.shape[:2] == (height, width):
            return found.pixels
        assert self._surveyed is not None  # noqa: S101
        across, down = (int(side) for side in self._surveyed.sizes[position])
        whole = found.within((0, 0, across, down))
        return resample(found.pixels, whole, (height, width), self.preprocessing.interpolation)

    def _scaled(self, position: int, shrink: Shrink | None) -> Scaled:
        try:
            if shrink is None or self._surveyed is None:
                return Scaled(self.split.image(position))
            return self._surveyed.scaled(position, shrink)
        except (OSError, ValueError, KeyError, ConvAtlasError) as error:
            raise DataError(
                f"{self.split.keys[position]} could be read when the data were opened, but not now: {error}. "
                "Restore the file, or open the data again; `convatlas data check` lists every bad file."
            ) from error


def reduction(box: Box, size: tuple[int, int]) -> int:
    """By how much a JPEG may be shrunk as it is decoded, so that `box` is still no smaller than `size` (H, W).

    Examples:
        >>> reduction((0, 0, 500, 500), (224, 224)), reduction((0, 0, 4000, 3000), (224, 224))
        (2, 8)
    """
    x0, y0, x1, y1 = box
    spare = min((x1 - x0) / size[1], (y1 - y0) / size[0])
    return next((by for by in (8, 4, 2) if spare >= by), 1)
