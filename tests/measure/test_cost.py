"""Costs against torch's own counter, the papers' exact figures, and the lectures' ledger."""

from __future__ import annotations

import gc
import pickle

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from convatlas.errors import UsageError
from convatlas.measure import Measurement, measure
from convatlas.models import create_model, find, list_models


def oracle_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Half of the FLOPs that torch's counter finds in a pass on the meta device."""
    was = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, *shape, device="meta"))
    model.train(was)
    return counter.get_total_flops() // 2


def canon(name: str) -> nn.Module:
    """A network of ours without content: 500 MB of VGG need not be filled to be counted."""
    with torch.device("meta"):
        return create_model(name)


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("vgg16", 138_357_544, 15_470_264_320),
        ("resnet50", 25_557_032, 4_089_184_256),
        ("lenet5", 61_706, 416_520),
    ],
)
def test_exact_figures(name: str, params: int, macs: int) -> None:
    spec = find(name)
    cost = measure(canon(name), (spec.channels, spec.image, spec.image))
    assert (cost.params, cost.macs) == (params, macs)


# resnet1202_cifar is resnet110_cifar with more of the same blocks, which torch's counter takes 20 s for
@pytest.mark.parametrize("name", [name for name in list_models(task="classification") if "1202" not in name])
def test_every_network_agrees_with_torchs_counter(name: str) -> None:
    spec = find(name)
    shape = (spec.channels, spec.image, spec.image)
    model = canon(name)
    cost = measure(model, shape)
    assert cost.macs == oracle_macs(model, shape)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "densenet121", "efficientnet_b0", "shufflenet_v2_x1_0", "vit_b_16", "swin_t"]
)
def test_networks_of_other_libraries(name: str) -> None:
    model = on_meta(name)
    cost = measure(model)
    assert cost.macs == oracle_macs(model, (3, 224, 224))
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


def test_vgg16_ledger_of_the_lectures() -> None:
    """Input, convolutions, pools and linear layers: 15,237,608 numbers, 58.1 MiB; ReLUs overwrite."""
    cost = measure(canon("vgg16"))
    assert cost.activations == 15_237_608
    assert cost.activation_bytes == 60_950_432
    assert all(row.activations == 0 for row in cost.rows if row.kind in ("ReLU", "Dropout"))
    kinds = [row.kind for row in cost.rows if row.activations]
    assert kinds[:4] == ["image", "conv 3x3, 64", "conv 3x3, 64", "max pool 2x2/2"]
    assert kinds[-3:] == ["linear 4096", "linear 4096", "linear 1000"]
    assert cost.rows[1].output_shape == (64, 224, 224)
    for inplace in (False, True):  # how a ReLU was written changes nothing
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.MaxPool2d(2))
        assert measure(layers, (3, 10, 10)).activations == 300 + 256 + 64


@settings(max_examples=40, deadline=None)
@given(
    c_in=st.integers(1, 4), c_out=st.integers(1, 4), kernel=st.integers(1, 4), stride=st.integers(1, 3),
    groups=st.integers(1, 3), dilation=st.integers(1, 2), transposed=st.booleans(), side=st.integers(8, 17),
)  # fmt: skip
def test_convolution_by_counting_every_product(
    c_in: int, c_out: int, kernel: int, stride: int, groups: int, dilation: int, transposed: bool, side: int
) -> None:
    """A convolution without padding is a sum over (position, kernel cell, channel pair of a group)."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(c_in * groups, c_out * groups, kernel, stride, groups=groups, dilation=dilation)
    with torch.no_grad():  # the counting oracle: all ones, so each product adds exactly 1
        layer.weight.fill_(1)
        layer.bias.fill_(0)
        products = int(layer.double()(torch.ones(1, c_in * groups, side, side).double()).sum())
    cost = measure(layer, (c_in * groups, side, side))
    assert cost.macs == products
    assert cost.rows[1].kind.startswith(("transposed" if transposed else "conv", "depthwise"))


class Functional(nn.Module):
    """Weights used in ways that no layer type gives away: a gather, a mask, a shared kernel, a plain constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = self.first  # the same module by two names
        self.mask = torch.ones(8, 8, 1, 1)  # neither parameter nor buffer
        self.own = nn.Parameter(torch.ones(8, 8, 1, 1))
        self.never = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) + self.second(x)
        y = conv2d(y, self.own * self.mask)
        return torch.cat([y, x], 1).mean((2, 3))


def test_functional_use_shared_and_unused_parameters() -> None:
    model = Functional()
    cost = measure(model, (3, 6, 6))
    assert cost.params == 3 * 8 * 9 + 8 + 64 + 30
    assert cost.macs == 2 * (8 * 3 * 9 * 36) + 64 * 36
    by_name = [(row.name, row.kind, row.params, row.macs) for row in cost.rows]
    assert by_name == [
        ("input", "image", 0, 0),
        ("first", "conv 3x3, 8", 224, 7776),
        ("first", "conv 3x3, 8", 0, 7776),
        ("(add)", "add", 0, 0),
        ("(multiply)", "multiply", 64, 0),
        ("(convolution)", "conv 1x1, 8", 0, 2304),
        ("(concat)", "concat", 0, 0),
        ("(mean)", "mean", 0, 0),
        ("never.weight", "unused in evaluation", 25, 0),
        ("never.bias", "unused in evaluation", 5, 0),
    ]


def test_gives_the_network_back_as_it_was() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2)
    )
    model[1].eval()
    model[0].register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, rng = [m.training for m in model.modules()], torch.get_rng_state()
    ids = [id(parameter) for parameter in model.parameters()]
    measure(model, (1, 6, 6))
    with pytest.raises(UsageError, match=r"cannot take an image of shape \(3, 6, 6\)"):
        measure(model, (3, 6, 6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert [id(parameter) for parameter in model.parameters()] == ids
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 1


def test_allocates_nothing() -> None:
    """40 GB of weights and activations: only possible where nothing is computed."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 10_000, 3, padding=1), nn.Conv2d(10_000, 100_000, 3))
    cost = measure(model, (3, 1000, 1000))
    assert cost.params == 10_000 * 28 + 100_000 * 90_001
    assert cost.macs == 10_000 * 27 * 10**6 + 100_000 * 90_000 * 998**2


@pytest.mark.parametrize("shape", [(), (0, 8, 8), (3, -1, 8), (4, 8, 8), (3, 1, 1)])
def test_an_image_that_cannot_be(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="shape"):
        measure(nn.Sequential(nn.Conv2d(3, 4, 3)), shape)


def test_lazy_layers_and_value_dependent_flow() -> None:
    with pytest.raises(UsageError, match="lazy"):
        measure(nn.Sequential(nn.LazyConv2d(4, 3)), (3, 8, 8))

    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="Decides"):
        measure(Decides(), (3, 8, 8))


def test_other_precisions_and_places() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    single, double = measure(model, (3, 8, 8)), measure(model.double(), (3, 8, 8))
    assert double.activation_bytes == 2 * single.activation_bytes
    assert double.activations == single.activations

    class Places(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(8, device="cpu") + torch.zeros(8)

    assert measure(Places(), (3, 8, 8)).rows[-1].output_shape == (3, 8, 8)


def test_a_measurement_is_a_value() -> None:
    cost = measure(nn.Conv2d(3, 4, 3), (3, 8, 8))
    assert pickle.loads(pickle.dumps(cost)) == cost
    assert isinstance(cost, Measurement)
    assert sum(row["macs"] for row in cost.to_json()["rows"]) == cost.macs == cost.to_json()["macs"]


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (nn.Conv1d(2, 3, 5, 2), (2, 40), "conv 5/2, 3"),
        (nn.MaxPool1d(4), (2, 40), "max pool 4/4"),
        (nn.AvgPool1d(4), (2, 40), "avg pool 4/4"),
        (nn.AdaptiveAvgPool1d(5), (2, 40), "adaptive avg pool 5"),
        (nn.Conv3d(2, 3, (1, 3, 5)), (2, 8, 8, 8), "conv 1x3x5, 3"),
        (nn.MaxPool3d(2), (2, 8, 8, 8), "max pool 2x2x2/2"),
        (nn.AvgPool2d(3, 2), (2, 8, 8), "avg pool 3x3/2"),
        (nn.LocalResponseNorm(5), (6, 8, 8), "LocalResponseNorm"),
    ],
)
def test_words_for_signals_and_volumes(layer: nn.Module, shape: tuple[int, ...], words: str) -> None:
    assert measure(nn.Sequential(layer), shape).rows[1].kind == words


def test_several_arguments_as_a_list() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.words, self.linear = nn.Conv2d(3, 4, 3), nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(image).mean((2, 3)) + self.words(text).sum(1))

    cost = measure(Two(), [(3, 8, 8), torch.zeros(1, 5, dtype=torch.long)])
    assert (cost.params, cost.macs) == (112 + 40 + 10, 36 * 27 * 4 + 8)
    assert cost.unknown == ()
    with pytest.raises(UsageError, match=r"several arguments.*\[\(3, 64, 64\)"):
        measure(Two(), (3, 8, 8))


def test_frozen_parameters_and_what_nobody_knows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    model[0].requires_grad_(False)
    cost = measure(model, (3, 8, 8))
    assert (cost.params, cost.trainable) == (132, 20)
    assert [row.trainable for row in cost.rows] == [0, 0, 20]

    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft2(x).real

    strange = measure(nn.Sequential(nn.Conv2d(3, 4, 3), Spectrum()), (3, 8, 8))
    assert strange.unknown == ("_fft_r2c",)
    assert [bool(row.unknown) for row in strange.rows] == [False, False, True]


def test_other_operations_by_hand() -> None:
    """Biases 4 x 36, BatchNorm 2 each, ReLU 1 each, a 2x2 maximum 4 each, a mean of 9 numbers for each map."""
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
    )
    assert [row.operations for row in measure(layers, (3, 8, 8)).rows] == [0, 144, 288, 144, 144, 36]


def test_the_collector_is_as_it_was() -> None:
    for collects in (True, False):
        (gc.enable if collects else gc.disable)()
        try:
            measure(nn.Conv2d(3, 4, 3), (3, 8, 8))
            with pytest.raises(UsageError):
                measure(nn.Conv2d(3, 4, 3), (1, 8, 8))
            assert gc.isenabled() == collects
        finally:
            gc.enable()
