"""The definition against PyTorch in one, two and three dimensions, and its gradients against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.convolution import (
    FIXED_KERNELS,
    IMAGE,
    KERNEL,
    centred,
    conv_layer,
    convolution,
    cross_correlation,
    flipped,
    input_gradient,
    kernel_gradient,
    transposed_convolution,
)

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def whole(*size: int, seed: int = 0) -> Tensor:
    """Whole numbers as float64: sums are exact, so equality is equality."""
    return torch.randint(-9, 10, size, generator=torch.Generator().manual_seed(seed)).double()


geometry = st.fixed_dictionaries(
    {"stride": st.integers(1, 3), "padding": st.integers(0, 2), "dilation": st.integers(1, 2)}
)
cases = st.integers(1, 3).flatmap(
    lambda dims: st.tuples(
        st.lists(st.integers(3, 7), min_size=dims, max_size=dims),
        st.lists(st.integers(1, 3), min_size=dims, max_size=dims),
        geometry,
    )
)


def fits(size: list[int], kernel: list[int], settings_: dict[str, int]) -> bool:
    return all(
        w + 2 * settings_["padding"] > settings_["dilation"] * (k - 1)
        for w, k in zip(size, kernel, strict=True)
    )


def test_the_worked_example_in_both_conventions() -> None:
    assert cross_correlation(IMAGE, KERNEL).tolist() == [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    assert convolution(IMAGE, KERNEL)[0, 0] == 18  # where a flipped kernel gives 12, it does not
    patch, kernel = torch.arange(1, 10).view(3, 3), torch.tensor([[1, 10, 100], [0, 0, 0], [0, 0, 1000]])
    assert cross_correlation(patch, kernel).tolist() == [[1 + 20 + 300 + 9000]]
    assert convolution(patch, kernel).tolist() == [[9 + 80 + 700 + 1000]]


def test_convolution_by_the_formula_of_its_definition() -> None:
    """C[i, j] = sum over m, n of f[m, n] g[i - m, j - n], written out with indices."""
    f, g = torch.tensor(KERNEL), torch.tensor(IMAGE)
    for i in range(2, 5):
        for j in range(2, 5):
            total = sum(int(f[m, n] * g[i - m, j - n]) for m in range(3) for n in range(3))
            assert convolution(IMAGE, KERNEL)[i - 2, j - 2] == total


def test_convolution_commutes_and_correlation_does_not() -> None:
    a, b = whole(3, 3, seed=1), whole(3, 3, seed=2)
    assert torch.equal(convolution(a, b, padding=2), convolution(b, a, padding=2))
    assert not torch.equal(cross_correlation(a, b, padding=2), cross_correlation(b, a, padding=2))


@settings(max_examples=80, deadline=None)
@given(cases)
def test_forward_and_gradients_in_any_dimension(case: tuple[list[int], list[int], dict[str, int]]) -> None:
    size, kernel, how = case
    assume(fits(*case))
    x, w = whole(*size).requires_grad_(), whole(*kernel, seed=1).requires_grad_()
    y = CONV[len(size)](x[None, None], w[None, None], **how)[0, 0]
    assert torch.equal(cross_correlation(x.detach(), w.detach(), **how), y)
    assert torch.equal(convolution(x.detach(), flipped(w.detach()), **how), y)
    upstream = whole(*y.shape, seed=2)
    of_x, of_w = torch.autograd.grad(y, (x, w), upstream)
    assert torch.equal(input_gradient(upstream, w.detach(), size, **how), of_x)
    assert torch.equal(kernel_gradient(x.detach(), upstream, kernel, **how), of_w)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_transposed(case: tuple[list[int], list[int], dict[str, int]]) -> None:
    size, kernel, how = case
    sides = [
        (w - 1) * how["stride"] - 2 * how["padding"] + how["dilation"] * (k - 1) + 1
        for w, k in zip(size, kernel, strict=True)
    ]
    assume(min(sides) > 0)
    x, w = whole(*size), whole(*kernel, seed=1)
    theirs = TRANSPOSED[len(size)](x[None, None], w[None, None], **how)[0, 0]
    assert torch.equal(transposed_convolution(x, w, **how), theirs)


def test_output_padding() -> None:
    x, w = whole(3, 4), whole(3, 3, seed=1)
    theirs = functional.conv_transpose2d(x[None, None], w[None, None], stride=2, padding=1, output_padding=1)[
        0, 0
    ]
    assert torch.equal(transposed_convolution(x, w, stride=2, padding=1, output_padding=1), theirs)


def test_channels() -> None:
    x, w, bias = whole(3, 8, 7), whole(4, 3, 3, 3, seed=1), whole(4, seed=2)
    theirs = functional.conv2d(x[None], w, bias, stride=2, padding=1)[0]
    assert torch.equal(conv_layer(x, w, bias, stride=2, padding=1), theirs)
    ones = torch.ones(3, 28, 28)
    shapes = [tuple(conv_layer(ones, torch.ones(c, 3, 5, 5)).shape) for c in range(1, 5)]
    assert shapes == [(c, 24, 24) for c in range(1, 5)]


def test_the_shift_of_an_image_is_the_shift_of_its_maps() -> None:
    """Equivariance: a moved image gives the moved map."""
    x = whole(9, 9)
    assert torch.equal(cross_correlation(x[:, 2:], KERNEL), cross_correlation(x, KERNEL)[:, 2:])


def test_fixed_kernels() -> None:
    flat, step = torch.full((5, 5), 7.0), torch.tensor([[0.0, 0, 0, 9, 9]] * 5)
    image = torch.tensor(IMAGE, dtype=torch.float32)
    for name, kernel in FIXED_KERNELS.items():
        keeps = sum(map(sum, kernel))
        assert torch.equal(cross_correlation(flat, kernel), torch.full((3, 3), 7.0 * keeps)), name
        assert torch.equal(convolution(image, kernel), cross_correlation(image, kernel)), "symmetric"
    assert {name for name, kernel in FIXED_KERNELS.items() if sum(map(sum, kernel)) == 0} == {
        "edges",
        "Laplacian",
    }
    assert torch.equal(cross_correlation(image, FIXED_KERNELS["identity"]), image[1:4, 1:4])
    assert cross_correlation(step, FIXED_KERNELS["edges"])[0].tolist() == [0, -27, 27]
    sharpened = image[1:4, 1:4] - cross_correlation(image, FIXED_KERNELS["Laplacian"])
    assert torch.equal(cross_correlation(image, FIXED_KERNELS["sharpen"]), sharpened)


def test_a_template_is_found_where_it_is() -> None:
    image = torch.zeros(9, 9)
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    image[5:8, 2:5] = cross
    answer = cross_correlation(image, centred(cross))
    assert divmod(int(answer.argmax()), 7) == (5, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cross_correlation(whole(5, 5), whole(3)), "as many dimensions; 2 and 1 came"),
        (lambda: cross_correlation(whole(2, 5), whole(3, 3)), "spans 3 pixels, and the input of 2 is smaller"),
        (lambda: conv_layer(whole(2, 5, 5), whole(4, 3, 3, 3)), r"\(4, 3, 3, 3\) and \(2, 5, 5\) came"),
    ],
)  # fmt: skip
def test_what_is_refused(call: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()  # type: ignore[operator]
