"""Convert a foreign checkpoint, given as standard input, into safetensors: the program that `foreign.py` starts.

It runs alone: it imports nothing of convatlas, gives itself limits before it reads, prints one line when it
refuses, and leaves with exit code 1.
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import sys
from typing import Any, cast

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

WRAPPERS = ("state_dict", "model_state_dict", "model")


def main(target: str, limit: int) -> None:
    """Read standard input, write `target`; at most `limit` bytes of memory and of disk beyond the start."""
    if os.path.exists("/proc/self/statm"):  # elsewhere than on Linux only time and disk are limited
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, mapped + limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(0, "rb") as file:
        content = torch.load(file, map_location="cpu", weights_only=True)
    tensors = {name: value.detach().contiguous() for name, value in state_of(content).items()}
    shared: set[int] = set()
    for name, value in tensors.items():
        if value.layout is not torch.strided or value.is_quantized:
            raise ValueError(f"{name!r} is not an ordinary tensor")
        if value.untyped_storage().data_ptr() in shared:
            tensors[name] = value.clone()
        shared.add(value.untyped_storage().data_ptr())
    save_file(tensors, target)


def state_of(content: Any) -> dict[str, torch.Tensor]:
    """The tensors by name, wherever the usual wrappers put them."""
    entries = named(content)
    for wrapper in WRAPPERS:
        entries = named(entries[wrapper]) if isinstance(entries.get(wrapper), dict) else entries
    state: dict[str, torch.Tensor] = {}
    for name, value in entries.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"a state dict holds tensors; {name[:80]!r} is a {type(value).__name__}")
        state[name.removeprefix("module.")] = value
    return state


def named(content: Any) -> dict[str, Any]:
    """The same object, if it is a dictionary with names for keys and is not empty."""
    if not isinstance(content, dict) or not content:
        raise ValueError("a state dict was expected, not " + type(cast(object, content)).__name__)
    entries = cast("dict[Any, Any]", content)
    if not all(isinstance(name, str) for name in entries):
        raise ValueError("a state dict has names for keys")
    return entries


def reason(error: BaseException, limit: int) -> str:
    """Why the file is refused. PyTorch's own text would advise to load it without protection."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks for {wanted[1]}" if wanted else "it is no pickle of plain tensors"
        return f"{what}, and only plain tensors are read; have its author save the state_dict alone."
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return f"it asks for more memory than the {limit:,} bytes that its size allows."
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except (Exception, SystemExit) as error:  # whatever it is, the parent refuses the file
        print(reason(error, int(sys.argv[2]))[:2000])  # noqa: T201 - the answer to the parent
        sys.stdout.flush()
        os._exit(1)
