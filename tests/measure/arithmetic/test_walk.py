"""Sizes and receptive fields of chains: the printed rows, and the pixels that a gradient really reaches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.walk import Layer, conv, pool, receptive_fields, table, transposed, walk

VGG16 = [layer for depth in (2, 2, 3, 3, 3) for layer in [*[conv(3, padding=1)] * depth, pool(2)]]
ALEXNET = [conv(11, 4), pool(3, 2), conv(5, padding=2), pool(3, 2), *[conv(3, padding=1)] * 3, pool(3, 2)]


def test_the_two_printed_rows() -> None:
    row = walk(28, [conv(3, padding=1), conv(3, padding=1), conv(4, 2, 1), conv(5, 2, 1)])
    assert [step.size for step in row] == [28, 28, 28, 14, 6]
    assert [step.field for step in row] == [1, 3, 5, 8, 16]
    second = walk(28, [conv(3, padding=1), conv(3, padding=1), pool(2), conv(5)])
    assert [step.field for step in second] == [1, 3, 5, 6, 14]
    assert [step.size for step in second] == [28, 28, 28, 14, 10]  # "28" is printed for the last
    assert second[-1].output is not None
    assert second[-1].output.differs_from(28) is not None
    assert walk(28, [conv(3, padding=1), conv(3, padding=1), pool(2), conv(5, padding=2)])[-1].size == 14


def test_networks_of_the_canon() -> None:
    vgg, alexnet = walk(224, VGG16)[-1], walk(227, ALEXNET)[-1]
    assert (vgg.size, vgg.field, vgg.jump) == (7, 212, 32)
    assert (alexnet.size, alexnet.field, alexnet.jump) == (6, 195, 32)
    assert vgg.start == -90
    assert vgg.centre == 15.5  # 16 pixels from the edge of the image: half a jump
    assert receptive_fields((layer.kernel, layer.stride) for layer in VGG16)[-1] == 212


def build(layer: Layer) -> nn.Module:
    if layer.operation == "pool":
        return nn.AvgPool1d(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil)
    if layer.operation == "conv":
        made = nn.Conv1d(1, 1, layer.kernel, layer.stride, layer.padding, layer.dilation, bias=False)
    else:
        made = nn.ConvTranspose1d(1, 1, layer.kernel, layer.stride, layer.padding, bias=False)
    nn.init.ones_(made.weight)
    return made.double()


def reached(layers: list[Layer], width: int, unit: int) -> list[int]:
    """Pixels that one number of the last map depends on."""
    x = torch.zeros(1, 1, width, dtype=torch.float64, requires_grad=True)
    nn.Sequential(*map(build, layers))(x)[0, 0, unit].backward()
    assert x.grad is not None
    return x.grad[0, 0].nonzero()[:, 0].tolist()


convs = st.builds(conv, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
pools = st.builds(lambda k, s: pool(k, s, k // 2), st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=100, deadline=None)
@given(st.lists(convs | pools, min_size=1, max_size=5))
def test_a_chain_sees_what_its_row_says(layers: list[Layer]) -> None:
    width = 40 + 8 * int(walk(2000, layers)[-1].field)
    last = walk(width, layers)[-1]
    unit = next(u for u in range(last.size) if last.start + u * last.jump >= 0)  # in the interior
    seen = reached(layers, width, unit)
    assert seen[0] == last.start + unit * last.jump
    assert seen[-1] - seen[0] + 1 == last.field
    assert reached(layers, width, unit + 1)[0] - seen[0] == last.jump


@pytest.mark.parametrize(
    "layers", [[transposed(4, 2, 1)], [conv(3, 2, 1), transposed(3, 2, 1, 0), conv(3, padding=1)]]
)
def test_transposed_convolutions(layers: list[Layer]) -> None:
    last = walk(64, layers)[-1]
    widths = {seen[-1] - seen[0] + 1 for unit in range(20, 30) if (seen := reached(layers, 64, unit))}
    assert max(widths) <= last.field
    assert last.size == nn.Sequential(*map(build, layers))(torch.zeros(1, 1, 64).double()).shape[-1]
    assert last.jump * sum(1 for layer in layers if layer.operation != "conv" or layer.stride == 1) in (
        0.5,
        2,
    )


def test_what_does_not_fit_names_the_layer() -> None:
    with pytest.raises(
        UsageError, match=r"layer 3 \(conv 11\): the kernel spans 11 pixels, and the input of 5"
    ):
        walk(28, [conv(3), pool(5), conv(11)])


def test_the_table() -> None:
    lines = table(walk(224, VGG16)).splitlines()
    assert len(lines) == 2 + 1 + len(VGG16)
    assert lines[-1] == "| pool 2/2 | 7 | 212 | 32 | -90 |"
    assert "conv 3/2, p 1, d 2" in table(walk(9, [conv(3, 2, 1, 2)]))
