"""The batches that a recipe trains on: one rule for the loop, the learning-rate test and the pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data import Batches, Data, Preprocessing
from convatlas.data.colour import Components
from convatlas.train.recipe import Recipe


def training_batches(
    data: Data,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    homes: NDArray[np.int64] | None = None,
    components: Components | None = None,
    channels_last: bool = True,
    cache: Path | None = None,
    pin: bool = False,
) -> Batches:
    """The training split, shuffled and augmented as the recipe says, for one of `world` processes.

    `components` of its colours are measured if they are not given.
    """
    return Batches(
        data.train,
        preprocessing,
        batch_size=recipe.batch_size,
        augment=recipe.augment(data.train, components),
        seed=seed,
        shuffle=True,
        drop_last=True,
        workers=workers,
        rank=rank,
        world=world,
        homes=homes,
        balance=recipe.balance == "sampling",
        channels_last=channels_last,
        cache=cache,
        pin=pin,
    )
