"""ResNet: blocks against the paper's equations, shortcut options, strides, depths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model, find
from convatlas.models.residual import Place
from convatlas.models.resnet import Block, Conv, ZeroPadded, make_shortcut


def test_option_a_is_every_second_pixel_and_zeros() -> None:
    x = torch.arange(2 * 2 * 4 * 4.0).view(2, 2, 4, 4)
    y = ZeroPadded(3, 2)(x)
    assert y.shape == (2, 5, 2, 2)
    for n in range(2):
        for c in range(2):
            for i in range(2):
                for j in range(2):
                    assert y[n, c, i, j] == x[n, c, 2 * i, 2 * j]
    assert not y[:, 2:].any()


def test_shortcut_options() -> None:
    """A: never a parameter; B: projected where shapes change; C: always; none: nothing is added."""
    kinds = {
        option: [
            type(make_shortcut(option, Place(1, 0, 64, c_out, c_out, stride)))
            for c_out, stride in ((64, 1), (128, 2))
        ]
        for option in ("A", "B", "C", "none")
    }
    assert kinds == {
        "A": [nn.Identity, ZeroPadded],
        "B": [nn.Identity, nn.Sequential],
        "C": [nn.Sequential, nn.Sequential],
        "none": [type(None), type(None)],
    }


@pytest.mark.parametrize(("option", "projections"), [("A", 0), ("B", 3), ("C", 16), ("none", 0)])
def test_projections_of_34_layers(option: str, projections: int) -> None:
    with torch.device("meta"):
        names = dict(create_model("resnet34", shortcut=option).named_modules())
    assert sum(name.endswith("shortcut.conv") for name in names) == projections


def test_basic_block_is_relu_of_residual_plus_input() -> None:
    torch.manual_seed(0)
    block = Block([Conv(8, 8, 3), Conv(8, 8, 3)], nn.Identity()).double().eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    conv1, conv2 = block.residual.conv1.weight, block.residual.conv2.weight
    scale = 1 / (1 + 1e-5) ** 0.5  # BatchNorm with its first statistics
    inner = torch.relu(nn.functional.conv2d(x, conv1, padding=1) * scale)
    expected = torch.relu(nn.functional.conv2d(inner, conv2, padding=1) * scale + x)
    torch.testing.assert_close(block(x), expected)


def test_bottleneck_weights_of_figure_5() -> None:
    block = Block([Conv(256, 64), Conv(64, 64, 3), Conv(64, 256)], nn.Identity())
    assert sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)) == 69_632


@pytest.mark.parametrize(("name", "conv"), [("resnet50", "conv2"), ("resnet50_v1", "conv1")])
def test_which_convolution_halves(name: str, conv: str) -> None:
    with torch.device("meta"):
        modules = dict(create_model(name).named_modules())
    halving = {
        path.rsplit(".", 1)[1]
        for path, module in modules.items()
        if ".residual." in path and isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    }
    assert halving == {conv}


def test_zero_init_residual_starts_as_identities() -> None:
    network = create_model("resnet20_cifar", zero_init_residual=True).eval()
    for block in (module for module in network.modules() if isinstance(module, Block)):
        if isinstance(block.shortcut, nn.Identity):
            x = torch.rand(1, block.residual.conv1.in_channels, 4, 4)
            assert torch.equal(block(x), x)
    plain = create_model("plain20_cifar", zero_init_residual=True)
    assert all(m.weight.all() for m in plain.modules() if isinstance(m, nn.BatchNorm2d))


def test_convolutions_start_with_hes_deviation() -> None:
    torch.manual_seed(0)
    network = create_model("resnet18")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110, 1202])
def test_cifar_depth_is_six_n_plus_two(layers: int) -> None:
    depths = find(f"resnet{layers}_cifar").build.args[0]
    assert len(set(depths)) == 1
    assert 6 * depths[0] + 2 == layers


def test_maps_of_table_1() -> None:
    """112, 56, 28, 14, 7 pixels for images of 224."""
    with torch.device("meta"):
        network = create_model("resnet50")
        _, maps = network.forward_intermediates(torch.empty(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 112, 112),
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
        (2048, 7, 7),
    ]


def test_cut_points_are_the_last_children_at_each_resolution() -> None:
    with torch.device("meta"):
        for name, expected in (
            ("resnet50", {"conv1": 2, "conv2_x": 4, "conv3_x": 8, "conv4_x": 16, "conv5_x": 32}),
            ("resnet20_cifar", {"conv2_x": 1, "conv3_x": 2, "conv4_x": 4}),
        ):
            assert {stage.name: stage.stride for stage in create_model(name).stages} == expected


def test_small_images_keep_their_resolution_with_the_3x3_stem() -> None:
    network = create_model("resnet18", stem="3x3", num_classes=10).eval()
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


@pytest.mark.parametrize("wrong", [{"shortcut": "D"}, {"stem": "5x5"}, {"stride_at": "2x2"}])
def test_unknown_choices(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is not known"):
        create_model("resnet18", **wrong)


def test_basic_blocks_have_no_groups() -> None:
    with pytest.raises(UsageError, match="those of bottlenecks"):
        create_model("resnet18", cardinality=32)
