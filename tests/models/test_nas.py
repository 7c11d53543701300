"""NAS: the table of figure 7, its arithmetic, the joined inputs, genotypes that cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.nas import NAS, V1, Layer


def test_filters_of_figure_7() -> None:
    """Height x width x number, from the image to the softmax."""
    printed = "3x3x36 3x3x48 3x3x36 5x5x36 3x7x48 7x7x48 7x7x48 7x3x36 7x1x36 7x7x36 5x7x36 7x7x48 7x5x48 7x5x48 7x5x48"
    assert " ".join(f"{layer.height}x{layer.width}x{layer.filters}" for layer in V1) == printed
    assert all(i - 1 in layer.inputs for i, layer in enumerate(V1, start=1))  # never without the layer before


def test_weights_of_the_figure_are_the_paper_s_millions() -> None:
    """With the mean over all pixels 4.20 M; a linear layer over all of them would make it 4.69 M, not 4.2."""
    widths = [3, *(layer.filters for layer in V1)]
    weights = sum(
        layer.height * layer.width * layer.filters * sum(widths[j] for j in layer.inputs) for layer in V1
    )
    assert weights == 4_199_868
    assert weights + 2 * sum(widths[1:]) + 48 * 10 + 10 == 4_201_630
    assert round((weights + 48 * 32 * 32 * 10) / 1e6, 1) == 4.7


def test_a_layer_reads_the_concatenation_of_its_inputs() -> None:
    torch.manual_seed(0)
    genotype = (
        Layer(3, 1, 4, (0,)),
        Layer(1, 5, 5, (0, 1)),
        Layer(3, 3, 6, (1, 2)),
        Layer(1, 1, 2, (1, 3)),
    )
    network = NAS(genotype, num_classes=3).double().eval()
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    outputs = [x]
    for i, layer in enumerate(genotype, start=1):
        block = network.features.get_submodule(f"conv{i}")
        joined = torch.cat([outputs[j] for j in layer.inputs], dim=1)
        y = conv2d(joined, block.conv.weight, padding=(layer.height // 2, layer.width // 2))
        y = batch_norm(y, block.bn.running_mean, block.bn.running_var, block.bn.weight, block.bn.bias)
        outputs.append(torch.relu(y))
    torch.testing.assert_close(network.forward_features(x), outputs[-1])
    expected = network.get_classifier()(outputs[-1].mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


def test_nothing_changes_the_resolution() -> None:
    with torch.device("meta"):
        network = create_model("nas_v1")
        shapes = {tuple(y.shape[2:]) for _, y in network.run_features(torch.empty(1, 3, 40, 24))}
    assert shapes == {(40, 24)}
    assert {m.stride for m in network.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_more_filters() -> None:
    """The paper's largest network has 40 more in every layer."""
    with torch.device("meta"):
        network = create_model("nas_v1", extra_filters=40)
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [layer.filters + 40 for layer in V1]
    assert network.head_hidden_size == 88


@pytest.mark.parametrize(
    ("genotype", "says"),
    [
        ((Layer(3, 3, 8, (1,)),), "layer 1 reads"),
        ((Layer(3, 3, 8, ()),), "layer 1 reads"),
        ((Layer(2, 3, 8, (0,)),), "only odd sides"),
        ((Layer(3, 3, 8, (0,)), Layer(3, 3, 8, (0,))), r"layers \[1\] of 2 are read by none"),
        ((), "of 0"),
    ],
)
def test_genotypes_that_cannot_be(genotype: tuple[Layer, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        NAS(genotype)
