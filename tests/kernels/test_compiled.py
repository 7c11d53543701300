"""What is compiled, kept, and shared among threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.kernels import compiled
from convatlas.kernels.bf16 import rounded, widened


def test_bf16_is_read_and_rounded_as_pytorch_does() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    bits = compiled.bits(every)
    read = np.array([widened(each) for each in bits], np.float32)
    np.testing.assert_array_equal(read, every.float().numpy())
    torch.manual_seed(0)
    ties = every.float() * (1 + 2**-8)  # half-way between two neighbours, where nothing is lost
    numbers = torch.cat([torch.randn(5000), torch.randn(5000) * 1e38, torch.randn(5000) * 1e-39, ties])
    numbers = numbers[~numbers.isnan()]
    written = np.array([rounded(np.float32(each)) for each in numbers.numpy()], np.uint16)
    np.testing.assert_array_equal(written, compiled.bits(numbers.bfloat16()))


def test_what_is_usable() -> None:
    x = torch.randn(2, 3, 4, 5).bfloat16()
    assert not compiled.usable(x)
    assert compiled.usable(x.contiguous(memory_format=torch.channels_last))
    assert not compiled.usable(x.float().contiguous(memory_format=torch.channels_last))
    assert compiled.usable(x.view(6, 4, 5))


def test_parts_cover_all_and_an_error_in_one_is_raised() -> None:
    seen: list[tuple[int, int]] = []

    def kernel(start: int, stop: int, limit: int) -> None:
        seen.append((start, stop))
        if stop > limit:
            raise ValueError("beyond")

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        compiled.shared(kernel, 10, 10)
        assert sorted(seen) == [(0, 3), (3, 6), (6, 10)]
        seen.clear()
        compiled.shared(kernel, 2, 10)
        assert sorted(seen) == [(0, 1), (1, 2)]
        with pytest.raises(ValueError, match="beyond"):
            compiled.shared(kernel, 10, 9)
    finally:
        torch.set_num_threads(before)


PROGRAM = """
import torch
from convatlas.layers.winograd import winograd
torch.set_num_threads(2)
torch.manual_seed(0)
x = torch.randn(4, 8, 7, 7).bfloat16().contiguous(memory_format=torch.channels_last)
weight = torch.randn(8, 8, 3, 3)
print(winograd(x, weight).double().sum().item())
"""
IN_A_FORK = """
import os
import numpy as np
import torch
from convatlas.kernels.compiled import shared

def kernel(start, stop, out):
    out[start:stop] = 1

torch.set_num_threads(3)
out = np.zeros(10)
shared(kernel, 10, out)
child = os.fork()  # which has none of the three threads
if child == 0:
    out[:] = 0
    shared(kernel, 10, out)
    print(out.sum(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def said(program: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_nothing_is_unpickled() -> None:
    """numba's cache would be."""
    trapped = (
        "import pickle\ndef trap(*_, **__):\n    raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = trap\n"
    )
    assert said(trapped + PROGRAM) == said(PROGRAM)


@pytest.mark.parametrize("error", ["ImportError", "OSError", "AttributeError"])
def test_a_numba_that_is_broken_counts_as_none(error: str, tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text(f"raise {error}('broken')\n")
    (broken,) = said(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + PROGRAM)
    (plain,) = said("import sys; sys.modules['numba'] = None\n" + PROGRAM)
    assert broken == plain


def test_a_fork_has_threads_of_its_own() -> None:
    assert said(IN_A_FORK) == ["10.0"]


def test_without_numba_winograd_computes_all_the_same() -> None:
    (plain,) = said("import sys; sys.modules['numba'] = None\n" + PROGRAM)
    (ours,) = said(PROGRAM)
    assert float(plain) == pytest.approx(float(ours), rel=0.02)
