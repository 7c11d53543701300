"""Whitening: what leaves the first convolution is uncorrelated and of variance 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.init import initialise
from convatlas.layers.init.whitening import covariance
from convatlas.models import create_model


def photos(count: int = 60, side: int = 32) -> Tensor:
    """Windows of two real photographs, normalised: (count, 3, side, side)."""
    torch.manual_seed(0)
    found: list[Tensor] = []
    for photo in load_sample_images().images:
        pixels = torch.tensor(photo).permute(2, 0, 1).float()
        for _ in range(count // 2):
            y, x = (int(torch.randint(length - side, ())) for length in pixels.shape[1:])
            found.append(pixels[:, y : y + side, x : x + side])
    images = torch.stack(found)
    return (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)


def test_outputs_are_uncorrelated_with_variance_one_and_come_in_pairs() -> None:
    x, net = photos(), create_model("speedrun_cifar")
    initialise(net, "whitening", batch=x, eps=0.0)
    layer = net.features.whiten.conv
    y = F.conv2d(x.double(), layer.weight.double()).transpose(0, 1).flatten(1)
    moments = y @ y.T / y.shape[1]
    expected = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(moments[:12, :12], expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(moments[:12, 12:], -expected, rtol=0, atol=2e-3)
    plain = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    raw = plain.T @ plain / len(plain)
    assert float((raw - raw.diag().diag()).abs().max()) > 0.5  # they were alike before


def test_strongest_directions_first_and_weak_ones_are_not_blown_up() -> None:
    x, net = photos(), create_model("speedrun_cifar")
    initialise(net, "whitening", batch=x)
    norms = net.features.whiten.conv.weight[:12].flatten(1).norm(dim=1)
    assert bool((norms.diff() >= -1e-5).all())
    assert float(norms.max()) <= (5e-4) ** -0.5


def test_covariance_is_that_of_all_patches() -> None:
    x = photos(10, side=6).double()
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    padded = F.pad(x, (1, 1, 1, 1))
    patches = [
        padded[n, :, i : i + 3, j : j + 3].flatten() for n in range(10) for i in (0, 2, 4) for j in (0, 2, 4)
    ]
    by_hand = torch.stack([torch.outer(p, p) for p in patches]).mean(0)
    torch.testing.assert_close(covariance(layer, x), by_hand)


def test_only_the_first_filters_change() -> None:
    x, net = photos(), create_model("speedrun_cifar")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    initialise(net, "whitening", batch=x)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"features.whiten.conv.weight"}
    again = create_model("speedrun_cifar")
    initialise(again, "whitening", batch=x)
    assert torch.equal(again.features.whiten.conv.weight, net.features.whiten.conv.weight)


def test_a_layer_with_fewer_or_more_outputs() -> None:
    x = photos()
    few, many = nn.Conv2d(3, 6, 2), nn.Conv2d(3, 30, 2)
    rest = many.weight[24:].detach().clone()
    whole = create_model("speedrun_cifar")
    for net in (few, many, whole):
        initialise(net, "whitening", batch=x)
    first = whole.features.whiten.conv.weight
    torch.testing.assert_close(few.weight, torch.cat((first[:3], -first[:3])))
    torch.testing.assert_close(many.weight[:24], first)
    assert torch.equal(many.weight[24:], rest)


def test_networks_that_do_not_begin_with_a_convolution_are_refused() -> None:
    for net in (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), nn.Conv2d(3, 3, 3, groups=3)):
        with pytest.raises(UsageError, match="begin with a convolution"):
            initialise(net, "whitening", batch=photos(4))
    with pytest.raises(UsageError, match="0 or more"):
        initialise(nn.Conv2d(3, 6, 2), "whitening", batch=photos(4), eps=-1.0)
