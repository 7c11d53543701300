"""Inception v3: the modules of figures 5 to 7, sizes of table 1, savings of the factors, the auxiliary head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers.branches import Branches
from convatlas.models import create_model, find
from convatlas.models.classifier import Classifier, WithAuxiliary
from convatlas.models.inception_v3 import conv, module_8, module_17, module_35

# Pixels and channels that go into the next layer: table 1, with the released network's stem.
OUTPUTS = {
    "conv1a": (32, 149),
    "conv2a": (32, 147),
    "conv2b": (64, 147),
    "pool3a": (64, 73),
    "conv3b": (80, 73),
    "conv4a": (192, 71),
    "pool5a": (192, 35),
    "mixed5b": (256, 35),
    "mixed5c": (288, 35),
    "mixed5d": (288, 35),
    "mixed6a": (768, 17),
    "mixed6b": (768, 17),
    "mixed6c": (768, 17),
    "mixed6d": (768, 17),
    "mixed6e": (768, 17),
    "mixed7a": (1280, 8),
    "mixed7b": (2048, 8),
    "mixed7c": (2048, 8),
}


def test_maps_of_table_1() -> None:
    with torch.device("meta"):
        network = create_model("inception_v3")
        assert isinstance(network, Classifier)
        found = {name: tuple(x.shape[1:]) for name, x in network.run_features(torch.empty(1, 3, 299, 299))}
    assert found == {name: (channels, side, side) for name, (channels, side) in OUTPUTS.items()}


def test_channels_of_the_lectures_list() -> None:
    """32, 64, 80, 192, 288, 768, 1280, 2048: what new layers widen to, in order."""
    widths = [channels for channels, _ in OUTPUTS.values()]
    assert [w for w in dict.fromkeys(widths) if w != 256] == [32, 64, 80, 192, 288, 768, 1280, 2048]


def kernels(module: nn.Module) -> dict[str, list[tuple[int, ...]]]:
    return {
        name: [layer.kernel_size for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
        for name, branch in module.named_children()
    }


def test_figure_5() -> None:
    assert kernels(module_35(192, 32)) == {
        "1x1": [(1, 1)],
        "5x5": [(1, 1), (5, 5)],
        "double3x3": [(1, 1), (3, 3), (3, 3)],
        "pool": [(1, 1)],
    }


def test_figure_6() -> None:
    assert kernels(module_17(768, 128)) == {
        "1x1": [(1, 1)],
        "7x7": [(1, 1), (1, 7), (7, 1)],
        "double7x7": [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)],
        "pool": [(1, 1)],
    }


def test_figure_7_has_factors_side_by_side() -> None:
    module = module_8(1280)
    assert kernels(module) == {
        "1x1": [(1, 1)],
        "3x3": [(1, 1), (1, 3), (3, 1)],
        "double3x3": [(1, 1), (3, 3), (1, 3), (3, 1)],
        "pool": [(1, 1)],
    }
    branch = module.get_submodule("double3x3")
    assert isinstance(branch, nn.Sequential)
    assert isinstance(branch[2], Branches)
    module.eval()
    x = torch.randn(1, 1280, 3, 3)
    inner = branch[1](branch[0](x))
    pair = torch.cat([branch[2].get_submodule(name)(inner) for name in ("1x3", "3x1")], 1)
    torch.testing.assert_close(module(x)[:, 320 + 768 : 320 + 768 + 768], pair)


@pytest.mark.parametrize(
    ("whole", "factors", "alpha", "saved"),
    [
        (5, [(3, 3), (3, 3)], 1, 28.0),
        (5, [(3, 3), (3, 3)], 2, 23.63),
        (3, [(1, 3), (3, 1)], 1, 33.33),
        (3, [(1, 3), (3, 1)], 2, 29.29),
    ],
)
def test_savings_of_the_factors(whole: int, factors: list[tuple[int, int]], alpha: int, saved: float) -> None:
    """n maps to alpha n maps, by way of sqrt(alpha) n (section 3), in percent of the weights."""
    n = 10_000
    middle, last = round(alpha**0.5 * n), alpha * n
    with torch.device("meta"):
        pair = [nn.Conv2d(n, middle, factors[0], bias=False), nn.Conv2d(middle, last, factors[1], bias=False)]
        one = nn.Conv2d(n, last, whole, bias=False)
    share = sum(layer.weight.numel() for layer in pair) / one.weight.numel()
    assert 100 * (1 - share) == pytest.approx(saved, abs=0.01)


def test_batch_norm_has_the_released_epsilon() -> None:
    with torch.device("meta"):
        epsilons = {m.eps for m in create_model("inception_v3").modules() if isinstance(m, nn.BatchNorm2d)}
    assert epsilons == {conv(1, 1).bn.eps} == {1e-3}


def test_auxiliary_head_has_batch_norm_and_is_optional() -> None:
    with torch.device("meta"):
        network = create_model("inception_v3")
        assert isinstance(network, Classifier)
        head = network.auxiliary["mixed6e"]
        assert sum(isinstance(m, nn.BatchNorm2d) for m in head.modules()) == 2
        assert head.shrink(torch.empty(1, 768, 17, 17)).shape[2:] == (5, 5)
        spoken = network.train()(torch.empty(2, 3, 299, 299))
        assert isinstance(spoken, WithAuxiliary)
        assert [logits.shape for logits in (spoken.logits, *spoken.auxiliary)] == [(2, 1000)] * 2
        assert not create_model("inception_v3", aux=False).auxiliary
    everything = sum(p.numel() for p in network.parameters())
    assert everything == 27_161_264


def test_smallest_images() -> None:
    """One pixel less, and a map or the auxiliary head has no pixel left."""
    with torch.device("meta"):
        for name in ("inception_v3", "inception_v3_without_aux"):
            side = find(name).smallest
            network = create_model(name).train()
            network(torch.empty(4, 3, side, side))
            with pytest.raises(RuntimeError):
                network(torch.empty(4, 3, side - 1, side - 1))


def test_weights_with_and_without_the_head_are_the_same_network() -> None:
    with torch.device("meta"):
        full, bare = create_model("inception_v3"), create_model("inception_v3_without_aux")
    names = {name for name in full.state_dict() if not name.startswith("auxiliary.")}
    assert names == set(bare.state_dict())
