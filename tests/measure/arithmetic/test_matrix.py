"""W x is the convolution, W^T the input gradient and the transposed convolution; its zeros and shared weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.matrix import conv_matrix

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def whole(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(-9, 10, size, generator=torch.Generator().manual_seed(seed)).double()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_matrix_is_the_convolution(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3), "dims")
    size = [data.draw(st.integers(2, 6 - dims // 2)) for _ in range(dims)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(dims)]
    groups = data.draw(st.integers(1, 2))
    c_in, c_out = data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    how = {"stride": data.draw(st.integers(1, 3)), "padding": data.draw(st.integers(0, 2)),
           "dilation": data.draw(st.integers(1, 2))}  # fmt: skip
    flip = data.draw(st.booleans())
    assume(all(w + 2 * how["padding"] > how["dilation"] * (k - 1) for w, k in zip(size, kernel, strict=True)))
    w, x = whole(c_out, c_in, *kernel), whole(c_in * groups, *size, seed=1).requires_grad_()
    found = conv_matrix(w, size, **how, groups=groups, flip=flip)
    theirs = w.flip(*range(2, 2 + dims)) if flip else w
    y = CONV[dims](x[None], theirs, groups=groups, **how)[0]
    assert torch.equal(found.apply(x.detach()), y)
    assert torch.equal(found.dense @ x.detach().flatten(), y.flatten())
    assert torch.equal(found.sparse.to_dense(), found.dense)
    upstream = whole(*y.shape, seed=2)
    (of_x,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(found.transposed(upstream), of_x)
    extra = [w_ - ((o - 1) * how["stride"] - 2 * how["padding"] + how["dilation"] * (k - 1) + 1)
             for w_, o, k in zip(size, y.shape[1:], kernel, strict=True)]  # fmt: skip
    if max(extra) < max(how["stride"], how["dilation"]) and min(extra) >= 0:
        back = TRANSPOSED[dims](upstream[None], theirs, groups=groups, output_padding=extra, **how)[0]
        assert torch.equal(found.transposed(upstream), back)
    # A place for each product of an output with a pixel that is there, found by counting.
    ones = CONV[dims](
        torch.ones(1, c_in * groups, *size), torch.ones(c_out, c_in, *kernel), groups=groups, **how
    )
    assert found.non_zeros == int(ones.sum())
    assert found.zeros + found.non_zeros == found.entries == found.dense.numel()


def test_one_dimension_both_conventions() -> None:
    weight = torch.tensor([2, 3, 5])
    assert conv_matrix(weight, (4,), padding=1).text() == "b c . .\na b c .\n. a b c\n. . a b"
    assert conv_matrix(weight, (4,), padding=1, flip=True).text() == "b a . .\nc b a .\n. c b a\n. . c b"
    assert conv_matrix(weight, (5,), stride=2).text() == "a b c . .\n. . a b c"
    assert conv_matrix(weight, (5,), dilation=2).text() == "a . b . c"


def test_counts() -> None:
    """64 numbers; 8 + 7 + 7 on the three diagonals."""
    found = conv_matrix(torch.tensor([2.0, 3, 5]), (8,), padding=1)
    assert (found.entries, found.non_zeros, found.zeros, found.distinct) == (64, 22, 42, 3)
    assert [found.places(tap) for tap in range(3)] == [7, 8, 7]
    assert [found.dense.diagonal(offset).unique().tolist() for offset in (-1, 0, 1)] == [[2.0], [3.0], [5.0]]
    assert found.sentence() == "8 x 8 = 64 numbers: 42 zeros, and 22 places that share 3 weights."
    first = conv_matrix(torch.empty(6, 1, 5, 5), (32, 32))  # LeNet-5's C1
    assert (first.entries, first.non_zeros, first.distinct) == (6 * 28 * 28 * 32 * 32, 117600, 150)


def test_a_zero_weight_is_a_weight() -> None:
    found = conv_matrix(torch.tensor([0.0, 1, 0]), (4,), padding=1)
    assert (found.non_zeros, found.distinct) == (10, 3)


def test_two_dimensions_are_toeplitz_blocks_of_toeplitz_blocks() -> None:
    weight = whole(3, 3)
    blocks = (
        conv_matrix(weight, (5, 5), padding=1).dense.view(5, 5, 5, 5).transpose(1, 2)
    )  # [row, row', column, column']
    for i in range(5):
        for j in range(5):
            block = blocks[i, j]
            expected = (
                conv_matrix(weight[j - i + 1], (5,), padding=1).dense
                if abs(i - j) <= 1
                else torch.zeros(5, 5).double()
            )
            assert torch.equal(block, expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: conv_matrix(torch.ones(3, 3), (4,)), r"1 dimensions, or 3 with channels; one of shape \(3, 3\)"),
        (lambda: conv_matrix(torch.ones(3, 2, 3), (4,), groups=2), "3 output channels do not divide into 2 groups"),
        (lambda: conv_matrix(torch.ones(7), (4,)), "spans 7 pixels"),
        (lambda: conv_matrix(torch.ones(6, 6), (6, 6)).text(), "26 weights, and the kernel has 36"),
    ],
)  # fmt: skip
def test_what_is_refused(call: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()  # type: ignore[operator]
