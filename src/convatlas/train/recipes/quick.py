"""quick: the default. Modern, short, and fitted to the images it is given.

`convatlas train WHERE`

AdamW with one cycle of the learning rate, label smoothing, an average of the weights, and the
augmentation that suits the images: small grey pictures (digits, symbols) are shifted, turned and
scaled, never mirrored; colour pictures are mirrored, cropped and changed by TrivialAugment, and
mixed where there are enough of them to learn from. The values are ours; what each part is from
stands beside it. Results with seeds are in the documentation's page on training.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2

import torch
from torch import nn

from convatlas.data import Data
from convatlas.models import create_model, find
from convatlas.train.recipe import Recipe

RECIPE = Recipe(
    name="quick",
    source="ours; parts: one cycle (Smith & Topin 2017), label smoothing (Szegedy et al. 2015), AdamW "
    "(Loshchilov & Hutter 2017), TrivialAugment (Müller & Hutter 2021), mixup (Zhang et al. 2017), "
    "CutMix (Yun et al. 2019), random erasing (Zhong et al. 2017), averaged weights (Polyak & Juditsky 1992)",
    optimizer="adamw",
    lr=2e-3,  # see `_rate`
    weight_decay=0.02,
    decay_all=False,
    clip_norm=5.0,
    schedule="onecycle",
    warmup=0.2,
    label_smoothing=0.1,
    ema=0.99,
)

SMALL = 64  # px; up to here images are cropped by shifting, above by a random box
LOOKS = {True: 540_000, False: 10_000}  # images the network should see in all, small and large ones
MOST_EPOCHS = {True: 60, False: 40}

# Peak learning rates: LeNet's was chosen on MNIST's validation images
LENET, NORMALISED, PLAIN = 4e-3, 2e-3, 3e-4
_NORMALISATION = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


def adapt(recipe: Recipe, data: Data, model: str) -> tuple[Recipe, list[str]]:
    """Length, batch size and augmentation for these images, and why."""
    count, small = len(data.train), data.typical_side() <= SMALL
    epochs = min(max(round(LOOKS[small] / max(count, 1)), 10), MOST_EPOCHS[small])
    batch_size = 2 ** min(max(round(log2(max(count, 1) / 40)), 4), 7)
    recipe = replace(recipe, epochs=epochs, batch_size=batch_size, lr=_rate(model))
    notes: list[str] = []
    if data.channels == 1 and small:
        notes.append(
            "small grey images: shifted, turned and scaled a little, never mirrored (a mirrored 2 is no 2)"
        )
        return replace(recipe, resize="pad", crop="shift", shift_px=2, affine=(10.0, 0.1, 5.0)), notes
    if small:
        recipe = replace(
            recipe, resize="squash", crop="shift", shift_px=4, flip=True, trivial=True, erasing=0.25
        )
    else:
        recipe = replace(recipe, crop="resized", flip=True, trivial=True, erasing=0.25)
    notes.append("colour images" if data.channels == 3 else "large grey images")
    notes[-1] += ": mirrored, cropped, changed by TrivialAugment, partly erased"
    if count >= 100 * len(data.classes):
        recipe = replace(recipe, mixup=0.2, cutmix=1.0)
        notes.append("mixup and CutMix, as there are at least 100 images a class")
    return recipe, notes


def _rate(model: str) -> float:
    """Deep networks without normalisation break at rates that others need."""
    if find(model).family == "lenet":
        return LENET
    with torch.device("meta"):
        layers = create_model(model).modules()
    return NORMALISED if any(isinstance(layer, _NORMALISATION) for layer in layers) else PLAIN
