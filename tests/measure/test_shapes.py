"""Shapes by our rules, held against PyTorch's own; and a report that loads no compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convatlas.measure.shapes import shaped

aten = torch.ops.aten
SIZES = st.integers(1, 9)
PAIRS = st.lists(st.integers(1, 4), min_size=2, max_size=2)
PADS = st.lists(st.integers(0, 3), min_size=2, max_size=2)


def ghosts(*sizes: Any) -> Any:
    """A tensor without content, plain, as images lie in memory, or a part of a larger one."""

    def made(shape: tuple[int, ...], kind: str) -> Tensor:
        if kind == "part":
            return torch.empty([n + 1 for n in shape], device="meta")[tuple(slice(1, None) for _ in shape)]
        whole = torch.empty(shape, device="meta")
        return whole.to(memory_format=torch.channels_last) if kind == "images" and whole.ndim == 4 else whole

    return st.builds(made, st.tuples(*sizes), st.sampled_from(["plain", "plain", "images", "part"]))


MAPS = ghosts(st.integers(1, 3), st.sampled_from([2, 4, 6]), st.integers(1, 12), st.integers(1, 12))
KERNELS = ghosts(st.sampled_from([2, 4]), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 3))
SIDES = [st.sampled_from([1, 4]) for _ in range(4)]
CASES: dict[str, tuple[Any, Any]] = {
    "convolution": (
        aten.convolution.default,
        st.tuples(
            ghosts(st.integers(1, 2), st.sampled_from([2, 4]), st.integers(3, 12), st.integers(3, 12)),
            KERNELS,
            st.one_of(st.none(), ghosts(st.sampled_from([2, 4]))),
            PAIRS,
            PADS,
            PAIRS,
            st.sampled_from([False, False, True]),
            st.just([0, 0]),
            st.sampled_from([1, 2]),
        ),
    ),
    "max_pool2d_with_indices": (
        aten.max_pool2d_with_indices.default,
        st.tuples(MAPS, PAIRS, PAIRS, PADS, PAIRS, st.booleans()),
    ),
    "avg_pool2d": (aten.avg_pool2d.default, st.tuples(MAPS, PAIRS, PAIRS, PADS, st.booleans())),
    "mean": (
        aten.mean.dim,
        st.tuples(MAPS, st.lists(st.integers(-4, 3), max_size=3, unique=True), st.booleans()),
    ),
    "_adaptive_avg_pool2d": (aten._adaptive_avg_pool2d.default, st.tuples(MAPS, PAIRS)),
    "adaptive_max_pool2d": (aten.adaptive_max_pool2d.default, st.tuples(MAPS, PAIRS)),
    "mm": (aten.mm.default, st.tuples(ghosts(SIZES, st.just(4)), ghosts(st.sampled_from([4, 5]), SIZES))),
    "addmm": (
        aten.addmm.default,
        st.tuples(ghosts(st.just(4)), ghosts(SIZES, st.just(4)), ghosts(st.just(4), st.sampled_from([4, 5]))),
    ),
    "cat": (
        aten.cat.default,
        st.tuples(st.lists(ghosts(*SIDES), min_size=1, max_size=3), st.integers(-4, 3)),
    ),
    "add": (aten.add.Tensor, st.tuples(ghosts(*SIDES), st.one_of(ghosts(*SIDES), ghosts(*SIDES[1:])))),
    "mul_": (aten.mul_.Tensor, st.tuples(ghosts(*SIDES), ghosts(*SIDES))),
    "relu": (aten.relu.default, st.tuples(MAPS)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_shape_is_that_of_pytorch(name: str) -> None:
    operation, arguments = CASES[name]
    certain: list[bool] = []

    @given(arguments)
    @settings(max_examples=60, deadline=None)
    def held(args: tuple[Any, ...]) -> None:
        ours = shaped(name, args)
        try:
            theirs = operation(*args)
        except (RuntimeError, IndexError, ValueError, TypeError):
            assert ours is None, "what does not fit is left to PyTorch"
            return
        certain.append(ours is not None)
        if ours is not None:
            pairs = [(ours, theirs)] if isinstance(ours, Tensor) else list(zip(ours, theirs, strict=True))
            for a, b in pairs:
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                lengths = [(x, y) for n, x, y in zip(a.shape, a.stride(), b.stride(), strict=True) if n > 1]
                assert all(x == y for x, y in lengths)

    held()
    assert sum(certain) >= 5, "the rule is used"


def test_the_canon_without_content_loads_no_compiler() -> None:
    """As `convatlas list` builds it: what draws a tensor on the meta device would load one."""
    code = (
        "import sys; from convatlas.layers.blueprint import blueprint\n"
        "from convatlas.models import create_model, list_models\n"
        "with blueprint(): drawn = [create_model(name) for name in list_models()]\n"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "efficientnet_b0", "vgg16", "inception_v3", "lenet5"]
)
def test_a_report_loads_no_compiler(name: str) -> None:
    code = (
        "import sys; from convatlas.models import create_model, find; from convatlas.measure import measure; "
        f"s = find({name!r}); assert measure(create_model(s.name), (s.channels, s.image, s.image)).params; "
        "print([m for m in ('torch._dynamo', 'sympy', 'torch.fx.experimental.symbolic_shapes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
