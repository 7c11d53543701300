"""Pictures for a comparison: what kind they are, and small ones as a file that peers hold in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convatlas.bench.cell import Augmentation
from convatlas.data import Data
from convatlas.data.batches import SMALL_SIDE
from convatlas.errors import DataError, UsageError


def augmentation(data: Data) -> Augmentation:
    """What the pictures of a training are changed by: small grey ones are left, small ones shifted, large ones cut."""
    if data.typical_side() > SMALL_SIDE:
        return "box"
    return "none" if data.channels == 1 else "shift"


def held(data: Data, out: Path) -> str:
    """Write small training pictures to `out` for the peers; "" for large ones, which peers read from their folder.

    Raises:
        DataError: small pictures are not all of one size.
        UsageError: large pictures are not in a folder, so no peer could read them.
    """
    if data.typical_side() > SMALL_SIDE:
        if not Path(data.where).is_dir():
            raise UsageError(
                f"the peers read large pictures from folders, and {data.where} is none; unpack it."
            )
        return ""
    split = data.train
    if len(np.unique(split.sizes, axis=0)) > 1:
        raise DataError(
            f"the small pictures of {data.where} have several sizes; the peers hold those of one size alone."
        )
    images = np.stack([split.image(row) for row in range(len(split))])
    with out.open("wb") as file:
        np.savez(file, images=images, labels=split.labels)
    return str(out)
