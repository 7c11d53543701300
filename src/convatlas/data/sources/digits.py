"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8, no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test set).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.source import ArraySource, Item, Listing


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    datasets: Any = importlib.import_module("sklearn.datasets")  # partly typed
    images, labels = datasets.load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # printed in 17 levels
    return grey, labels.astype(np.int64)


class Digits(ArraySource):
    """The embedded data set; a sample's place is its row."""

    kind = "digits"

    def listing(self) -> Listing:
        """All 1,797, in one level: test and val are drawn from them."""
        labels = _digits()[1]
        return Listing([Item(f"digits/{row:04d}", str(label), row) for row, label in enumerate(labels)])

    def array(self, place: int) -> NDArray[np.uint8]:
        """One digit (8, 8)."""
        return _digits()[0][place]
