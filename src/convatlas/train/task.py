"""What the training loop does not know: how a batch becomes a loss, and which metrics follow.

Classification is the first task. Another one (boxes, masks) implements the same five members, and the
loop, recipes, checkpoints, resume and several processes serve it as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from convatlas.data import Batch, Data
from convatlas.errors import BadCheckpoint
from convatlas.models.classifier import WithAuxiliary
from convatlas.train.loss import cross_entropy, map_loss
from convatlas.train.recipe import Recipe


class Task(ABC):
    """One kind of prediction. Batches have `images`, `ids`, and whatever the task reads from them."""

    name: str
    score: str  # the metric that chooses the best epoch; higher is better

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Parts of the training loss by name, each a scalar averaged over the batch; their sum is minimised."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Fresh torchmetrics by the name under which they are logged; `loss` is among them."""

    @abstractmethod
    def measure(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> None:
        """Predict a validation batch and update the metrics."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What prediction needs to know beside the weights, for spec.json."""


class Classification(Task):
    """One class an image: logits (N, K) against labels (N,), mixed labels where the batch is mixed."""

    name = "classification"
    score = "top1"

    def __init__(self, classes: Sequence[str], recipe: Recipe, weights: Tensor | None = None) -> None:
        self.classes = tuple(classes)
        self._recipe = recipe
        self._weights = weights

    @staticmethod
    def of(data: Data, recipe: Recipe) -> Classification:
        """The task of these images; `balance = "weights"` weighs classes by n / (K n_class)."""
        weights = None
        if recipe.balance == "weights":
            counts = torch.bincount(torch.from_numpy(data.train.labels), minlength=len(data.classes)).clamp(
                min=1
            )
            weights = counts.sum() / (len(data.classes) * counts.float())
        return Classification(data.classes, recipe, weights)

    def _each(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if self._recipe.loss == "map":
            return map_loss(logits, labels)
        return cross_entropy(logits, labels, smoothing)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`{"cross-entropy": ...}` or `{"map": ...}`, and "auxiliary" for networks with auxiliary heads."""
        output = model(batch.images)
        if not isinstance(output, WithAuxiliary):
            return {self._recipe.loss: self._loss(output, batch)}
        weight: float = _unwrapped(model).auxiliary_weight  # pyright: ignore[reportAssignmentType]
        auxiliary = torch.stack([self._loss(logits, batch) for logits in output.auxiliary]).sum()
        return {self._recipe.loss: self._loss(output.logits, batch), "auxiliary": weight * auxiliary}

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean over the batch; of a mixed one both labels, by their shares."""
        smoothing = self._recipe.label_smoothing
        loss = self._weighed(self._each(logits, batch.labels, smoothing), batch.labels)
        if batch.other is not None and batch.weight is not None:
            other = self._weighed(self._each(logits, batch.other, smoothing), batch.other)
            loss = batch.weight * loss + (1 - batch.weight) * other
        return loss.mean()

    def _weighed(self, loss: Tensor, labels: Tensor) -> Tensor:
        return loss if self._weights is None else loss * self._weights.to(loss.device)[labels]

    def metrics(self) -> Mapping[str, Metric]:
        """Mean loss without smoothing, top-1 and top-5 accuracy in [0, 1] (top-K where there are fewer)."""
        count = len(self.classes)
        return {
            "loss": MeanMetric(nan_strategy="disable"),
            "top1": MulticlassAccuracy(count, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(count, average="micro", top_k=min(5, count), validate_args=False),
        }

    def measure(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> None:
        """Add one batch to the metrics of `metrics()`."""
        logits = model(batch.images)
        metrics["loss"].update(self._each(logits, batch.labels, 0.0))
        metrics["top1"].update(logits, batch.labels)
        metrics["top5"].update(logits, batch.labels)

    def to_json(self) -> dict[str, Any]:
        """The classes, in the order of the logits."""
        return {"classes": list(self.classes)}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside the engine's wrappers."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


TASKS: dict[str, type[Classification]] = {Classification.name: Classification}


def find_task(name: str) -> type[Classification]:
    """The task of a run, by the name in run.json. Raises `BadCheckpoint` if this version does not have it."""
    if name not in TASKS:
        raise BadCheckpoint(
            f"the run's task is {name!r}; this version of convatlas knows {', '.join(TASKS)}."
        )
    return TASKS[name]
