"""SqueezeNet: the fire module, the parameters of table 1 part by part, and what the forms for small images change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.models.squeezenet import Fire

# Table 1: parameters before pruning.
TABLE_1 = {
    "features.conv1": 14_208,
    "features.fire2": 11_920,
    "features.fire3": 12_432,
    "features.fire4": 45_344,
    "features.fire5": 49_440,
    "features.fire6": 104_880,
    "features.fire7": 111_024,
    "features.fire8": 188_992,
    "features.fire9": 197_184,
    "head.conv10": 513_000,
}


def test_a_fire_module_squeezes_and_expands() -> None:
    torch.manual_seed(0)
    fire = Fire(6, 3, 4).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    (w, b), (w1, b1), (w3, b3) = (
        (part.conv.weight, part.conv.bias) for part in (fire.squeeze, fire.expand1x1, fire.expand3x3)
    )
    squeezed = torch.relu(torch.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]) + b.view(1, -1, 1, 1))
    one = torch.relu(torch.einsum("nchw,oc->nohw", squeezed, w1[:, :, 0, 0]) + b1.view(1, -1, 1, 1))
    patches = nn.functional.unfold(squeezed, 3, padding=1)
    three = torch.relu(w3.flatten(1) @ patches + b3.view(1, -1, 1)).view(2, 4, 5, 5)
    torch.testing.assert_close(fire(x), torch.cat((one, three), 1))


def test_parameters_of_table_1() -> None:
    with torch.device("meta"):
        network = create_model("squeezenet1_0")
    found = {path: sum(p.numel() for p in network.get_submodule(path).parameters()) for path in TABLE_1}
    assert found == TABLE_1
    assert sum(TABLE_1.values()) == 1_248_424


@pytest.mark.parametrize(
    ("name", "side", "maps"),
    [
        ("squeezenet1_0", 224, [(96, 109), (256, 54), (512, 27), (512, 13)]),
        ("squeezenet1_0", 227, [(96, 111), (256, 55), (512, 27), (512, 13)]),  # the maps of table 1
        ("squeezenet1_1", 224, [(64, 111), (128, 55), (256, 27), (512, 13)]),
        ("squeezenet1_1_cifar", 32, [(128, 28), (256, 14), (512, 7)]),
    ],
)
def test_maps(name: str, side: int, maps: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        network = create_model(name)
        assert isinstance(network, Classifier)
        _, outputs = network.forward_intermediates(torch.empty(1, 3, side, side))
    assert [tuple(output.shape[1:3]) for output in outputs] == maps


def test_logits_are_the_mean_of_the_classifiers_rectified_maps() -> None:
    torch.manual_seed(0)
    network = create_model("squeezenet1_1", num_classes=5).eval()
    assert isinstance(network, Classifier)
    x = torch.randn(2, 3, 64, 64)
    maps = network.get_classifier()(network.forward_features(x))
    assert maps.shape == (2, 5, 3, 3)
    torch.testing.assert_close(network(x), maps.relu().mean((2, 3)))


def test_parts_that_have_no_batch_norm() -> None:
    """The released file leaves two out, by an oversight that its 733,226 parameters keep."""
    with torch.device("meta"):
        network = create_model("squeezenet1_1_bn_cifar")
    parts = [name for name, module in network.features.named_modules() if isinstance(module, nn.Conv2d)]
    bare = [
        name for name in parts if name.replace(".conv", ".bn") not in dict(network.features.named_modules())
    ]
    assert bare == ["fire2.squeeze.conv", "fire4.expand1x1.conv"]


def test_the_classifier_starts_small() -> None:
    torch.manual_seed(0)
    network = create_model("squeezenet1_1")
    assert isinstance(network, Classifier)
    for _ in range(2):
        weight = network.get_classifier().weight
        assert float(weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        network.reset_classifier(1000)


def test_an_unknown_stem() -> None:
    with pytest.raises(UsageError, match=r"stem='5x5'.*'cifar'"):
        create_model("squeezenet1_1", stem="5x5")
