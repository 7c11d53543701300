"""How good a network is on a split: accuracy with its uncertainty, per class, and every prediction kept.

N  images      K  classes      C  confusion matrix (K, K): rows the labels, columns the predictions
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from convatlas.errors import BadCheckpoint
from convatlas.infer.views import VIEWS, Kind, kind_of

FORMAT = 1
_LEAST = float(np.finfo(np.float32).tiny)  # a probability that is stored as 0 was at most this
_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class. None where a figure has no denominator: no such image, or never predicted."""

    name: str
    count: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network did on one split. Rates are shares in [0, 1].

    Attributes:
        split: "train", "val", "test", or a name given by the caller.
        count: N, images.
        loss: mean cross-entropy in nats, without label smoothing.
        top5: share of images with the label among the five likeliest classes (among all, if K < 5).
        top1_interval: Wilson's 95 % interval of `top1`, for images drawn independently.
        per_class: in the order of the network's outputs.
        confusion: (K, K) counts; row the label, column the prediction.
        keys, labels, predicted: N each; which image, its label's and its prediction's number.
        probability_of_label, probability_of_predicted: N each, softmax.
        views: in how many ways every image was shown, the probabilities averaged; a kind of `views.VIEWS`.
        fingerprint: of the data, where known.
    """

    split: str
    count: int
    loss: float
    top1: float
    top5: float
    top1_interval: tuple[float, float]
    per_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability_of_label: NDArray[np.float64]
    probability_of_predicted: NDArray[np.float64]
    views: Kind = "one"
    fingerprint: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return tuple(score.name for score in self.per_class)

    @property
    def tta(self) -> bool:
        """Whether images were shown in more than one view."""
        return self.views != "one"

    @property
    def hits(self) -> int:
        """Images whose likeliest class is their label."""
        return int(np.trace(self.confusion))

    @property
    def mistakes(self) -> list[int]:
        """Positions of wrong predictions, the surest first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.probability_of_predicted[wrong], kind="stable")].tolist()

    @property
    def unsure_hits(self) -> list[int]:
        """Positions of right predictions, the least sure first."""
        right = np.flatnonzero(self.labels == self.predicted)
        return right[np.argsort(self.probability_of_label[right], kind="stable")].tolist()

    def confused_pairs(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """(label, prediction, count), the most frequent mistakes first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = [
            (int(row), int(column)) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        ]
        return [(self.classes[row], self.classes[column], int(wrong[row, column])) for row, column in pairs
                if wrong[row, column]]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values, for evaluation/SPLIT.json."""
        return {
            "format": FORMAT,
            "split": self.split,
            "count": self.count,
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval": list(self.top1_interval),
            "per_class": [asdict(score) for score in self.per_class],
            "confusion": self.confusion.tolist(),
            "keys": list(self.keys),
            "labels": self.labels.tolist(),
            "predicted": self.predicted.tolist(),
            "probability_of_label": self.probability_of_label.tolist(),
            "probability_of_predicted": self.probability_of_predicted.tolist(),
            "tta": self.tta,
            "views": self.views,
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def from_json(value: object) -> Evaluation:
        """The inverse of `to_json`. Raises `BadCheckpoint` if the values do not hold together."""
        if not isinstance(value, dict) or cast("dict[str, Any]", value).get("format") != FORMAT:
            raise BadCheckpoint(f"this is not an evaluation of format {FORMAT}.")
        fields = {name: item for name, item in cast("dict[str, Any]", value).items() if name != "format"}
        try:
            made = _from_fields(fields)
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
            raise BadCheckpoint(f"the evaluation cannot be read: {error}.") from error
        _check(made)
        return made


def _from_fields(fields: dict[str, Any]) -> Evaluation:
    arrays = {name: np.asarray(fields.pop(name)) for name in ("confusion", "labels", "predicted")}
    shares = {
        name: np.asarray(fields.pop(name)) for name in ("probability_of_label", "probability_of_predicted")
    }
    for name, array in (*arrays.items(), *shares.items()):
        if (
            array.size
            and array.dtype.kind != ("i" if name in arrays else "f")
            and array.dtype.kind not in "if"
        ):
            raise ValueError(f"{name} does not hold numbers")
        if array.size and name in arrays and array.dtype.kind != "i":
            raise ValueError(f"{name} does not hold whole numbers")
    tta = fields.pop("tta")
    if type(tta) is not bool or tta != (fields.setdefault("views", kind_of(tta)) != "one"):
        raise ValueError(f"tta = {tta!r} does not say whether there were several views")
    return Evaluation(
        **{name: array.astype(np.int64) for name, array in arrays.items()},
        **{name: array.astype(np.float64) for name, array in shares.items()},
        per_class=tuple(ClassScore(**score) for score in fields.pop("per_class")),
        keys=tuple(fields.pop("keys")),
        top1_interval=tuple(fields.pop("top1_interval")),
        **fields,
    )


def _check(made: Any) -> None:
    """Types, shapes and sums that belong together; nothing is taken for granted of a file."""
    size, count = len(made.per_class), made.count
    lists = (made.keys, made.labels, made.predicted, made.probability_of_label, made.probability_of_predicted)
    rates = (made.top1, made.top5, *made.top1_interval)
    holds = {
        "count": type(count) is int and all(len(each) == count for each in lists) and count > 0,
        "confusion": made.confusion.shape == (size, size)
        and int(made.confusion.sum()) == count
        and bool((made.confusion >= 0).all()),
        "labels": all(
            each.ndim == 1 and ((each >= 0) & (each < size)).all() for each in (made.labels, made.predicted)
        ),
        "keys": all(
            isinstance(key, str) for key in (*made.keys, *made.classes, made.split, made.fingerprint)
        ),
        "rates": len(rates) == 4 and all(isinstance(rate, (int, float)) and 0 <= rate <= 1 for rate in rates),
        "loss": isinstance(made.loss, (int, float)),
        "per_class": all(type(score.count) is int and _shares(score) for score in made.per_class),
        "views": made.views in VIEWS,
    }
    wrong = [name for name, held in holds.items() if not held]
    if wrong:
        raise BadCheckpoint(f"the evaluation does not hold together: {', '.join(wrong)}.")


def _shares(score: Any) -> bool:
    values = (score.precision, score.recall, score.f1)
    return all(value is None or (isinstance(value, (int, float)) and 0 <= value <= 1) for value in values)


# --- counting ---------------------------------------------------------------------------------------------


class Tally:
    """Adds up batches of logits (n, K) into an `Evaluation`; keeps a few numbers per image, never an image."""

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu") -> None:
        size = len(classes)
        self.classes = tuple(classes)
        # a tally belongs to its process: it never waits for others
        alone: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}
        self.top5 = MulticlassAccuracy(size, top_k=min(5, size), average="micro", **alone).to(device)
        self.confusion = MulticlassConfusionMatrix(size, **alone).to(device)
        self.keys: list[str] = []
        self.columns: list[tuple[Tensor, ...]] = []

    def add(self, keys: Iterable[str], probabilities: Tensor, labels: Tensor) -> None:
        """One batch: softmax (n, K) and labels (n,)."""
        predicted = probabilities.argmax(1)
        own = probabilities.gather(1, labels[:, None])[:, 0]
        if len(self.classes) > 1:
            self.top5.update(probabilities, labels)
        self.confusion.update(predicted, labels)
        self.keys += keys
        surest = probabilities.gather(1, predicted[:, None])[:, 0]
        self.columns.append(tuple(column.cpu() for column in (labels, predicted, own, surest)))

    def finish(self, split: str, *, views: Kind = "one", fingerprint: str = "") -> Evaluation:
        """The evaluation of everything added."""
        labels, predicted, own, surest = (
            torch.cat(column).numpy() for column in zip(*self.columns, strict=True)
        )
        size = len(self.classes)
        confusion = self.confusion.compute().cpu().numpy().astype(np.int64).reshape(size, size)
        hits, count = int(np.trace(confusion)), len(labels)
        several = size > 1
        return Evaluation(
            split=split,
            count=count,
            loss=float(-np.log(np.maximum(own.astype(np.float64), _LEAST)).mean()),
            top1=hits / count,
            top5=round(float(self.top5.compute()) * count) / count if several else 1.0,  # from 32 bits
            top1_interval=wilson(hits, count),
            per_class=class_scores(self.classes, confusion),
            confusion=confusion,
            keys=tuple(self.keys),
            labels=labels.astype(np.int64),
            predicted=predicted.astype(np.int64),
            probability_of_label=own.astype(np.float64),
            probability_of_predicted=surest.astype(np.float64),
            views=views,
            fingerprint=fingerprint,
        )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share of `hits` in `count` independent trials (Wilson, 1927).

    Unlike hits/count +- 1.96 s it stays inside [0, 1] and keeps its width at 0 and 100 %.

    Examples:
        >>> [round(bound, 4) for bound in wilson(97, 100)]
        [0.9155, 0.9897]
    """
    share, z2 = hits / count, _Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    low = 0.0 if hits == 0 else max(middle - half, 0.0)  # exactly, where rounding would leave 1e-18
    return low, 1.0 if hits == count else min(middle + half, 1.0)


def class_scores(classes: Sequence[str], confusion: NDArray[np.int64]) -> tuple[ClassScore, ...]:
    """Precision, recall and their harmonic mean of every class, from the confusion matrix (K, K)."""
    scores: list[ClassScore] = []
    for k, name in enumerate(classes):
        hits, count, said = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        scores.append(
            ClassScore(
                name,
                count,
                precision=hits / said if said else None,
                recall=hits / count if count else None,
                f1=2 * hits / (said + count) if said + count else None,
            )
        )
    return tuple(scores)
