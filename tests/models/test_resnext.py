"""ResNeXt: the three forms of figure 3 are one function; widths of the table; weights of the blocks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convatlas.models import create_model
from convatlas.models.resnet import Block, Conv, make_residual
from convatlas.models.resnext import Concatenated, SplitTransformMerge, concatenated, grouped, split

Form = SplitTransformMerge | Concatenated | nn.Sequential


def form_c(stride: int, seed: int = 0) -> nn.Sequential:
    """12 channels in, 5 paths of 3 channels, 20 out, in float64, with statistics that are no ones and zeros."""
    torch.manual_seed(seed)
    residual = make_residual([Conv(12, 15), Conv(15, 15, 3, stride, 5), Conv(15, 20)]).double()
    for norm in (module for module in residual.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 1.5)
    return residual


def weights(residual: nn.Module) -> int:
    return sum(m.weight.numel() for m in residual.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_three_forms_are_one_function(stride: int, training: bool) -> None:
    """In evaluation, and in training with the statistics of the batch; so are the gradients of the image."""
    c = form_c(stride).train(training)
    a = split(c)
    b = concatenated(a)
    x = torch.randn(3, 12, 8, 8, dtype=torch.float64, requires_grad=True)
    outputs: list[Tensor] = []
    gradients: list[Tensor] = []
    for form in (a, b, c, grouped(b)):
        assert form.training is training
        outputs.append(form(x))
        gradients += torch.autograd.grad(outputs[-1].square().sum(), x)
    assert outputs[0].shape == (3, 20, 8 // stride, 8 // stride)
    assert outputs[0].std() > 0.1
    for output, gradient in zip(outputs, gradients, strict=True):
        torch.testing.assert_close(output, outputs[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-10, atol=1e-10)


def test_weights_come_back_as_they_were() -> None:
    c = form_c(2)
    c.train()(torch.randn(2, 12, 4, 4, dtype=torch.float64))  # the count of batches is carried as well
    back = grouped(concatenated(split(c)))
    assert list(back.state_dict()) == list(c.state_dict())
    assert all(map(torch.equal, back.state_dict().values(), c.state_dict().values()))
    assert {p.dtype for p in back.parameters()} == {torch.float64}


def test_forms_do_not_share_memory() -> None:
    c = form_c(1)
    before = copy.deepcopy(c.state_dict())
    for form in (split(c), concatenated(split(c)), grouped(concatenated(split(c)))):
        for parameter in form.parameters():
            nn.init.zeros_(parameter)
    assert all(map(torch.equal, before.values(), c.state_dict().values()))


def test_a_network_with_rewritten_blocks_answers_as_before() -> None:
    torch.manual_seed(0)
    network = create_model("resnext50_32x4d", width=8, num_classes=5).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = network(x)
    for block in (module for module in network.modules() if isinstance(module, Block)):
        block.residual = split(block.residual)
    torch.testing.assert_close(network(x), before, rtol=1e-10, atol=1e-10)


def test_a_path_sees_only_its_own_channels() -> None:
    """Form (a) with all but one path cut off is form (c) with all but one group's channels cut off."""
    c = form_c(1).eval()
    a = split(c)
    for merge in list(a.merge)[1:]:
        nn.init.zeros_(merge.weight)
    with torch.no_grad():
        c.conv3.weight[:, 3:] = 0
    x = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(a(x), c(x))


def test_weights_of_the_blocks() -> None:
    """256·64 + 9·64·64 + 64·256, and C · (256·d + 9·d² + d·256) with C = 32, d = 4: about 70,000 each."""
    plain = make_residual([Conv(256, 64), Conv(64, 64, 3), Conv(64, 256)])
    paths = make_residual([Conv(256, 128), Conv(128, 128, 3, groups=32), Conv(128, 256)])
    assert weights(plain) == 69_632
    assert weights(paths) == 70_144
    with torch.device("meta"):
        assert weights(create_model("resnet50").features.conv2_x[1]) == 69_632
        assert weights(create_model("resnext50_32x4d").features.conv2_x[1]) == 70_144
        assert weights(SplitTransformMerge(256, 256, cardinality=32, width=4)) == 70_144
        assert weights(Concatenated(256, 256, cardinality=32, width=4)) == 70_144


def test_widths_of_table_1() -> None:
    with torch.device("meta"):
        network = create_model("resnext50_32x4d")
    convs = [stage[-1].residual.conv2 for stage in list(network.features)[2:]]
    assert [conv.out_channels for conv in convs] == [128, 256, 512, 1024]
    assert {conv.groups for conv in convs} == {32}


@pytest.mark.parametrize(
    ("cardinality", "width", "block"), [(2, 40, 69_760), (4, 24, 69_888), (8, 14, 71_456)]
)
def test_cardinality_at_an_equal_cost(cardinality: int, width: int, block: int) -> None:
    """The rows of table 2, by the settings: C · (512·d + 9·d²) weights in a block of 256 channels."""
    with torch.device("meta"):
        network = create_model("resnext50_32x4d", cardinality=cardinality, group_width=width)
    assert weights(network.features.conv2_x[1]) == block == cardinality * (512 * width + 9 * width**2)
