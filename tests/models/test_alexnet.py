"""AlexNet: the lectures' shapes, the two orders, the two cards, the paper's first weights, and layers left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.alexnet import AlexNet


def built(name: str, **settings: object) -> AlexNet:
    network = create_model(name, **settings)
    assert isinstance(network, AlexNet)
    return network


def shapes(network: AlexNet, side: int) -> dict[str, tuple[int, int]]:
    """Channels and pixels after every child of `features`."""
    x = torch.empty(1, 3, side, side, device="meta")
    return {name: (output.shape[1], output.shape[2]) for name, output in network.eval().run_features(x)}


@pytest.mark.parametrize("name", ["alexnet_paper", "alexnet_2gpu"])
def test_shapes_as_lectures_print_them(name: str) -> None:
    with torch.device("meta"):
        network = built(name, order="pool-norm")
    assert list(shapes(network, 227).items()) == [
        ("conv1", (96, 55)),
        ("pool1", (96, 27)),
        ("norm1", (96, 27)),
        ("conv2", (256, 27)),
        ("pool2", (256, 13)),
        ("norm2", (256, 13)),
        ("conv3", (384, 13)),
        ("conv4", (384, 13)),
        ("conv5", (256, 13)),
        ("pool5", (256, 6)),
    ]
    assert [m.out_features for m in network.head if isinstance(m, nn.Linear)] == [4096, 4096, 1000]


def test_the_paper_normalises_before_it_pools() -> None:
    with torch.device("meta"):
        first = list(shapes(built("alexnet_paper"), 227).items())[:3]
        without = list(shapes(built("alexnet_paper", order="pool"), 227))[:3]
    assert first == [("conv1", (96, 55)), ("norm1", (96, 55)), ("pool1", (96, 27))]
    assert without == ["conv1", "pool1", "conv2"]


def test_orders_are_different_functions_of_the_same_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 67, 67) * 50
    networks = [built("alexnet_paper", order=order, hidden=8).eval() for order in ("norm-pool", "pool-norm")]
    networks[1].load_state_dict(networks[0].state_dict())
    outputs = [network.forward_features(x) for network in networks]
    assert outputs[0].shape == outputs[1].shape
    assert not torch.allclose(outputs[0], outputs[1])


def test_each_card_sees_its_own_half_in_conv2_4_and_5() -> None:
    """A change in the first card's maps does not reach the second's, except through conv3."""
    torch.manual_seed(0)
    network = built("alexnet_2gpu", hidden=8).double()
    for name, crossing in (("conv2", False), ("conv3", True), ("conv4", False), ("conv5", False)):
        layer = network.features.get_submodule(name)
        c_in = {"conv2": 96, "conv3": 256, "conv4": 384, "conv5": 384}[name]
        x = torch.randn(1, c_in, 7, 7, dtype=torch.float64)
        changed = x.clone()
        changed[:, : c_in // 2] += 1
        before, after = layer(x), layer(changed)
        half = before.shape[1] // 2
        assert not torch.equal(before[:, :half], after[:, :half])
        assert torch.equal(before[:, half:], after[:, half:]) is not crossing


def test_two_cards_are_two_towers() -> None:
    """Grouped conv2 equals two convolutions, one for each half of conv1's 96 = 48 + 48 maps."""
    torch.manual_seed(0)
    conv = built("alexnet_2gpu", hidden=8).get_submodule("features.conv2.conv")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    x = torch.randn(2, 96, 9, 9)
    towers = [
        nn.functional.conv2d(half, weight, bias, padding=2)
        for half, weight, bias in zip(
            x.split(48, 1), conv.weight.split(128), conv.bias.split(128), strict=True
        )
    ]
    torch.testing.assert_close(conv(x), torch.cat(towers, 1))


@pytest.mark.parametrize("name", ["alexnet_paper", "alexnet_2gpu"])
def test_first_weights_of_section_5(name: str) -> None:
    torch.manual_seed(0)
    state = built(name, hidden=512).state_dict()
    ones = {f"features.conv{i}.conv.bias" for i in (2, 4, 5)} | {"head.fc6.bias", "head.fc7.bias"}
    for key, tensor in state.items():
        if key.endswith("bias"):
            assert tensor.unique().tolist() == [1.0 if key in ones else 0.0], key
        else:
            assert float(tensor.std()) == pytest.approx(0.01, rel=0.03), key
            assert abs(float(tensor.mean())) < 2e-4, key


def test_torchvisions_tower_starts_as_pytorch_does() -> None:
    weight = built("alexnet", hidden=8).state_dict()["features.conv1.conv.weight"]
    assert float(weight.abs().max()) <= (3 * 11 * 11) ** -0.5
    assert float(weight.std()) == pytest.approx((3 * 3 * 11 * 11) ** -0.5, rel=0.03)


@pytest.mark.parametrize(
    ("removed", "gone", "classifier_in"),
    [
        ((3, 4), {"features.conv3", "features.conv4"}, 4096),
        ((7,), {"head.fc7", "head.relu7", "head.drop7"}, 4096),
        ((6, 7), {"head.fc6", "head.fc7", "head.relu6", "head.relu7", "head.drop6", "head.drop7"}, 9216),
    ],
)
def test_layers_left_out(removed: tuple[int, ...], gone: set[str], classifier_in: int) -> None:
    with torch.device("meta"):
        whole, less = built("alexnet_paper"), built("alexnet_paper", removed=removed)
        assert less(torch.empty(2, 3, 227, 227)).shape == (2, 1000)
    names = [{n for n, _ in net.named_modules() if n.count(".") == 1} for net in (whole, less)]
    assert names[0] - names[1] == gone
    assert less.head_hidden_size == less.get_classifier().in_features == classifier_in


def test_dropout_follows_the_hidden_layers_and_precedes_them_in_torchvision() -> None:
    with torch.device("meta"):
        paper = [name for name, _ in built("alexnet_paper").head.named_children()]
        single = [name for name, _ in built("alexnet").head.named_children()]
    assert paper[2:] == ["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
    assert single[2:] == ["drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"]


def test_other_sizes_are_pooled_to_six_by_six() -> None:
    network = built("alexnet_paper", hidden=8).eval()
    received: list[Tensor] = []
    with torch.no_grad():
        handle = network.get_submodule("head.pool").register_forward_hook(lambda m, i, o: received.append(o))
        for side in (67, 131):
            network(torch.zeros(1, 3, side, side))
    handle.remove()
    assert [tuple(tensor.shape) for tensor in received] == [(1, 256, 6, 6)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "norm"}, "'norm-pool', 'pool-norm', 'pool'"),
        ({"removed": (5,)}, "only 3, 4, 6 and 7"),
        ({"init": "torch"}, "'paper', 'torchvision' and those of create_model"),
        ({"middle": (512, 512)}, "cannot be built"),
        ({"middle": (3, 4, 7), "removed": ()}, "cannot be built"),
    ],
)
def test_what_cannot_be_built(settings: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        built("alexnet_2gpu", **settings)
