"""Layers that other pages take for granted, worked out by hand: pooling, LRN, BatchNorm, dropout, 1x1, heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from convatlas.layers.lrn import lrn
from convatlas.measure import measure
from convatlas.measure.arithmetic.matrix import conv_matrix


def whole(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(-9, 10, size, generator=torch.Generator().manual_seed(seed)).double()


def test_pooling_the_numbers_1_to_16() -> None:
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    assert nn.AvgPool2d(2)(x)[0, 0].tolist() == [[3.5, 5.5], [11.5, 13.5]]
    assert nn.MaxPool2d(2)(x)[0, 0].tolist() == [[6, 8], [14, 16]]
    assert measure(nn.MaxPool2d(2), (1, 4, 4)).params == 0
    # A mean is a convolution with equal weights; a maximum is none.
    mean = conv_matrix(torch.full((2, 2), 0.25), (4, 4), stride=2)
    assert mean.apply(x[0, 0]).tolist() == [[3.5, 5.5], [11.5, 13.5]]


def test_local_response_normalisation() -> None:
    """b_i = a_i / (k + alpha * sum of a_j^2 over n channels around i)^beta, channels beyond the ends left out."""
    a = whole(1, 7, 2, 3)
    k, n, alpha, beta = 2.0, 5, 0.01, 0.75
    by_hand = torch.empty_like(a)
    for i in range(7):
        near = a[0, max(0, i - n // 2) : min(6, i + n // 2) + 1]
        by_hand[0, i] = a[0, i] / (k + alpha * near.square().sum(0)) ** beta
    assert torch.allclose(lrn(n, k=k, alpha=alpha, beta=beta)(a), by_hand)


def test_batch_normalisation_by_algorithm_1() -> None:
    """Mean and biased variance of the batch; running ones move by a tenth, the variance with Bessel's correction."""
    x, norm = whole(6, 3, 2, 2), nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.0, 5.0, -1.0]))
    m = 6 * 2 * 2
    y = norm(x)
    for c in range(3):
        values = x[:, c].flatten().tolist()
        mean = sum(values) / m
        variance = sum((value - mean) ** 2 for value in values) / m
        by_hand = (x[:, c] - mean) / (variance + 1e-5) ** 0.5 * norm.weight[c] + norm.bias[c]
        assert torch.allclose(y[:, c], by_hand)
        assert torch.isclose(norm.running_mean[c], torch.tensor(0.1 * mean).double())  # type: ignore[index]
        assert torch.isclose(norm.running_var[c], torch.tensor(0.9 + 0.1 * variance * m / (m - 1)).double())  # type: ignore[index]
    one = whole(1, 3, 2, 2, seed=1)  # in evaluation an image does not depend on its companions
    norm.eval()
    assert torch.equal(norm(torch.cat([one, x]))[:1], norm(one))


def test_dropout_keeps_the_mean() -> None:
    """Inverted: what is kept is divided by the share that is kept, so evaluation changes nothing."""
    torch.manual_seed(0)
    x, layer = torch.full((100_000,), 3.0), nn.Dropout(0.4)
    y = layer(x)
    assert set(y.unique().tolist()) == {0.0, 5.0}
    share = float((y == 0).float().mean())
    assert abs(share - 0.4) < 5 * (0.4 * 0.6 / 100_000) ** 0.5
    torch.manual_seed(0)
    mask = (functional.dropout(torch.ones(100_000), 0.4) > 0).float()
    assert torch.allclose(y, x * mask / 0.6)
    assert torch.equal(layer.eval()(x), x)


def test_a_1x1_convolution_is_a_linear_layer_at_every_pixel() -> None:
    x, conv = whole(2, 5, 3, 4), nn.Conv2d(5, 7, 1).double()
    linear = functional.linear(x.permute(0, 2, 3, 1), conv.weight[:, :, 0, 0], conv.bias).permute(0, 3, 1, 2)
    assert torch.allclose(conv(x), linear)


def test_the_price_of_a_flattened_head() -> None:
    """A linear layer over 224x224x3 pixels, and the same classes after a mean over the pixels."""
    flat = nn.Linear(224 * 224 * 3, 1000, device="meta")
    assert (flat.weight.numel(), measure(flat, (224 * 224 * 3,)).params) == (150_528_000, 150_529_000)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000, device="meta"))
    assert measure(pooled, (3, 224, 224)).params == 4_000


def test_a_convolution_is_a_linear_layer_with_few_weights() -> None:
    matrix = conv_matrix(torch.empty(4, 3, 3, 3), (8, 8), padding=1)
    dense = nn.Linear(3 * 8 * 8, 4 * 8 * 8, bias=False, device="meta")
    assert matrix.entries == dense.weight.numel() == 49_152
    assert matrix.non_zeros == 4 * 3 * (3 * 8 - 2) ** 2  # 22 pairs of rows meet, and as many of columns
    assert matrix.distinct == 108
