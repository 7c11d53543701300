"""Network In Network: an mlpconv is a perceptron in each window, and the mean of a class's map is its logit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.models.nin import mlpconv


def built(name: str, **settings: object) -> Classifier:
    network = create_model(name, **settings)
    assert isinstance(network, Classifier)
    return network


def test_mlpconv_is_one_perceptron_in_every_window() -> None:
    """Equation 2, window by window."""
    torch.manual_seed(0)
    layer, x = mlpconv(2, (5, 4, 3), 3).double(), torch.randn(1, 2, 6, 7, dtype=torch.float64)
    state = layer.state_dict()
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    found = layer(x)
    for row in range(6):
        for column in range(7):
            h = padded[0, :, row : row + 3, column : column + 3].flatten()
            for i in (1, 2, 3):
                h = (state[f"conv{i}.weight"].flatten(1) @ h + state[f"conv{i}.bias"]).clamp(min=0)
            torch.testing.assert_close(found[0, :, row, column], h)


@pytest.mark.parametrize("classes", [10, 100])
def test_layers_of_the_authors(classes: int) -> None:
    with torch.device("meta"):
        network = built(f"nin_cifar{classes}")
    found = [
        f"{m.kernel_size[0]}x{m.kernel_size[1]} {m.out_channels}"
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    widths = ["5x5 192", "1x1 160", "1x1 96", "5x5 192", "1x1 192", "1x1 192", "3x3 192", "1x1 192"]
    assert found == [*widths, f"1x1 {classes}"]
    sizes = [out.shape[2] for _, out in network.eval().run_features(torch.empty(1, 3, 32, 32, device="meta"))]
    assert sizes == [32, 16, 16, 16, 8, 8, 8]


def test_logits_are_the_means_of_class_maps() -> None:
    torch.manual_seed(0)
    network, x = built("nin_cifar10").eval(), torch.randn(2, 3, 32, 32)
    features = network.forward_features(x)
    maps = network.get_classifier()(features).clamp(min=0)
    assert maps.shape == (2, 10, 8, 8)
    torch.testing.assert_close(network(x), maps.mean((2, 3)))


def test_both_second_poolings_keep_the_shape() -> None:
    torch.manual_seed(0)
    most, mean = built("nin_cifar10").eval(), built("nin_cifar10", second_pool="mean").eval()
    mean.load_state_dict(most.state_dict())
    x = torch.randn(1, 3, 32, 32)
    (_, highest), (_, average) = (list(network.run_features(x))[4] for network in (most, mean))
    assert highest.shape == average.shape == (1, 192, 8, 8)
    assert bool((highest >= average).all())
    assert bool((highest > average).any())


def test_dropout_follows_the_poolings() -> None:
    names = [name for name, _ in built("nin_cifar10").features.named_children()]
    assert names == ["mlpconv1", "pool1", "drop1", "mlpconv2", "pool2", "drop2", "mlpconv3"]


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="'max' and 'mean'"):
        built("nin_cifar10", second_pool="average")
