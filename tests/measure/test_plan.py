"""The plan of a network: against what was built, and the parts that branches have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.plan import Plan, read_plan
from convatlas.models import create_model, find


def canon(name: str) -> Plan:
    spec = find(name)
    with blueprint():
        model = create_model(name)
    return read_plan(model, (spec.channels, spec.image, spec.image))


WORDS = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 5]), st.sampled_from(["", "stride", "pool"])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(WORDS, st.booleans())
def test_chains_are_read_as_they_were_built(words: list[tuple[int, int, str]], classified: bool) -> None:
    layers: list[nn.Module] = []
    stride, channels, expected, falls = 1, 3, [], []
    for number, (width, kernel, down) in enumerate(words):
        strided = down == "stride" and stride < 16
        layers += [nn.Conv2d(channels, width, kernel, 2 if strided else 1, kernel // 2), nn.ReLU()]
        if strided:
            stride *= 2
            falls.append((stride, 1, number, 0, 1))
        expected.append((width, (kernel, kernel), stride, width * (channels * kernel**2 + 1)))
        channels = width
        if down == "pool" and stride < 16:
            layers.append(nn.MaxPool2d(2))
            stride *= 2
            falls.append((stride, 1, number + 1, 1, 0))
    if classified:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 7)]
    plan = read_plan(nn.Sequential(*layers), (3, 64, 64))
    assert [(each.width, each.kernel, each.stride, each.params) for each in plan.body] == expected
    assert [
        (each.stride, each.halvings, each.after, len(each.pools), len(each.strided)) for each in plan.falls
    ] == falls
    assert (plan.classifier is not None) == classified
    assert not plan.head
    assert not plan.shortcuts
    assert [(width.channels, width.stride) for width in plan.widths] == [(w, s) for w, _, s, _ in expected]


@pytest.mark.parametrize(
    ("name", "convolutions", "shortcuts"),
    [
        ("resnet18", 20, 3),
        ("resnet50", 53, 4),
        ("vgg16", 13, 0),
        ("googlenet", 57, 0),
        ("densenet121", 120, 0),
    ],
)
def test_layers_of_the_canon(name: str, convolutions: int, shortcuts: int) -> None:
    plan = canon(name)
    assert len(plan.body) + len(plan.shortcuts) == convolutions
    assert len(plan.shortcuts) == shortcuts
    assert all("shortcut" in layer.name for layer in plan.shortcuts)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "googlenet", "vgg16", "squeezenet1_1"])
def test_costs_are_those_of_measure(name: str) -> None:
    plan, spec = canon(name), find(name)
    with blueprint():
        cost = measure(create_model(name), (spec.channels, spec.image, spec.image))
    layers = [*plan.layers, *plan.shortcuts, plan.classifier]
    assert sum(layer.macs for layer in layers if layer) == cost.macs
    rows = {row.name: row.params for row in cost.rows}
    assert all(layer.params == rows[layer.name] for layer in layers if layer)


def test_gates_are_no_layers_and_separable_halves_are_known() -> None:
    plan = canon("efficientnet_b0")
    depthwise = [layer for layer in plan.body if layer.depthwise]
    assert len(depthwise) == 16
    assert sum(layer.completes for layer in plan.body) == 16
    assert not any(".se." in layer.name or "squeeze" in layer.name for layer in plan.layers)


def test_a_linear_head_and_its_classifier() -> None:
    plan = canon("vgg16")
    assert [layer.params for layer in plan.head] == [25088 * 4096 + 4096, 4096 * 4096 + 4096]
    assert plan.classifier is not None
    assert plan.classifier.width == 1000


def test_a_body_alone_has_no_classifier() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1))
    assert read_plan(body, (3, 8, 8)).classifier is None
    assert len(read_plan(body, (3, 8, 8)).body) == 2


class Called(nn.Module):
    """Functions instead of modules, slices instead of pools, one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.conv2d(x, self.first.weight, padding=1), 2)
        y = self.shared(functional.relu(self.shared(x)))[:, :, ::2, ::2]
        left, right = y.chunk(2, dim=1)
        return functional.interpolate(torch.cat([left, right], dim=1), scale_factor=2)


def test_functions_slices_and_reuse() -> None:
    plan = read_plan(Called(), (3, 32, 32))
    assert [layer.stride for layer in plan.body] == [1, 2, 2]
    assert [layer.params for layer in plan.body] == [216, 584, 0]
    assert [(fall.stride, fall.after, len(fall.pools)) for fall in plan.falls] == [(2, 1, 1), (4, 3, 0)]
    assert plan.falls[1].others


def test_volumes_and_sequences() -> None:
    volume = nn.Sequential(nn.Conv3d(1, 4, 3, (1, 2, 2), 1), nn.MaxPool3d(2), nn.Conv3d(4, 8, 3, padding=1))
    plan = read_plan(volume, (1, 8, 32, 32))
    assert [(layer.kernel, layer.stride) for layer in plan.body] == [((3, 3, 3), 2), ((3, 3, 3), 4)]
    sequence = nn.Sequential(nn.Conv1d(1, 4, 9, 4, 4), nn.MaxPool1d(2), nn.Conv1d(4, 8, 3, padding=1))
    assert [layer.stride for layer in read_plan(sequence, (1, 64)).body] == [4, 8]


def test_a_stride_of_four_is_two_halvings() -> None:
    plan = read_plan(nn.Sequential(nn.Conv2d(3, 8, 11, 4), nn.Conv2d(8, 8, 3)), (3, 64, 64))
    assert [(fall.stride, fall.halvings, fall.after) for fall in plan.falls] == [(4, 2, 0)]


def test_an_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot take an image of shape \(1, 8, 8\)"):
        read_plan(nn.Conv2d(3, 8, 3), (1, 8, 8))
