"""Random numbers as functions of what they are for, not as the state of a generator.

`uniform(seed, epoch, ids, "flip")` gives sample 17 of epoch 3 the same number whichever process asks,
in whatever order and how often: a resumed run, any number of workers and a second run agree bit for
bit, and nothing has to be saved. The mixing function is SplitMix64's finaliser (Steele, Lea & Flood,
"Fast splittable pseudorandom number generators", 2014, section 4), applied once per part of the key.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the result depends on every bit of `z`."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def key(*parts: int | str) -> int:
    """One 64-bit number from integers and names; equal parts give equal keys on every machine."""
    digest = blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def uniform(
    seed: int, epoch: int, ids: NDArray[np.int64], stream: str, count: int = 1
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for each sample: (len(ids), count), a function of the arguments alone.

    `stream` names the use ("flip", "crop"), so that two uses never share numbers.
    """
    start = np.uint64(key(seed, epoch, stream))
    columns = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        per_sample = _mix(start + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        bits = _mix(per_sample[:, None] + columns[None, :] * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose, e.g. `generator(seed, epoch, "order").permutation(n)`."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Set every generator of this process (torch, NumPy, random) for one training step."""
    value = key(seed, step, rank, "step")
    # torch.manual_seed would also queue a call for a GPU that is not used
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - third-party code reads the global state
    random.seed(value)


@contextmanager
def preserved() -> Generator[None]:
    """Give every generator back as it was, also when an error passes through."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
