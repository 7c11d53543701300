"""NASNet: cells against the figure's sums, the wiring of the stack, drop-path's schedule, the authors' counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.drop_path import DropPath
from convatlas.models import create_model
from convatlas.models.classifier import WithAuxiliary
from convatlas.models.nasnet import NASNet
from convatlas.models.nasnet_cell import NORMAL_A, REDUCTION_A, Cell, FactorizedReduction, operation


def small(**settings: object) -> NASNet:
    """A CIFAR network of one cell between reductions."""
    return NASNet(1, 48, stem_filters=8, imagenet_stem=False, num_classes=5, **settings)  # type: ignore[arg-type]


def steps_of(cell: Cell) -> list[dict[str, nn.Module]]:
    return [dict(step.named_children()) for step in cell.steps]


@torch.no_grad()
def test_normal_cell_is_the_sums_of_figure_4() -> None:
    torch.manual_seed(0)
    cell = Cell(NORMAL_A, 10, 12, 4).double().eval()
    new, old = torch.randn(2, 12, 8, 8).double(), torch.randn(2, 10, 8, 8).double()
    h, p = cell.cur(new), cell.prev(old)
    s = steps_of(cell)
    sums = [
        s[0]["left"](h) + s[0]["right"](p),  # separable 5x5 and 3x3
        s[1]["left"](p) + s[1]["right"](p),  # separable 5x5 and 3x3
        nn.functional.avg_pool2d(h, 3, 1, 1, count_include_pad=False) + p,
        2 * nn.functional.avg_pool2d(p, 3, 1, 1, count_include_pad=False),
        s[4]["left"](h) + h,  # separable 3x3
    ]
    torch.testing.assert_close(cell(new, old), torch.cat([p, *sums], dim=1))
    kernels = [
        branch.separable1.depthwise.kernel_size[0]
        for step in s
        for branch in step.values()
        if hasattr(branch, "separable1")
    ]
    assert kernels == [5, 3, 5, 3, 3]


@torch.no_grad()
def test_reduction_cell_is_the_sums_of_figure_4() -> None:
    torch.manual_seed(0)
    cell = Cell(REDUCTION_A, 10, 12, 4, stride=2).double().eval()
    new, old = torch.randn(2, 12, 9, 9).double(), torch.randn(2, 10, 9, 9).double()
    h, p = cell.cur(new), cell.prev(old)
    s = steps_of(cell)
    pooled = nn.functional.max_pool2d(h, 3, 2, 1)  # 9 pixels are padded by one on either side
    mean = nn.functional.avg_pool2d(h, 3, 2, 1, count_include_pad=False)
    first = s[0]["left"](h) + s[0]["right"](p)  # separable 5x5 and 7x7
    second = pooled + s[1]["right"](p)  # separable 7x7
    third = mean + s[2]["right"](p)  # separable 5x5
    fourth = nn.functional.avg_pool2d(first, 3, 1, 1, count_include_pad=False) + second
    fifth = s[4]["left"](first) + pooled  # separable 3x3
    torch.testing.assert_close(cell(new, old), torch.cat([second, third, fourth, fifth], dim=1))
    kernels = [
        branch.separable1.depthwise.kernel_size[0]
        for step in s
        for branch in step.values()
        if hasattr(branch, "separable1")
    ]
    assert kernels == [5, 7, 7, 5, 3]


def test_factorized_reduction_sees_every_second_pixel_twice() -> None:
    layer = FactorizedReduction(1, 2).double().eval()
    for conv in (layer.path1, layer.path2):
        nn.init.ones_(conv.weight)
    x = torch.arange(1.0, 31.0, dtype=torch.float64).view(1, 1, 5, 6)
    y = layer(x)[0] * (1 + 1e-3) ** 0.5  # BatchNorm with its first statistics
    torch.testing.assert_close(y[0], x[0, 0, ::2, ::2])
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[:2, :] = x[0, 0, 1::2, 1::2]  # the row beyond the border is zero
    torch.testing.assert_close(y[1], expected)


def shapes(name: str, side: int) -> list[tuple[int, ...]]:
    with torch.device("meta"):
        _, maps = create_model(name).eval().forward_intermediates(torch.empty(1, 3, side, side))
    return [tuple(m.shape[1:]) for m in maps]


def test_maps() -> None:
    """Six times C, 2C and 4C channels; C is a 24th of the name's number."""
    assert shapes("nasnetalarge", 331) == [
        (96, 165, 165),
        (168, 83, 83),
        (6 * 168, 42, 42),
        (12 * 168, 21, 21),
        (4032, 11, 11),
    ]
    assert shapes("nasnetamobile", 224) == [
        (32, 111, 111),
        (44, 56, 56),
        (6 * 44, 28, 28),
        (12 * 44, 14, 14),
        (1056, 7, 7),
    ]
    assert shapes("nasneta_cifar", 32) == [(192, 32, 32), (384, 16, 16), (768, 8, 8)]


@pytest.mark.parametrize(("name", "total"), [("nasnetalarge", 88_949_818), ("nasnetamobile", 5_326_716)])
def test_parameters_and_statistics_are_the_totals_of_the_authors_framework(name: str, total: int) -> None:
    """Keras prints these, and the paper rounds the first to 88.9 M: it counts running means and variances too."""
    with torch.device("meta"):
        network = create_model(name, auxiliary=False)
    statistics = sum(b.numel() for key, b in network.named_buffers() if "running" in key)
    assert sum(p.numel() for p in network.parameters()) + statistics == total


def test_which_cell_is_the_older_input_after_a_reduction() -> None:
    with torch.device("meta"):
        large, mobile = create_model("nasnetalarge"), create_model("nasnetamobile")
    # cell_4, cell_5, reduction_cell_0 | cell_6 reads the last, and the third last or the second last.
    assert large.inputs["cell_6"] == large.inputs["cell_12"] == (-1, -3)
    assert mobile.inputs["cell_4"] == mobile.inputs["cell_8"] == (-1, -2)
    different = {name: pair for name, pair in large.inputs.items() if pair != (-1, -2)}
    assert set(different) == {"conv0", "cell_stem_0", "cell_6", "cell_12", "relu"}


@torch.no_grad()
def test_cells_read_the_last_two_outputs() -> None:
    torch.manual_seed(0)
    network = small(auxiliary=False).eval()
    f = network.features
    x = torch.randn(2, 3, 16, 16)
    stem = f.conv0(x)
    first = f.cell_0(stem, stem)
    halved = f.reduction_cell_0(first, stem)
    second = f.cell_1(halved, first)
    quartered = f.reduction_cell_1(second, halved)
    third = f.cell_2(quartered, second)
    torch.testing.assert_close(network.forward_features(x), torch.relu(third))


def rates(network: NASNet) -> list[set[float]]:
    """Drop-path probabilities of each cell."""
    return [
        {round(m.p, 9) for m in cell.modules() if isinstance(m, DropPath)}
        for cell in network.features.children()
        if isinstance(cell, Cell)
    ]


def test_scheduled_drop_path_grows_with_depth_and_progress() -> None:
    network = small(drop_path=0.5)
    assert rates(network) == [{0.0}] * 5
    network.set_progress(0.5)
    assert rates(network) == [{0.05}, {0.1}, {0.15}, {0.2}, {0.25}]
    network.set_progress(1.0)
    assert rates(network) == [{0.1}, {0.2}, {0.3}, {0.4}, {0.5}]


def test_identities_are_never_dropped() -> None:
    network = small(drop_path=0.5)
    for cell in network.features.children():
        for step, named in zip(
            getattr(cell, "steps", ()), getattr(cell, "genotype", NORMAL_A).steps, strict=False
        ):
            for branch, (name, _) in zip(step.children(), named, strict=True):
                assert any(isinstance(m, DropPath) for m in branch.modules()) == (name != "same")


def test_second_head_speaks_while_training() -> None:
    network = small().train()
    assert list(network.auxiliary) == ["cell_1"]  # the last one before the second reduction
    assert network.auxiliary_weight == 0.4
    output = network(torch.randn(2, 3, 32, 32))
    assert isinstance(output, WithAuxiliary)
    assert [logits.shape for logits in output.auxiliary] == [(2, 5)]
    assert isinstance(network.eval()(torch.randn(2, 3, 32, 32)), Tensor)


@pytest.mark.parametrize("name", ["sep4", "conv3", "max", "same3"])
def test_unknown_operations(name: str) -> None:
    with pytest.raises(UsageError, match="is not known"):
        operation(name, 8, 8, 1)


@pytest.mark.parametrize(("name", "c_out", "stride"), [("max3", 16, 1), ("avg3", 16, 2), ("same", 8, 2)])
def test_operations_that_cannot_change_the_shape(name: str, c_out: int, stride: int) -> None:
    with pytest.raises(UsageError, match="cannot turn"):
        operation(name, 8, c_out, stride)


def test_width_that_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="multiple of 24"):
        NASNet(4, 1000)


def test_a_probability_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"drop_path=5.*\[0, 1\)"):
        NASNet(4, 1056, drop_path=5)
