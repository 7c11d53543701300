"""LeNet-5: its odd layers against slow, obvious forms of the paper's sentences."""

from __future__ import annotations

import math

import pytest
import torch

from convatlas.layers.scaled_tanh import ScaledTanh
from convatlas.models import create_model
from convatlas.models.lenet import C3_TABLE, DIGITS, RBF, Subsampling, TableConv2d, codes


def test_connection_table_of_the_paper() -> None:
    """Six maps take three neighbours, six take four, three take four with a gap, one takes all."""
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert len(set(C3_TABLE)) == 16
    for start, row in enumerate(C3_TABLE[:6]):
        assert set(row) == {(start + i) % 6 for i in range(3)}
    for start, row in enumerate(C3_TABLE[6:12]):
        assert set(row) == {(start + i) % 6 for i in range(4)}
    for start, row in enumerate(C3_TABLE[12:15]):
        assert set(row) == {(start + i) % 6 for i in (0, 1, 3, 4)}
    assert set(C3_TABLE[15]) == set(range(6))


def test_table_convolution_is_the_sum_over_connected_maps() -> None:
    torch.manual_seed(0)
    layer, x = TableConv2d(6, C3_TABLE, 5).double(), torch.randn(2, 6, 14, 14, dtype=torch.float64)
    assert layer.weight.shape == (60, 5, 5)
    expected = torch.zeros(2, 16, 10, 10, dtype=torch.float64)
    kernel = 0
    for output, inputs in enumerate(C3_TABLE):
        expected[:, output] += layer.bias[output].detach()
        for source in inputs:
            patches = x[:, source].unfold(1, 5, 1).unfold(2, 5, 1)
            expected[:, output] += (patches * layer.weight[kernel].detach()).sum((-1, -2))
            kernel += 1
    torch.testing.assert_close(layer(x), expected)


def test_subsampling_is_coefficient_times_sum_plus_bias() -> None:
    layer = Subsampling(1)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(3.0)
    x = torch.tensor([[[[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 8.0]]]])
    assert layer(x).tolist() == [[[[8.0, 7.0]]]]
    assert sum(p.numel() for p in Subsampling(6).parameters()) == 12


def test_squashing_function_passes_one_through_one() -> None:
    squash = ScaledTanh()
    assert squash(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1.0, -1.0], abs=1e-4)
    assert float(squash(torch.tensor(0.5))) == pytest.approx(1.7159 * math.tanh(1 / 3))


def test_rbf_is_minus_the_squared_distance() -> None:
    rbf, x = RBF(10), torch.randn(3, 84)
    for row in range(3):
        for digit in range(10):
            squared = sum((float(a) - float(b)) ** 2 for a, b in zip(x[row], rbf.codes[digit], strict=True))
            assert float(rbf(x)[row, digit]) == pytest.approx(-squared, rel=1e-5)
    assert rbf(rbf.codes).argmax(dim=1).tolist() == list(range(10))
    assert float(rbf(rbf.codes).diagonal().abs().max()) == 0


def test_codes_are_the_drawn_digits() -> None:
    drawn = codes(10)
    assert drawn.shape == (10, 84)
    assert drawn.unique().tolist() == [-1.0, 1.0]
    seven = drawn[7].view(12, 7)
    assert seven[0].tolist() == [1.0] * 7  # its roof
    assert seven[-1].tolist() == [-1, -1, 1, -1, -1, -1, -1]  # its foot
    assert DIGITS.count("#") == int((drawn == 1).sum())


def test_codes_beyond_the_digits_are_fixed_and_apart() -> None:
    many = codes(300)
    assert torch.equal(many[:10], codes(10))
    assert torch.equal(many[:40], codes(40))
    agreements = many @ many.T / 84
    assert float(agreements.fill_diagonal_(0).max()) < 1
    assert float(many[10:].mean().abs()) < 0.05


def test_codes_are_saved_but_not_trained() -> None:
    network = create_model("lenet5_1998")
    assert "head.output.codes" in network.state_dict()
    assert all("codes" not in name for name, _ in network.named_parameters())


def test_first_weights_lie_within_the_fan_in_bound() -> None:
    torch.manual_seed(0)
    parameters = create_model("lenet5_1998").state_dict()
    fans = {
        "features.C1.conv": 25,
        "features.S2.sum": 4,
        "features.S4.sum": 4,
        "features.C5.conv": 400,
        "head.F6": 120,
    }
    for layer, fan_in in fans.items():
        weight, bound = parameters[f"{layer}.weight"], 2.4 / fan_in
        assert float(weight.abs().max()) <= bound
        if weight.numel() > 100:
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    c3 = parameters["features.C3.conv.weight"]
    for kernels, fan_in in ((c3[:18], 75), (c3[18:54], 100), (c3[54:], 150)):
        assert 0.9 * 2.4 / fan_in < float(kernels.abs().max()) <= 2.4 / fan_in
