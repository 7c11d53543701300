"""Data: where pictures come from, how they are decoded, split, checked, prepared and put into batches.

What needs torch is loaded when it is first asked for: checking a folder does not pay for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from convatlas.data.decode import decode  # the function: it takes the place of its module's name here
from convatlas.data.sources.source import BadFile

if TYPE_CHECKING:
    from convatlas.data.augment import Augment
    from convatlas.data.batch import Batch
    from convatlas.data.batches import Batches
    from convatlas.data.dataset import Data, Split, open_data
    from convatlas.data.transforms import Preprocessing, statistics

__all__ = [
    "Augment",
    "BadFile",
    "Batch",
    "Batches",
    "Data",
    "Preprocessing",
    "Split",
    "decode",
    "open_data",
    "statistics",
]

_HOMES = {
    "Augment": "augment",
    "Batch": "batch",
    "Batches": "batches",
    "Data": "dataset",
    "Preprocessing": "transforms",
    "Split": "dataset",
    "open_data": "dataset",
    "statistics": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
