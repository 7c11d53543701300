"""Test-time augmentation: a picture is shown in several views, and the probabilities are averaged.

A kind of views is a row of `VIEWS`. Each view is a forward pass, so that is what a kind costs. Views that belong to
training, mirrored and shifted pictures, help most; a mirrored digit would harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from convatlas.errors import UsageError, did_you_mean

Kind = Literal["one", "mirror", "shift", "grid"]


@dataclass(frozen=True, slots=True)
class Views:
    """Shifts (right, down, in pixels) with their weights, which sum to 1; `mirrored`: each also left-right."""

    shifts: tuple[tuple[int, int, float], ...]
    mirrored: bool
    says: str  # in a sentence after the count of images

    @property
    def passes(self) -> int:
        """Forward passes for a picture."""
        return len(self.shifts) * (2 if self.mirrored else 1)

    def of(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Weights and views, each (N, C, H, W); what comes in at a border is the picture reflected."""
        for right, down, weight in self.shifts:
            shifted = moved(images, right, down)
            if self.mirrored:
                yield weight / 2, shifted
                yield weight / 2, shifted.flip(3)
            else:
                yield weight, shifted


VIEWS: dict[str, Views] = {
    "one": Views(((0, 0, 1.0),), mirrored=False, says=""),
    "mirror": Views(((0, 0, 1.0),), mirrored=True, says="each also shown mirrored"),
    # Jordan 2024, section 3.5
    "shift": Views(
        ((0, 0, 0.5), (1, 1, 0.25), (-1, -1, 0.25)),
        mirrored=True,
        says="each also shown mirrored and shifted by a pixel, in 6 views",
    ),
    "grid": Views(
        tuple((x, y, 1 / 9) for y in (-1, 0, 1) for x in (-1, 0, 1)),
        mirrored=True,
        says="each also shown mirrored and shifted by a pixel to all sides, in 18 views",
    ),
}


def kind_of(tta: bool | str) -> Kind:
    """The kind that a wish names: True is "mirror", False is "one". Raises `UsageError` for an unknown one."""
    name = tta if isinstance(tta, str) else ("mirror" if tta else "one")
    for kind in get_args(Kind):
        if kind == name:
            return kind
    raise UsageError(f"there are no views {name!r}.{did_you_mean(name, VIEWS)} Known: {', '.join(VIEWS)}.")


def moved(images: Tensor, right: int, down: int) -> Tensor:
    """Images (N, C, H, W) shifted by whole pixels; what comes in at a border is the picture reflected."""
    if not (right or down):
        return images
    height, width = images.shape[2:]
    by = max(abs(right), abs(down))
    padded = F.pad(images, (by, by, by, by), mode="reflect")
    return padded[:, :, by - down : by - down + height, by - right : by - right + width]
