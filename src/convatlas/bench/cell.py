"""A cell of a benchmark: which network, with what images, and which settings the peers are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from convatlas.errors import UsageError

OURS = "convatlas"
PEERS = ("torchvision", "timm", "lightning")
SYNTHETIC = "synthetic"

Augmentation = Literal["none", "shift", "box"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What every side of a comparison does alike.

    Attributes:
        network: as `convatlas bench` takes it: `resnet18`, `torchvision:swin_t`, `net.py:make`.
        wish: size, channels and classes, or the whole shape, that it is built with, where they are not its own.
        shape: (C, H, W) of an image.
        classes: K.
        batch: images of a step.
        train: a training step; inference otherwise.
        data: "synthetic", or where the images are.
        held: a file with the training images as an array, for peers that hold small images in memory; "" where they
            read files, as they do with large ones.
        augmentation: "box" a random box and a mirror, "shift" a shift by up to 4 px and a mirror, "none".
        peer_amp: peers compute with bf16 autocast and channels-last; else as their users get it.
        dtype: of our side, where it is set by hand: "fp32" or "bf16".
        channels_last: the same for the layout.
        recompute: our side computes activations again for the backward pass, which takes less memory and more time.
        threads: of PyTorch, for all sides; None leaves each its own.
    """

    network: str
    shape: tuple[int, ...]
    classes: int
    batch: int
    train: bool
    data: str = SYNTHETIC
    held: str = ""
    augmentation: Augmentation = "none"
    peer_amp: bool = False
    dtype: str | None = None
    channels_last: bool | None = None
    recompute: bool = False
    threads: int | None = None
    wish: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"a batch has at least one image, not {self.batch}.")
        if self.data != SYNTHETIC and not self.train:
            raise UsageError("inference is timed on noise; --data goes with --train.")
        if self.recompute and not self.train:
            raise UsageError("inference keeps no activations; --checkpoint-activations goes with --train.")

    @property
    def synthetic(self) -> bool:
        """Whether every step is given the same batch of noise, ready made."""
        return self.data == SYNTHETIC

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "shape": list(self.shape)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Cell:
        """What `to_json` gave."""
        fields: dict[str, Any] = dict(value)
        fields["shape"] = tuple(fields["shape"])
        if own := fields.get("wish", {}).get("input_shape"):
            fields["wish"] = fields["wish"] | {"input_shape": tuple(own)}
        return Cell(**fields)
