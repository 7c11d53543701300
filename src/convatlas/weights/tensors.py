"""Tensors by name as a safetensors file: numbers with a table of contents, which cannot carry code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from convatlas.errors import BadCheckpoint, DataError
from convatlas.files import read_untrusted

MAX_HEADER = 16 * 2**20  # bytes; the largest network of the canon needs half a megabyte
MAX_FILE = 16 * 2**30  # bytes


def save_weights(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file's content; equal tensors and metadata give equal bytes in every process."""
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    content = save(tensors)
    size = int.from_bytes(content[:8], "little")
    # The library writes metadata in an order that changes from process to process; here it is sorted.
    header = {"__metadata__": dict(sorted((metadata or {}).items())), **json.loads(content[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_weights(path: str | Path, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file, in at most twice its size of memory.

    Raises `BadCheckpoint` for anything else than a whole, well-formed file of at most `max_bytes` (16 GiB).
    """
    path = Path(path)
    try:
        content = read_untrusted(path, max_bytes=MAX_FILE if max_bytes is None else max_bytes)
    except DataError as error:
        raise BadCheckpoint(str(error)) from error
    header = int.from_bytes(content[:8], "little")
    if len(content) < 8 or header > min(MAX_HEADER, len(content) - 8):
        raise BadCheckpoint(
            f"{path} is not a whole safetensors file: {len(content):,} bytes, of which the table of contents "
            f"claims {header:,} (at most {MAX_HEADER:,})."
        )
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise BadCheckpoint(f"{path} is not a whole safetensors file: {printable(str(error))}") from error


def printable(text: str) -> str:
    """One line, at most 300 characters, nothing that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(character for character in line if character.isprintable())[:300]
