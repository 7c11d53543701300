"""Draw the figures of arithmetic.md: `python docs/arithmetic.py`, or with --check compare only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from convatlas.measure.arithmetic.convolution import IMAGE, KERNEL
from convatlas.measure.arithmetic.figures import kernels_figure, matrix_figure, roi_figure
from convatlas.measure.arithmetic.frames import CASES, animated, conv_frames, sheet
from convatlas.measure.arithmetic.matrix import conv_matrix

FOLDER = Path(__file__).parent / "arithmetic"
FIGURES: dict[str, Callable[[], str]] = {
    "worked_example": lambda: sheet(conv_frames(5, 3, values=(IMAGE, KERNEL)), cell=24),
    "fixed_kernels": kernels_figure,
    "matrix": lambda: matrix_figure(conv_matrix(torch.ones(3, 3), (5, 5), padding=1)),
    "conv_no_padding_no_stride": lambda: sheet(CASES["conv_no_padding_no_stride"], columns=4),
    "conv_padding": lambda: animated(CASES["conv_padding"]),
    "dilated": lambda: animated(CASES["dilated"]),
    "transposed_padding_no_stride": lambda: animated(CASES["transposed_padding_no_stride"]),
    "transposed_padding_stride": lambda: animated(CASES["transposed_padding_stride"]),
    "roi": lambda: roi_figure((17, 8, 92, 120)),
}


def main(arguments: list[str]) -> int:
    """Write the figures, or with --check say which are not what the code draws; 1 if there are such."""
    stale = [name for name, draw in FIGURES.items() if _stored(name) != draw()]
    if "--check" in arguments:
        for name in stale:
            print(f"docs/arithmetic/{name}.svg is not what the code draws; run `python docs/arithmetic.py`")
        return int(bool(stale))
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / f"{name}.svg").write_text(FIGURES[name]())
    return 0


def _stored(name: str) -> str | None:
    file = FOLDER / f"{name}.svg"
    return file.read_text() if file.exists() else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
