"""A network costs and sees the same however it is written: as modules, as functions, with weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from convatlas.measure import Measurement, measure
from convatlas.measure.diagram import boxes
from convatlas.measure.trace import trace

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class After(nn.Module):
    """A convolution, and a function of what it gives."""

    def __init__(self, function: Callable[[Tensor], Tensor], axes: int) -> None:
        super().__init__()
        self.function = function
        self.conv = CONVOLUTIONS[axes - 1](3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class AsModule(nn.Module):
    """The same function in a module without children."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def figures(cost: Measurement) -> tuple[object, ...]:
    return cost.params, cost.macs, cost.operations, cost.activations, cost.unknown, str(cost.rows[-1].field)


PAIRS: list[tuple[str, Callable[[Tensor], Tensor], nn.Module, int]] = [
    ("gelu", F.gelu, nn.GELU(), 2),
    ("silu", F.silu, nn.SiLU(), 2),
    ("mish", F.mish, nn.Mish(), 2),
    ("leaky", F.leaky_relu, nn.LeakyReLU(), 2),
    ("relu6", F.relu6, nn.ReLU6(), 2),
    ("softmax", lambda x: F.softmax(x, 1), nn.Softmax(1), 2),
    ("log softmax", lambda x: F.log_softmax(x, 1), nn.LogSoftmax(1), 2),
    ("max pool of a signal", lambda x: F.max_pool1d(x, 2), nn.MaxPool1d(2), 1),
    ("max pool", lambda x: F.max_pool2d(x, 2), nn.MaxPool2d(2), 2),
    ("max pool of a volume", lambda x: F.max_pool3d(x, 2), nn.MaxPool3d(2), 3),
    ("avg pool of a volume", lambda x: F.avg_pool3d(x, 2), nn.AvgPool3d(2), 3),
    ("adaptive pool", lambda x: F.adaptive_avg_pool3d(x, 2), nn.AdaptiveAvgPool3d(2), 3),
    ("instance norm", F.instance_norm, nn.InstanceNorm2d(4), 2),
    ("group norm", lambda x: F.group_norm(x, 2), nn.GroupNorm(2, 4, affine=False), 2),
    ("layer norm", lambda x: F.layer_norm(x, (4, 8, 8)), nn.LayerNorm((4, 8, 8), elementwise_affine=False), 2),
    ("nearest", lambda x: F.interpolate(x, scale_factor=2), nn.Upsample(scale_factor=2), 3),
    ("bicubic", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), nn.Upsample(None, 2, "bicubic"), 2),
    ("trilinear", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), nn.Upsample(None, 2, "trilinear"), 3),
    ("reflection", lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), nn.ReflectionPad2d(1), 2),
    ("pixel shuffle", lambda x: F.pixel_shuffle(x, 2), nn.PixelShuffle(2), 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "module", "axes"), [pair[1:] for pair in PAIRS], ids=[p[0] for p in PAIRS]
)
def test_a_function_counts_as_its_module(
    function: Callable[[Tensor], Tensor], module: nn.Module, axes: int
) -> None:
    shape = (3,) + (8,) * axes
    written = measure(After(function, axes), shape)
    assert figures(written) == figures(
        measure(nn.Sequential(CONVOLUTIONS[axes - 1](3, 4, 3, padding=1), module), shape)
    )


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {  # operations, activations
    "divide": (lambda x: x / 3, 256, 0),
    "exp": (torch.exp, 256, 0),
    "subtract": (lambda x: 1 - x, 256, 0),
    "sum": (lambda x: x.sum((2, 3)), 256, 4),
    "amax": (lambda x: x.amax((2, 3)), 256, 4),
    "std": (lambda x: x.std((2, 3)), 256, 4),
    "stack": (lambda x: torch.stack([x, x], 1), 0, 512),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), 0, 512),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_makes_numbers_has_a_row(name: str) -> None:
    function, operations, activations = FUNCTIONS[name]
    row = measure(After(function, 2), (3, 8, 8)).rows[-1]
    assert (row.name, row.operations, row.activations) == (f"({name})", operations, activations)
    module = measure(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), AsModule(function)), (3, 8, 8)).rows[-1]
    assert (module.operations, module.activations, str(module.field)) == (
        operations,
        activations,
        str(row.field),
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x[:, :2, ::2],
        lambda x: x.split(2, 1)[0].contiguous(),
        lambda x: x.unsqueeze(2).expand(1, 4, 3, 8, 8),
        lambda x: x.permute(0, 2, 3, 1).clone(),
        lambda x: x[:, [2, 0]],
    ],
)
def test_what_makes_none_has_no_row(function: Callable[[Tensor], Tensor]) -> None:
    assert [row.name for row in measure(After(function, 2), (3, 8, 8)).rows] == ["input", "conv"]


class Weights(nn.Module):
    """Five layers of plain weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList(
            [nn.Parameter(torch.ones(8, 8 if place else 3, 3, 3)) for place in range(5)]
        )
        self.head = nn.Parameter(torch.ones(10, 8))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.w:
            x = F.relu(F.conv2d(x, weight, padding=1))
        return F.linear(x.mean((2, 3)), self.head)


def layers() -> nn.Sequential:
    convolutions = [nn.Conv2d(8 if place else 3, 8, 3, padding=1, bias=False) for place in range(5)]
    body = [layer for each in convolutions for layer in (each, nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False))


def test_weights_alone_are_a_row_each() -> None:
    own, other = measure(Weights(), (3, 8, 8)), measure(layers(), (3, 8, 8))
    assert figures(own)[:-1] == figures(other)[:-1]
    assert str(own.field) == str(other.field) == "11"
    weighing = [(row.name, row.kind, row.params) for row in own.rows if row.macs]
    assert weighing[0] == ("w.0 (convolution)", "conv 3x3, 8", 216)
    assert weighing[-1] == ("head (mm)", "linear 10", 80)
    assert len(weighing) == 6


def test_weights_alone_are_a_box_each() -> None:
    for depth in ("layer", "block", "stage"):
        drawn = boxes(Weights(), trace(Weights(), (3, 8, 8)), depth)
        assert [node.title for node in drawn if node.title] == ["w.0", "w.1", "w.2", "w.3", "w.4", "head"]
    around = nn.Sequential(nn.Conv2d(3, 3, 1), Weights(), nn.Softmax(1))
    [box] = [node for node in boxes(around, trace(around, (3, 8, 8)), "block") if node.title == "1"]
    assert "5 × conv 3x3, 8" in box.lines[0]


def test_layers_of_pytorchs_own_are_one_row() -> None:
    cost = measure(nn.Sequential(nn.LSTM(8, 16, 2, batch_first=True)), (20, 8))
    assert [row.kind for row in cost.rows] == ["image", "LSTM"]
    assert cost.params == sum(p.numel() for p in nn.LSTM(8, 16, 2).parameters())
    assert cost.macs == 20 * 4 * 16 * (8 + 16 + 16 + 16)


@dataclass
class Two:
    """What a module gives."""

    left: Tensor
    right: Tensor


class GivesTwo(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))

    def forward(self, x: Tensor) -> object:
        return self.make(F.conv2d(x, self.weight), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("make", [Two, lambda a, b: (a, b), lambda a, b: {"a": a, "b": [b]}])
def test_all_that_a_module_gives_is_kept(make: Callable[[Tensor, Tensor], object]) -> None:
    row = measure(GivesTwo(make), (3, 8, 8)).rows[1]
    assert (row.output_shape, row.activations) == ((4, 6, 6), 4 * 36 + 3 * 16)
    assert row.activation_bytes == 4 * row.activations


def test_a_part_of_the_input_is_not_kept_again() -> None:
    cost = measure(nn.Sequential(AsModule(lambda x: x.chunk(3, 1)[0]), nn.Conv2d(1, 1, 1)), (3, 8, 8))
    assert [row.activations for row in cost.rows] == [192, 0, 64]


class Whitened(nn.Identity):
    """An identity by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


def test_an_identity_by_name_alone_is_counted() -> None:
    cost = measure(nn.Sequential(Whitened(), nn.Identity(), nn.Conv2d(4, 2, 1)), (3, 12, 12))
    assert (cost.params, cost.macs) == (108 + 10, 100 * 108 + 100 * 8)
    assert [row.name for row in cost.rows] == ["input", "0", "2"]


def test_a_bound_that_is_a_map_makes_a_map() -> None:
    class Clamped(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mean((2, 3), keepdim=True).clamp(min=x))

    assert measure(Clamped(3, 4, 1), (3, 8, 8)).macs == 12 * 64


def test_pools_of_other_libraries_are_not_known() -> None:
    from torchvision.ops import roi_pool

    class Regions(nn.Conv2d):
        def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
            return roi_pool(super().forward(x), boxes, (3, 3))

    cost = measure(Regions(3, 4, 1), [(3, 8, 8), torch.zeros(1, 5)])
    assert cost.unknown == ("roi_pool",)
    assert cost.macs == 12 * 64


@pytest.mark.parametrize("cell", [nn.GRU, nn.RNN])
def test_recurrent_layers_that_take_the_batch_first(cell: type[nn.RNNBase]) -> None:
    assert measure(cell(8, 16, batch_first=True), (20, 8)).unknown == ()


def test_within_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    outside = measure(model, (3, 8, 8))
    with torch.inference_mode():
        assert measure(model, (3, 8, 8)) == outside
    assert outside.macs == 36 * 4 * 27 + 144 * 5

    class Serving(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    inside = measure(Serving(*model), (3, 8, 8))
    assert (inside.rows, inside.unknown) == (outside.rows, ())


def test_within_vmap() -> None:
    class Mapped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(super().forward)(x)

    assert measure(Mapped(8, 4), (6, 8)).macs == 6 * 32
