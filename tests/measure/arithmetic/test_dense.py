"""A classifier over a larger image: equal at the native size, and window by window above."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from canon import CLASSIFIERS, build, cost, images, sides
from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.arithmetic.dense import dense
from convatlas.measure.arithmetic.sliding import SlidingLinear, pooling_matrix
from convatlas.models import create_model
from convatlas.registry import Spec

LIGHTEST = [
    min((spec for spec in CLASSIFIERS if spec.family == family), key=cost)
    for family in sorted({spec.family for spec in CLASSIFIERS} - {"mcdnn"})
]


def alive(network: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return network.eval()


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= 2e-5 * float(b.abs().max()) + 1e-9


@torch.no_grad()
@pytest.mark.parametrize("spec", LIGHTEST, ids=lambda spec: spec.name)
def test_families(spec: Spec) -> None:
    """At the native size the network; above, its own head on every window of its own last map."""
    torch.manual_seed(0)
    network, side = build(spec), sides(spec)[0]
    alive(network)
    over = dense(network, (spec.channels, side, side))
    x = images(spec, side=side)
    assert close(over(x)[:, :, 0, 0], network(x))
    h, w = network.forward_features(x).shape[-2:]
    larger = images(spec, 1, side=side + 32)
    found, features = over(larger), network.forward_features(larger)
    step = over.stride[0] // network.stages[-1].stride  # a head may pool with a stride of its own
    assert found.shape[-2:] == ((features.shape[-2] - h) // step + 1, (features.shape[-1] - w) // step + 1)
    for i, j in {(0, 0), (found.shape[-2] - 1, found.shape[-1] // 2)}:
        window = features[..., i * step : i * step + h, j * step : j * step + w]
        assert close(found[:, :, i, j], network.forward_head(window))


TORCHVISION = {
    "alexnet": 64, "vgg11": 64, "resnet18": 64, "googlenet": 64, "densenet121": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,    "squeezenet1_1": 64, "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64, "mnasnet0_5": 64, "resnext50_32x4d": 64,
    "inception_v3": 75,
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network, side = alive(getattr(torchvision.models, name)(num_classes=7, **settings)), TORCHVISION[name]
    over = dense(network, (3, side, side))
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert close(over(x), network(x)[:, :, None, None])
    assert over(torch.randn(1, 3, side + 64, side + 32)).shape == (
        1,
        7,
        1 + 64 // over.stride[0],
        1 + 32 // over.stride[1],
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "ghostnet_050", "efficientnet_lite0"])
def test_timm(name: str) -> None:
    """A convolution between the pooling and the linear layer is part of the head."""
    torch.manual_seed(0)
    network = alive(timm.create_model(name, num_classes=7))
    over = dense(network, (3, 64, 64))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert close(over(x), network(x)[:, :, None, None])
    assert over(torch.randn(1, 3, 128, 96)).shape == (1, 7, 3, 2)


def test_transformers_and_layer_norms_are_refused() -> None:
    with pytest.raises(UsageError, match="joins 2 tensors by `add`"):
        dense(timm.create_model("vit_tiny_patch16_224", num_classes=7))
    with pytest.raises(UsageError, match=r"`permute` on .* has no form here"):
        dense(timm.create_model("convnext_atto", num_classes=7), (3, 64, 64))


@torch.no_grad()
def test_without_padding_a_place_is_the_crop() -> None:
    torch.manual_seed(0)
    network = create_model("lenet5").eval()
    over = dense(network, (1, 32, 32))
    image = torch.randn(1, 1, 45, 53)
    found = over(image)
    assert found.shape == (1, 10, 4, 6)
    for i in range(4):
        for j in range(6):
            x1, y1, x2, y2 = over.window(i, j)
            assert close(found[:, :, i, j], network(image[..., y1:y2, x1:x2]))


class Plain(nn.Module):
    """Without padding, with everything that a head can have, as functions."""

    def __init__(self, *, middle: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.middle = nn.Conv2d(3, 8, 5, 2), nn.BatchNorm1d(12), middle
        self.fc1, self.fc2 = nn.Linear(8 * 3 * 3, 12, bias=False), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.conv(x))
        x = functional.adaptive_avg_pool2d(x, 3).reshape(x.shape[0], -1)
        x = functional.dropout(self.fc1(x), 0.5, self.training)
        x = 1.7 * torch.tanh(self.norm(x)) + 0.5
        x += 1.0
        return functional.log_softmax(self.fc2(x), 1)


@torch.no_grad()
def test_pooled_windows_are_read_with_holes() -> None:
    """6x6 places pooled to 3x3: every place of a larger map still gets its own windows."""
    network = Plain().eval()
    network.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    over = dense(network, (3, 15, 15))
    assert "SlidingPool(mean, kernel_size=(2, 2), stride=1)" in str(over.head)
    assert "SlidingLinear(8, 12, kernel_size=(3, 3), dilation=(2, 2))" in str(over.head)
    image = torch.randn(2, 3, 25, 21)
    found = over(image)
    assert found.shape == (2, 5, 6, 4)
    for i in range(6):
        for j in range(4):
            x1, y1, x2, y2 = over.window(i, j)
            assert close(found[:, :, i, j], network(image[..., y1:y2, x1:x2]))
    assert close(over.heat_map(image, 3), found.exp()[:, 3])


@torch.no_grad()
def test_a_map_that_is_stretched_is_folded_into_the_kernel() -> None:
    """4x4 places pooled to 3x3, whose windows overlap."""
    network = Plain().eval()
    over = dense(network, (3, 11, 11))
    image = torch.randn(1, 3, 15, 13)
    found = over(image)
    assert "kernel_size=(4, 4), pooled to 3x3" in str(over.head)
    for i in range(3):
        for j in range(2):
            x1, y1, x2, y2 = over.window(i, j)
            assert close(found[:, :, i, j], network(image[..., y1:y2, x1:x2]))


@pytest.mark.parametrize(("size", "outputs"), [(7, 7), (1, 6), (6, 3), (7, 3), (2, 7), (13, 6)])
def test_adaptive_pooling_as_a_matrix(size: int, outputs: int) -> None:
    x = torch.randn(1, 2, size)
    assert torch.allclose(
        x @ pooling_matrix(size, outputs).T, functional.adaptive_avg_pool1d(x, outputs), atol=1e-6
    )


def test_vgg16_at_its_own_size() -> None:
    """fc6 becomes a 7x7 convolution, fc7 and fc8 1x1 ones, at no cost in weights."""
    with blueprint():
        network = create_model("vgg16")
    over = dense(network)
    kernels = [tuple(layer.kernel.shape) for layer in over.head if isinstance(layer, SlidingLinear)]
    assert kernels == [(4096, 512, 7, 7), (4096, 4096, 1, 1), (1000, 4096, 1, 1)]
    assert over.stride == (32, 32)
    assert sum(p.numel() for p in over.parameters()) == 138_357_544
    assert over(torch.empty(1, 3, 384, 512, device="meta")).shape == (1, 1000, 6, 10)


def test_the_network_is_untouched_and_shared() -> None:
    network = create_model("lenet5").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    over, apart = dense(network, (1, 32, 32)), dense(network, (1, 32, 32), copy=True)
    x = torch.randn(1, 1, 40, 40)
    expected = over(x)
    assert network.training
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert {id(p) for p in over.parameters()} == {id(p) for p in network.parameters()}
    assert not {id(p) for p in apart.parameters()} & {id(p) for p in network.parameters()}
    over(x).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert torch.equal(apart(x), expected)
    assert not over(x).any()


class Odd(nn.Module):
    """A stem, and a head that is given."""

    def __init__(self, head: object, *, stride: int = 2) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Conv2d(3, 4, 3, stride, 1), nn.Linear(4, 5), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.stem(x))  # type: ignore[operator]


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (lambda m, x: m.fc(torch.cat([pooled(x), x.amax((2, 3))], 1)[:, :4]), "joins 2 tensors by `cat`"),
        (lambda m, x: m.fc(pooled(x)) + m.fc(x.amax((2, 3))), "joins 2 tensors by `add`|`__add__`"),
        (lambda m, x: m.fc(pooled(x)[:, :1].expand(-1, 4)), "`__getitem__` on .* takes a part"),
        (lambda m, x: m.fc(pooled(x)).cumsum(1), "`cumsum` on .* has no form here"),
        (lambda m, x: m.fc(x.std((2, 3))), "`std` on"),
        (lambda m, x: m.fc(x.mean((1, 2))[:, :4]), "goes over other dimensions|takes a part"),
        (lambda m, x: functional.linear(pooled(x), 2 * m.fc.weight), "weights that are computed"),
        (lambda m, x: x, r"gives a tensor \(1, 4, 8, 8\) for one image"),
        (lambda m, x: m.fc(pooled(x) if x.shape[-1] < 20 else x.amax((2, 3))), "takes another way"),
        (lambda m, x: functional.adaptive_avg_pool2d(x, 1).flatten(1).sort(1)[0], "`sort`|nothing to slide|joins"),
        (lambda m, x: m.fc(functional.adaptive_max_pool2d(x, 3).flatten(1)[:, :4]), "`adaptive_max_pool2d` .* unequal"),
        (lambda m, x: functional.adaptive_avg_pool2d(x, 2).flatten(1), "ends with a map"),
    ],
)  # fmt: skip
def test_what_is_refused(head: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        dense(Odd(head), (3, 16, 16))


def test_ensembles_and_small_images_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be made dense: in its head, `unflatten`"):
        dense(create_model("mcdnn_column"), (1, 29, 29))
    with pytest.raises(UsageError, match="cannot be made dense: in its head, `sub`"):
        dense(create_model("lenet5_1998"), (1, 32, 32))  # distances to prototypes
    with pytest.raises(UsageError, match=r"images of \(20, 40\) came; the network's window is \(32, 32\)"):
        dense(create_model("lenet5"), (1, 32, 32))(torch.zeros(1, 1, 20, 40))
    with pytest.raises(UsageError, match="positive numbers"):
        dense(create_model("lenet5"), (1, 0, 32))


def test_it_can_be_measured() -> None:
    """81 windows in one pass cost less than a quarter of 81 passes."""
    network = create_model("lenet5")
    one, over = measure(network, (1, 32, 32)), measure(dense(network, (1, 32, 32)), (1, 64, 64))
    assert over.params == one.params
    assert one.macs * 4 < over.macs < 81 * one.macs / 4
