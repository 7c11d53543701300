"""The pictures of a report, embedded as data URIs: mistakes, doubtful hits, augmented images, filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from convatlas.data import Data, Preprocessing, Split
from convatlas.errors import DataError
from convatlas.infer import Evaluation
from convatlas.plots import filters, thumbnail
from convatlas.train.feed import training_batches
from convatlas.train.recipe import Recipe

SHOWN = 16  # pictures in a gallery
AUGMENTED = 16
SIDE = 192  # px of an embedded picture's longer side
MOST_FILTERS = 96

Picture = dict[str, Any]  # src, sharp, and what its caption needs


def gallery(evaluation: Evaluation, split: Split, positions: Sequence[int]) -> list[Picture]:
    """The evaluated pictures at `positions`, with label, prediction and probabilities; at most `SHOWN`.

    A picture that is no longer there, or no longer readable, is left out.
    """
    place = {key: number for number, key in enumerate(split.keys)}
    shown: list[Picture] = []
    for position in positions:
        key = evaluation.keys[position]
        if key not in place:
            continue
        try:
            src, sharp = thumbnail(split.image(place[key]), SIDE)
        except DataError:
            continue
        shown.append(
            {
                "src": src,
                "sharp": sharp,
                "key": key,
                "label": evaluation.classes[evaluation.labels[position]],
                "predicted": evaluation.classes[evaluation.predicted[position]],
                "p_label": float(evaluation.probability_of_label[position]),
                "p_predicted": float(evaluation.probability_of_predicted[position]),
            }
        )
        if len(shown) == SHOWN:
            break
    return shown


def augmented(data: Data, recipe: Recipe, preprocessing: Preprocessing, seed: int) -> list[Picture]:
    """Pictures of the first training batch, as the network got them, with their labels (two where mixed).

    None where the training images are not all on this machine.
    """
    if data.train.absent:
        return []
    batches = training_batches(data, recipe, preprocessing, seed=seed)
    try:
        batch = next(iter(batches.epoch(0)))
    finally:
        batches.close()
    images = preprocessing.restore(batch.images[:AUGMENTED]).permute(0, 2, 3, 1).numpy()
    shown: list[Picture] = []
    for number, image in enumerate(images):
        src, sharp = thumbnail(np.ascontiguousarray(image), SIDE)
        names = [(data.classes[int(batch.labels[number])], 1.0)]
        if batch.other is not None and batch.weight is not None:
            weight = float(batch.weight[number])
            other = data.classes[int(batch.other[number])]
            if weight < 1 and other != names[0][0]:
                names = sorted([(names[0][0], weight), (other, 1 - weight)], key=lambda pair: -pair[1])
        shown.append({"src": src, "sharp": sharp, "names": names})
    return shown


def first_filters(weights: Mapping[str, Tensor]) -> tuple[str, list[Picture]]:
    """The kernels of the first convolution, and the name of its weight; ("", []) where there is none to see."""
    for name, tensor in weights.items():
        if tensor.ndim == 4 and min(tensor.shape[2:]) >= 3:
            kernels = filters(tensor[:MOST_FILTERS].float().cpu().numpy())
            return name, [{"src": thumbnail(kernel, SIDE)[0], "sharp": True} for kernel in kernels]
    return "", []
