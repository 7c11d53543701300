"""Weights in and out of networks: safetensors files, foreign checkpoints, official weights, alignment by name.

No file is unpickled in the process that uses this room.
"""

from convatlas.weights.align import load_weights
from convatlas.weights.foreign import read_foreign
from convatlas.weights.tensors import read_weights, save_weights
from convatlas.weights.transfer import Transferred, take, transfer

__all__ = [
    "Transferred",
    "load_weights",
    "read_foreign",
    "read_weights",
    "save_weights",
    "take",
    "transfer",
]
