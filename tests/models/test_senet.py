"""SENet: squeeze-and-excitation on any residual network, what it adds, SENet-154's own blocks, Caffe's pooling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.preact import Unit
from convatlas.models.resnet import Block, Conv
from convatlas.models.senet import max_pool, squeeze_excite


def blocks(network: nn.Module) -> list[Block | Unit]:
    return [module for module in network.modules() if isinstance(module, (Block, Unit))]


def test_a_block_against_equations_2_to_4() -> None:
    torch.manual_seed(0)
    block = Block([Conv(32, 32, 3)], nn.Identity()).double().eval()
    x = torch.randn(2, 32, 5, 5, dtype=torch.float64)
    u = block.residual(x)
    squeeze_excite(block, 4)
    se = block.residual.se
    w1, b1 = se.reduce.weight.flatten(1), torch.randn(8, dtype=torch.float64)
    w2, b2 = se.expand.weight.flatten(1), torch.randn(32, dtype=torch.float64)
    se.reduce.bias.data, se.expand.bias.data = b1, b2
    z = u.mean((2, 3))
    s = torch.sigmoid(torch.relu(z @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(block(x), torch.relu(u * s[:, :, None, None] + x))


def test_weights_that_it_adds() -> None:
    """2 C^2 / r for each block (section 4), and the biases C / r + C; 2.5 million to ResNet-50."""
    with torch.device("meta"):
        bare, squeezed = create_model("resnet50"), create_model("se_resnet50")
    added = sum(p.numel() for p in squeezed.parameters()) - sum(p.numel() for p in bare.parameters())
    stages = ((256, 3), (512, 4), (1024, 6), (2048, 3))
    assert added == sum(n * (2 * c * c // 16 + c // 16 + c) for c, n in stages) == 2_530_992


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet110_preact_cifar", "wide_resnet16_4_cifar"])
def test_any_residual_network_can_be_squeezed(name: str) -> None:
    """With excitations of one half in every channel, residuals are halved and shortcuts are not."""
    torch.manual_seed(0)
    network, halved = create_model(name).double().eval(), create_model(name).double().eval()
    halved.load_state_dict(network.state_dict())
    squeeze_excite(network)
    for ours, theirs in zip(blocks(network), blocks(halved), strict=True):
        nn.init.zeros_(ours.residual.se.expand.weight)
        theirs.residual.add_module("halving", Half())
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x), halved(x))
    assert {p.dtype for p in network.parameters()} == {torch.float64}


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_blocks_of_senet154() -> None:
    """152 layers in blocks, the first 1x1 with half the channels, 64 groups; 3x3 projections where maps shrink."""
    with torch.device("meta"):
        network = create_model("senet154")
    found = blocks(network)
    assert len(found) == 50
    for block in found:
        first, second, third = (block.residual.get_submodule(f"conv{i}") for i in (1, 2, 3))
        assert first.out_channels * 2 == second.out_channels == third.out_channels
        assert second.groups == 64
    projections = [b.shortcut.conv for b in found if isinstance(b.shortcut, nn.Sequential)]
    assert [conv.kernel_size for conv in projections] == [(1, 1), (3, 3), (3, 3), (3, 3)]
    assert [layer.kernel_size for layer in network.features.conv1 if isinstance(layer, nn.Conv2d)] == [
        (3, 3)
    ] * 3
    assert [layer.p for layer in network.head if isinstance(layer, nn.Dropout)] == [0.2]


def test_caffes_pooling_starts_at_the_border() -> None:
    x = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    assert max_pool("padded")(x)[0, 0, 0].tolist() == [1, 3, 5, 7]  # around 0, 2, 4, 6
    assert max_pool("ceil")(x)[0, 0, 0].tolist() == [
        2,
        4,
        6,
        7,
    ]  # from 0, 2, 4, 6; the last window stands over


def test_reduction_is_a_setting() -> None:
    with torch.device("meta"):
        network = create_model("se_resnet50", reduction=8)
    assert [block.residual.se.reduce.out_channels for block in blocks(network)[:1]] == [32]


def test_what_cannot_be_squeezed() -> None:
    with pytest.raises(UsageError, match="no residuals"):
        squeeze_excite(nn.Linear(2, 2))
    with torch.device("meta"):
        squeezed = create_model("se_resnet50")
    with pytest.raises(UsageError, match="already"):
        squeeze_excite(squeezed)
    with pytest.raises(UsageError, match="reduction=0"):
        create_model("se_resnet50", reduction=0)
    with pytest.raises(UsageError, match="has no pooling"):
        create_model("se_resnet50_paper", stem="3x3")
    with pytest.raises(UsageError, match="is not known"):
        create_model("senet154", pool="floor")
