"""VGG: the configuration table, A-LRN's normalisation, the initialisations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.models.vgg import VGG, start_from_a

# Table 1 of the paper, read column by column.
TABLE_1 = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg11_lrn": "64 LRN M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16_c": "64 64 M 128 128 M 256 256 256/1 M 512 512 512/1 M 512 512 512/1 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


@pytest.mark.parametrize("name", TABLE_1)
def test_layers_of_table_1(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name)
    found: list[str] = []
    for module in network.features.modules():
        if isinstance(module, nn.Conv2d):
            assert module.stride == (1, 1)
            assert module.padding == (module.kernel_size[0] // 2,) * 2
            found.append(f"{module.out_channels}{'/1' if module.kernel_size == (1, 1) else ''}")
        elif isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride) == (2, 2)
            found.append("M")
        elif isinstance(module, nn.LocalResponseNorm):
            found.append("LRN")
    assert " ".join(found) == TABLE_1[name]


def test_normalisation_divides_by_alexnets_formula() -> None:
    """b_i = a_i / (2 + 1e-4 sum of a_j^2 over five neighbouring maps)^0.75."""
    with torch.device("meta"):
        network = create_model("vgg11_lrn")
    norm = network.get_submodule("features.conv1.lrn")
    a = torch.randn(1, 8, 2, 2, dtype=torch.float64) * 100
    expected = torch.empty_like(a)
    for i in range(8):
        neighbours = a[:, max(0, i - 2) : i + 3].square().sum(1)
        expected[:, i] = a[:, i] / (2 + 1e-4 * neighbours) ** 0.75
    torch.testing.assert_close(norm(a), expected)


def weights(network: nn.Module, kind: type[nn.Module]) -> list[Tensor]:
    return [module.weight.detach() for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("init", ["torchvision", "paper", "glorot"])
def test_initialisations(init: str) -> None:
    torch.manual_seed(0)
    network = create_model("vgg11", hidden=256, init=init)
    for weight in weights(network, nn.Conv2d) + weights(network, nn.Linear):
        fan_in, fan_out = weight[0].numel(), weight.shape[0] * weight[0, 0].numel()
        expected = {
            "torchvision": (2 / fan_out) ** 0.5 if weight.dim() == 4 else 0.01,
            "paper": 0.1,
            "glorot": (2 / (fan_in + fan_out)) ** 0.5,
        }[init]
        assert float(weight.std()) == pytest.approx(expected, rel=0.05)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert all(not bias.any() for bias in biases)


def test_unknown_settings_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'torchvision', 'paper' and those of create_model"):
        create_model("vgg11", hidden=8, init="torch")
    with pytest.raises(UsageError, match=r"Did you mean 'dropout'.*hidden"):
        create_model("vgg11", drop_out=0.1)
    with pytest.raises(UsageError, match="between 0 and 1"):
        create_model("vgg11", hidden=8, dropout=2.0)


def test_dropout_of_one_half_between_the_linear_layers() -> None:
    with torch.device("meta"):
        rates = [m.p for m in create_model("vgg16").modules() if isinstance(m, nn.Dropout)]
        assert rates == [0.5, 0.5]
        assert [m.p for m in create_model("vgg16", dropout=0.1).modules() if isinstance(m, nn.Dropout)] == [
            0.1,
            0.1,
        ]


def test_pre_logits_have_the_width_of_fc7() -> None:
    network = create_model("vgg11", hidden=32).eval()
    assert isinstance(network, Classifier)
    features = network.forward_features(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, 512, 2, 2)
    assert network.forward_head(features, pre_logits=True).shape == (1, 32)


def small(name: str, **settings: object) -> VGG:
    network = create_model(name, **{"hidden": 8, **settings})
    assert isinstance(network, VGG)
    return network


@pytest.mark.parametrize("name", ["vgg13", "vgg16_c", "vgg16", "vgg19"])
@pytest.mark.parametrize("trained", ["vgg11", "vgg11_lrn"])
def test_deeper_networks_start_from_a(name: str, trained: str) -> None:
    """Seven layers are A's, found by their channels; all others are as they were drawn, with A untouched."""
    torch.manual_seed(0)
    a, deeper = small(trained), small(name, init="paper")
    before, drawn = ({k: v.clone() for k, v in net.state_dict().items()} for net in (a, deeper))
    start_from_a(deeper, a)
    found = deeper.state_dict()
    copied = {key for key in found if key in before and torch.equal(found[key], before[key])}
    weights = [key for key in found if key.endswith("weight") and key in copied]
    channels = [tuple(found[key].shape[1::-1]) for key in weights]
    assert channels == [(3, 64), (64, 128), (128, 256), (256, 256), (25088, 8), (8, 8), (8, 1000)]
    for key, tensor in drawn.items():
        layer = key.rpartition(".")[0]
        if f"{layer}.weight" in weights:
            assert torch.equal(found[key], before[key])
        else:
            assert torch.equal(found[key], tensor), key
            if key.endswith("weight"):
                assert float(found[key].std()) == pytest.approx(0.1, rel=0.05)
    assert all(torch.equal(tensor, before[key]) for key, tensor in a.state_dict().items())


def test_a_copy_does_not_share_memory_with_a() -> None:
    a, b = small("vgg11"), small("vgg13")
    start_from_a(b, a)
    with torch.no_grad():
        b.get_submodule("head.fc7").weight.zero_()
    assert a.get_submodule("head.fc7").weight.any()


def test_only_a_can_be_continued_from() -> None:
    b, deeper = small("vgg13"), small("vgg16")
    before = {k: v.clone() for k, v in deeper.state_dict().items()}
    with pytest.raises(UsageError, match="only configuration A"):
        start_from_a(deeper, b)
    with pytest.raises(UsageError, match=r"head.fc8.weight is \(10, 8\) .* \(1000, 8\)"):
        start_from_a(deeper, small("vgg11", num_classes=10))
    assert all(torch.equal(tensor, before[key]) for key, tensor in deeper.state_dict().items())
