"""bf16 numbers in compiled functions: read as float32, and rounded to the nearest when written.

Indices into long arrays are unsigned (`U`) throughout the kernels. Of a signed one numba asks whether it counts from
the end, and a loop that asks is not computed a vector at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

U = np.uint64


def _same_bits(source: Any, target: Any, target_ir: Any) -> Any:
    """A function that takes the bits of one type as another, as C does through a union."""

    def typed(context: Any, value: Any) -> Any:
        del context, value
        return target(source), lambda context, builder, signature, values: builder.bitcast(
            values[0], target_ir
        )

    return intrinsic(typed)


_as_float: Any = _same_bits(types.uint32, types.float32, ir.FloatType())
_as_bits: Any = _same_bits(types.float32, types.uint32, ir.IntType(32))


@njit(inline="always")
def widened(bits: Any) -> Any:
    """The float32 of 16 bits of bf16."""
    return _as_float(np.uint32(np.uint32(bits) << np.uint32(16)))


@njit(inline="always")
def rounded(number: Any) -> Any:
    """The bits of the bf16 next to a float32; of two as near, the even one. NaN as processors make it stays NaN."""
    bits = np.uint32(_as_bits(number))
    odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
