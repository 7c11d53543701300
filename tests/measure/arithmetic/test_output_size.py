"""The formula against PyTorch's layers, every case that the lectures print, and what is refused."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.output_size import (
    cases,
    conv_size,
    effective_kernel,
    pool_size,
    transposed_size,
)

small = st.integers(1, 6)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), small, small, st.integers(0, 5), st.integers(1, 4))
def test_a_convolution(w: int, k: int, s: int, p: int, d: int) -> None:
    layer, x = nn.Conv1d(1, 1, k, s, p, d, device="meta"), torch.empty(1, 1, w, device="meta")
    if effective_kernel(k, d) > w + 2 * p:
        with pytest.raises(UsageError, match="is smaller; use a padding of at least"):
            conv_size(w, k, stride=s, padding=p, dilation=d)
        with pytest.raises(RuntimeError):
            layer(x)
        return
    found = conv_size(w, k, stride=s, padding=p, dilation=d)
    assert found.size == layer(x).shape[-1]
    assert found.divides == ((w + 2 * p - found.span) % s == 0)
    assert found.left_over == w + 2 * p - ((found.size - 1) * s + found.span)
    assert found.steps[-1].endswith(str(found.size))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), small, small, st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_a_pooling(w: int, k: int, s: int, p: int, d: int, ceil: bool) -> None:
    span = effective_kernel(k, d)
    if span > w + 2 * p or 2 * p > k:
        return
    found = pool_size(w, k, stride=s, padding=p, dilation=d, ceil=ceil)
    layer = nn.MaxPool1d(k, s, p, d, ceil_mode=ceil)
    assert found.size == layer(torch.zeros(1, 1, w)).shape[-1]
    assert (found.size - 1) * s + span == w + 2 * p - found.left_over + found.beyond


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), small, small, st.integers(0, 3), st.integers(1, 3), st.integers(0, 3))
def test_a_transposed_convolution(w: int, k: int, s: int, p: int, d: int, extra: int) -> None:
    layer = nn.ConvTranspose1d(1, 1, k, s, p, extra, dilation=d)
    try:
        found = transposed_size(w, k, stride=s, padding=p, dilation=d, output_padding=extra)
    except UsageError:
        with pytest.raises(RuntimeError):
            layer(torch.zeros(1, 1, w))
        return
    assert found.size == layer(torch.zeros(1, 1, w)).shape[-1]
    if extra < s:  # it undoes the size that a convolution gives
        assert conv_size(found.size, k, stride=s, padding=p, dilation=d).size == w


@settings(deadline=None)
@given(st.integers(1, 40), small, small, st.integers(1, 3))
def test_same_padding_gives_the_size_by_the_stride(w: int, k: int, s: int, d: int) -> None:
    before, after = conv_size(w, k, stride=s, padding=k * d, dilation=d).same
    layer = nn.Conv1d(1, 1, k, s, dilation=d, device="meta")
    assert layer(torch.empty(1, 1, before + w + after, device="meta")).shape[-1] == -(-w // s)
    assert after - before in (0, 1)


# --- what the lectures print --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "size"),
    [
        (conv_size(4, 2), 3),
        (conv_size(4, 2, stride=2), 2),
        (conv_size(227, 11, stride=4), 55),
        (conv_size(28, 5), 24),
        (conv_size(28, 3, padding=1), 28),
        (conv_size(7, 3, padding=1), 7),  # the regular animation: 3x3, padding 1
        (conv_size(7, 3, dilation=2), 3),  # the dilated one: "dilated 1" is one zero between taps, d = 2
        (pool_size(55, 3, stride=2), 27),
        (pool_size(4, 2), 2),
        (transposed_size(2, 3), 4),
        (transposed_size(5, 3, padding=2), 3),
        (transposed_size(2, 3, stride=2, padding=1), 3),
    ],
)
def test_every_printed_size(found: object, size: int) -> None:
    assert found.size == size  # type: ignore[attr-defined]
    assert found.differs_from(size) is None  # type: ignore[attr-defined]


def test_the_drawing_that_is_wrong() -> None:
    """Padding 1 drawn with a 2x2 output, for w = 4, k = 2, s = 2."""
    found = conv_size(4, 2, stride=2, padding=1)
    assert (found.size, found.divides) == (3, True)
    assert (
        found.differs_from(2) == "the formula gives (4 - 2 + 2*1)/2 + 1 = 3, not 2; padding 0 would give 2."
    )
    assert found.same == (0, 0)
    assert found.size != found.width  # nor does padding 1 keep the size
    assert (
        conv_size(227, 11, stride=4).differs_from(1000)
        == "the formula gives (227 - 11)/4 + 1 = 55, not 1000."
    )


def test_what_a_transposed_convolution_should_have_been() -> None:
    found = transposed_size(4, 2, stride=2)
    assert found.differs_from(6) == "the formula gives (4 - 1)*2 + 2 = 8, not 6; padding 1 would give 6."


def test_steps_and_sentences() -> None:
    assert conv_size(7, 3, dilation=2).steps == ("k_eff = 3 + (3 - 1)*(2 - 1) = 5", "(7 - 5)/1 + 1 = 3")
    up = pool_size(112, 3, stride=2, ceil=True)
    assert up.steps == ("(112 - 3)/2 + 1 = 55.5", "ceil 55.5 = 56")
    assert up.sentence == (
        "112 pixels become 56: the last window reaches 1 pixel over the border, as sizes are rounded up."
    )
    assert "exactly at the border" in conv_size(227, 11, stride=4).sentence
    left_out = pool_size(3, 2, stride=5, padding=1, ceil=True)
    assert (left_out.size, left_out.left_over) == (1, 3)
    assert left_out.steps[-1] == "the last window would start in the padding: 1"
    assert transposed_size(2, 3, stride=2, padding=1, output_padding=1).steps == (
        "(2 - 1)*2 - 2*1 + 3 + 1 = 4",
    )
    assert transposed_size(2, 3).sentence == "2 pixels become 4."


def test_all_cases_of_a_table() -> None:
    found = {(c.kernel, c.stride, c.padding, c.dilation): c.size for c in
             cases(5, range(1, 5), range(1, 3), range(2), range(1, 3))}  # fmt: skip
    fits = [k for k in product(range(1, 5), range(1, 3), range(2), range(1, 3))
            if effective_kernel(k[0], k[3]) <= 5 + 2 * k[2]]  # fmt: skip
    assert sorted(found) == sorted(fits)
    assert found[4, 1, 1, 2] == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: conv_size(5, 11), "spans 11 pixels, and the input of 5 is smaller; use a padding of at least 3"),
        (lambda: conv_size(4, 3, padding=1, dilation=4), r"9 pixels \(3 taps with dilation 4\).*6 with its padding"),
        (lambda: conv_size(0, 3), "a width of 0"),
        (lambda: conv_size(8, 3, stride=0), "a stride of 0"),
        (lambda: conv_size(8, 3, padding=-1), "a padding of -1"),
        (lambda: conv_size(8, 3, dilation=0), "a dilation of 0"),
        (lambda: pool_size(8, 2, padding=2), "takes a padding of at most 1, not 2"),
        (lambda: transposed_size(4, 3, stride=2, output_padding=2), "smaller than the stride"),
        (lambda: transposed_size(1, 3, padding=2), "takes away all"),
    ],
)  # fmt: skip
def test_what_is_refused(call: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()  # type: ignore[operator]
