"""The gradients of one batch: forward, backward, and in the same step the proof that every number is finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from convatlas.data import Batch
from convatlas.train.recipe import Recipe
from convatlas.train.task import Task


class NotFinite(Exception):  # noqa: N818
    """A loss or a gradient of this step is not finite; the message says which."""


@dataclass(frozen=True)
class Step:
    """How a batch becomes gradients. `model` is what the engine wraps; `plain` is the network inside it."""

    task: Task
    model: nn.Module
    plain: nn.Module
    recipe: Recipe
    fabric: Fabric

    def gradients(self, batch: Batch) -> tuple[float, float]:
        """Leave gradients in the parameters; give the mean loss over all processes and the gradient's norm.

        Raises `NotFinite`, naming the part of the loss or the parameter.
        """
        pieces = batch.split(self.recipe.accumulate)
        parts: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces, 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(pieces)):  # pyright: ignore[reportArgumentType]
                losses = self.task.losses(self.model, piece)
                if len(pieces) > 1:
                    share = len(piece) / len(batch)
                    losses = {name: loss * share for name, loss in losses.items()}
                self.fabric.backward(_sum(list(losses.values())))
            for name, loss in losses.items():
                parts[name] = parts[name] + loss.detach() if name in parts else loss.detach()
        gradients = [each.grad for each in self.plain.parameters() if each.grad is not None]
        norm = get_total_norm(gradients)
        *values, size = self._told(list(parts.values()), norm)
        for name, value in zip(parts, values, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"the {name} loss is {value}")
        if not math.isfinite(size):
            raise NotFinite(f"the gradient of {self._broken()} is not finite")
        if self.recipe.clip_norm:
            clip_grads_with_norm_(self.plain.parameters(), self.recipe.clip_norm, norm)
        return sum(values), size

    def _told(self, losses: list[Tensor], norm: Tensor) -> list[float]:
        """Losses, as a mean over all processes, and the norm: read together, as a GPU waits for each reading."""
        means = torch.stack([loss.double() for loss in losses])
        if self.fabric.world_size > 1:
            means = torch.as_tensor(self.fabric.all_reduce(means, reduce_op="mean"))
        return torch.cat([means, norm.double().reshape(1)]).tolist()

    def _broken(self) -> str:
        """The first parameter whose gradient is not finite."""
        for name, parameter in self.plain.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return name
        return "all parameters together"


def _sum(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
