"""What a network is given in a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass
class Batch:
    """What a network is given: N samples.

    The target of sample i is its label, or, where pictures are mixed, `weight[i] labels[i] + (1 - weight[i]) other[i]`
    in the sense of one-hot vectors.

    Attributes:
        images: float32 (N, C, H, W), normalised.
        labels: int64 (N,).
        ids: int64 (N,), the samples' identities in the data.
        other: int64 (N,), labels of the pictures that are mixed in, or None.
        weight: float32 (N,) in [0, 1], or None.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    other: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            other=None if self.other is None else self.other.to(device, non_blocking=True),
            weight=None if self.weight is None else self.weight.to(device, non_blocking=True),
        )

    def split(self, pieces: int) -> list[Batch]:
        """The batch in at most `pieces` parts of equal size (the last may be smaller), for accumulation."""
        size = -(-len(self) // pieces)
        return [
            Batch(*(None if tensor is None else tensor[start : start + size] for tensor in self._tensors()))  # pyright: ignore[reportArgumentType]
            for start in range(0, len(self), size)
        ]

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.images, self.labels, self.ids, self.other, self.weight
