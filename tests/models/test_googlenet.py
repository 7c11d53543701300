"""GoogLeNet: the modules' costs, the rows of table 1, the auxiliary heads, what torchvision does otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convatlas.errors import UsageError
from convatlas.measure import measure
from convatlas.models import create_model, find
from convatlas.models.classifier import Classifier, WithAuxiliary
from convatlas.models.googlenet import TABLE_1, Widths, naive_module, reduced_module

# Weights without biases and multiply-adds of every row of table 1, by the arithmetic of its columns.
ROWS = {
    "features.conv1": (9_408, 118_013_952),
    "features.conv2": (114_688, 359_661_568),
    "features.inception3a": (163_328, 128_049_152),
    "features.inception3b": (388_096, 304_267_264),
    "features.inception4a": (375_552, 73_608_192),
    "features.inception4b": (448_512, 87_908_352),
    "features.inception4c": (509_440, 99_850_240),
    "features.inception4d": (604_672, 118_515_712),
    "features.inception4e": (867_328, 169_996_288),
    "features.inception5a": (1_042_432, 51_079_168),
    "features.inception5b": (1_442_816, 70_697_984),
    "head.fc": (1_024_000, 1_024_000),
}
# The column "output size", pooling included.
OUTPUTS = {
    "conv1": (64, 112),
    "pool1": (64, 56),
    "conv2": (192, 56),
    "pool2": (192, 28),
    "inception3a": (256, 28),
    "inception3b": (480, 28),
    "pool3": (480, 14),
    "inception4a": (512, 14),
    "inception4b": (512, 14),
    "inception4c": (512, 14),
    "inception4d": (528, 14),
    "inception4e": (832, 14),
    "pool4": (832, 7),
    "inception5a": (832, 7),
    "inception5b": (1024, 7),
}


def weights(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight"))


def test_costs_of_the_naive_module() -> None:
    """The lectures' example, 28x28x256 into 128, 192 and 96 filters; pooling adds all 256 channels again."""
    module = naive_module(256, 128, 192, 96)
    measured = measure(module, (256, 28, 28))
    assert measured.macs == 28 * 28 * 256 * (128 + 9 * 192 + 25 * 96) == 854_196_224
    assert measured.rows[-1].output_shape == (672, 28, 28)
    assert 672 * 28 * 28 == 526_848
    assert weights(module) == 1_089_536


def test_costs_of_the_reduced_module() -> None:
    """The sum of the six products that the lecture lists; its 358 million counts the 3x3 product twice."""
    module = reduced_module(256, Widths(128, 64, 192, 64, 96, 64))
    measured = measure(module, (256, 28, 28))
    assert measured.macs == 271_351_808
    assert measured.rows[-1].output_shape == (480, 28, 28)
    assert weights(module) == 346_112
    assert measured.macs + 28 * 28 * 192 * 9 * 64 == 358_055_936


def test_branches_of_the_naive_module_by_hand() -> None:
    torch.manual_seed(0)
    module = naive_module(6, 2, 3, 4).double()
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    parts: list[Tensor] = []
    for kernel in (1, 3, 5):
        conv = module.get_submodule(f"{kernel}x{kernel}.0.conv")
        assert conv.weight.shape[2:] == (kernel, kernel)
        parts.append(torch.relu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=kernel // 2)))
    windows = nn.functional.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 1).unfold(3, 3, 1)
    torch.testing.assert_close(module(x), torch.cat([*parts, windows.amax((4, 5))], 1))


@pytest.mark.parametrize("path", ROWS)
def test_rows_of_table_1(path: str) -> None:
    with torch.device("meta"):
        network = create_model("googlenet_paper")
    rows = measure(network, (3, 224, 224)).rows
    macs = sum(row.macs for row in rows if row.name == path or row.name.startswith(f"{path}."))
    assert (weights(network.get_submodule(path)), macs) == ROWS[path]


def test_printed_rows_are_those_of_the_table() -> None:
    assert list(find("googlenet_paper").published.params_by_layer) == list(ROWS)
    assert list(find("googlenet_paper").published.macs_by_layer) == list(ROWS)


def test_outputs_of_table_1() -> None:
    with torch.device("meta"):
        network = create_model("googlenet_paper")
        assert isinstance(network, Classifier)
        found = dict(network.run_features(torch.empty(1, 3, 224, 224)))
    shapes = {name: tuple(output.shape[1:]) for name, output in found.items() if "lrn" not in name}
    assert shapes == {name: (channels, side, side) for name, (channels, side) in OUTPUTS.items()}


def test_twenty_two_layers_on_the_longest_path() -> None:
    """Three convolutions in the stem, two a module, one linear layer."""
    modules = [row for row in TABLE_1.values() if row.reduce3 and row.three]
    with torch.device("meta"):
        network = create_model("googlenet_paper")
    stem = [m for n, m in network.features.named_modules() if n[:4] == "conv" and isinstance(m, nn.Conv2d)]
    assert len(stem) + 2 * len(modules) + 1 == find("googlenet_paper").published.layers == 22


def kernels(name: str) -> set[int]:
    with torch.device("meta"):
        modules = create_model(name).named_modules()
    return {m.kernel_size[0] for path, m in modules if ".5x5.1" in path and isinstance(m, nn.Conv2d)}


def test_real_5x5_convolutions_and_torchvisions_3x3() -> None:
    assert kernels("googlenet_paper") == {5}
    assert kernels("googlenet") == {3}


def test_auxiliary_heads_speak_in_training_only() -> None:
    network = create_model("googlenet_paper", num_classes=5)
    assert isinstance(network, Classifier)
    assert list(network.auxiliary) == ["inception4a", "inception4d"]
    assert network.auxiliary_weight == 0.3
    x = torch.randn(2, 3, 64, 64)
    spoken = network.train()(x)
    assert isinstance(spoken, WithAuxiliary)
    assert [tuple(logits.shape) for logits in (spoken.logits, *spoken.auxiliary)] == [(2, 5)] * 3
    assert network.eval()(x).shape == (2, 5)
    silent = create_model("googlenet_paper", num_classes=5, aux=False).train()
    assert silent(x).shape == (2, 5)


def test_paper_pooling_of_the_auxiliary_heads() -> None:
    """5x5 windows, stride 3: 14x14 pixels give 4x4. Other sizes are brought to 4x4."""
    with torch.device("meta"):
        head = create_model("googlenet_paper").auxiliary["inception4a"]
    pooling = nn.Sequential(head.pool, head.fit)
    x = torch.randn(1, 3, 14, 14, dtype=torch.float64)
    expected = x.unfold(2, 5, 3).unfold(3, 5, 3).mean((4, 5))
    torch.testing.assert_close(pooling(x), expected)
    assert [pooling(torch.randn(1, 3, n, n)).shape[2:] for n in (3, 4, 7, 28)] == [(4, 4)] * 4


def test_normalisation_stands_around_the_second_and_third_convolution() -> None:
    with torch.device("meta"):
        names = [name for name, _ in create_model("googlenet_paper").features.named_children()]
        without = [name for name, _ in create_model("googlenet").features.named_children()]
    assert names[:6] == ["conv1", "pool1", "lrn1", "conv2", "lrn2", "pool2"]
    assert without[:4] == ["conv1", "pool1", "conv2", "pool2"]


def test_dropout_of_the_paper() -> None:
    with torch.device("meta"):
        rates = {
            n: m.p for n, m in create_model("googlenet_paper").named_modules() if isinstance(m, nn.Dropout)
        }
    assert rates == {
        "auxiliary.inception4a.dropout": 0.7,
        "auxiliary.inception4d.dropout": 0.7,
        "head.dropout": 0.4,
    }


def test_auxiliary_heads_enlarge_the_gradient_of_the_first_layer() -> None:
    """Section 5's reason for them: without BatchNorm, little of the last layer's gradient arrives there."""
    torch.manual_seed(0)
    network = create_model("googlenet_paper", num_classes=10).train()
    images, classes = torch.randn(4, 3, 96, 96), torch.arange(4)
    losses = [nn.functional.cross_entropy(logits, classes) for logits in tree_leaves(tuple(network(images)))]
    first = network.get_submodule("features.conv1.conv").weight
    (alone,) = torch.autograd.grad(losses[0], first, retain_graph=True)
    (helped,) = torch.autograd.grad(losses[0] + 0.3 * (losses[1] + losses[2]), first)
    assert float(helped.norm()) > 1.5 * float(alone.norm()) > 0


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_smallest_image_that_trains(name: str) -> None:
    side = find(name).smallest
    spoken = create_model(name, num_classes=3).train()(torch.randn(4, 3, side, side))
    assert all(torch.isfinite(logits).all() for logits in tree_leaves(tuple(spoken)))
    if name == "googlenet_paper":
        with pytest.raises(RuntimeError, match="too small"):
            create_model(name).train()(torch.randn(4, 3, side - 1, side - 1))


def test_unknown_settings() -> None:
    with pytest.raises(UsageError, match="'paper' and 'adaptive'"):
        create_model("googlenet", aux_pool="max")
    with pytest.raises(UsageError, match="odd kernel size"):
        create_model("googlenet", largest=4)
