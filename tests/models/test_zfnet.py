"""ZFNet: the shapes of figure 3, and the rows of the ablation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convatlas.models import create_model
from convatlas.models.alexnet import AlexNet
from convatlas.models.zfnet import ABLATION


def built(name: str, **settings: object) -> AlexNet:
    with torch.device("meta"):
        network = create_model(name, **settings)
    assert isinstance(network, AlexNet)
    return network


@pytest.mark.parametrize(("name", "widths"), [("zfnet", (384, 384, 256)), ("zfnet_wide", (512, 1024, 512))])
def test_shapes_of_figure_3(name: str, widths: tuple[int, int, int]) -> None:
    x = torch.empty(1, 3, 224, 224, device="meta")
    found = [(n, out.shape[1], out.shape[2]) for n, out in built(name).eval().run_features(x)]
    assert found == [
        ("conv1", 96, 110),
        ("pool1", 96, 55),
        ("norm1", 96, 55),
        ("conv2", 256, 26),
        ("pool2", 256, 13),
        ("norm2", 256, 13),
        ("conv3", widths[0], 13),
        ("conv4", widths[1], 13),
        ("conv5", widths[2], 13),
        ("pool5", widths[2], 6),
    ]


def by_hand(layers: list[tuple[int, int, int]], hidden: list[int], groups: dict[int, int]) -> int:
    """Parameters of convolutions (number, channels, kernel) and hidden layers, then 1000 classes."""
    total, c_in = 0, 3
    for number, channels, kernel in layers:
        total += channels * (c_in // groups.get(number, 1) * kernel**2 + 1)
        c_in = channels
    width = c_in * 36
    for units in (*hidden, 1000):
        total += (width + 1) * units
        width = units
    return total


@pytest.mark.parametrize("row", ABLATION)
def test_rows_of_the_ablation_have_the_parameters_of_their_layers(row: str) -> None:
    network, settings, *errors = ABLATION[row]
    kernels = {1: 7 if network == "zfnet" else 11, 2: 5, 3: 3, 4: 3, 5: 3}
    channels = {1: 96, 2: 256} | dict(enumerate(settings.get("middle", (384, 384, 256)), start=3))
    kept = [i for i in range(1, 8) if i not in settings.get("removed", ())]
    expected = by_hand(
        [(i, channels[i], kernels[i]) for i in kept if i <= 5],
        [settings.get("hidden", 4096) for i in kept if i > 5],
        {2: 2, 4: 2, 5: 2} if network == "alexnet_2gpu" else {},
    )
    assert sum(p.numel() for p in built(network, **settings).parameters()) == expected
    train, top1, top5 = errors
    assert train < top1
    assert top5 < top1


def test_most_weights_are_in_the_layers_that_matter_little() -> None:
    """Without layers 6 and 7 the replica keeps less than a fifth of its parameters."""
    whole, less = (
        sum(p.numel() for p in built(row.network, **row.settings).parameters())
        for row in (ABLATION["Krizhevsky et al., replicated"], ABLATION["... without layers 6, 7"])
    )
    assert less / whole < 0.2


def test_the_wide_form_is_a_row_of_the_ablation() -> None:
    row = ABLATION["ZFNet, layers 3, 4, 5: 512, 1024, 512 maps"]
    wide, found = (
        {k: v.shape for k, v in net.state_dict().items()}
        for net in (built("zfnet_wide"), built(row.network, **row.settings))
    )
    assert wide == found


def test_biases_start_from_zero() -> None:
    torch.manual_seed(0)
    network = create_model("zfnet", hidden=64)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.bias is not None
            assert not module.bias.any()
            noise = 6 / math.sqrt(2 * module.weight.numel())
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=noise)


def test_pooling_rounds_up() -> None:
    pools = [m for m in built("zfnet").features if isinstance(m, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride, p.ceil_mode) for p in pools] == [(3, 2, True)] * 3
