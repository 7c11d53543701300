"""ShuffleNetV2: both blocks against their drawing, table 5."""

from __future__ import annotations

import pytest
import torch

from convatlas.models import create_model
from convatlas.models.shufflenet_v2 import Block, DownBlock


def test_half_of_the_channels_pass_untouched_and_are_shuffled_in() -> None:
    torch.manual_seed(0)
    block, x = Block(8).eval(), torch.randn(2, 8, 5, 5)
    y, filtered = block(x), block.branch(x[:, 4:])
    for channel in range(4):
        assert torch.equal(y[:, 2 * channel], x[:, channel])
        assert torch.equal(y[:, 2 * channel + 1], filtered[:, channel])


def test_both_halves_of_a_down_block_see_the_whole_input() -> None:
    torch.manual_seed(0)
    block, x = DownBlock(6, 16).eval(), torch.randn(2, 6, 9, 9)
    y = block(x)
    assert y.shape == (2, 16, 5, 5)
    assert torch.equal(y[:, ::2], block.shortcut(x))
    assert torch.equal(y[:, 1::2], block.branch(x))


def test_a_branch_keeps_its_width_and_has_no_activation_after_the_depthwise_filters() -> None:
    branch = Block(24).branch
    assert {layer.conv.out_channels for layer in branch} == {12}
    assert ["act" in dict(layer.named_children()) for layer in branch] == [True, False, True]
    assert branch.depthwise.conv.groups == 12


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("x0_5", (24, 24, 48, 96, 192, 1024)),
        ("x1_0", (24, 24, 116, 232, 464, 1024)),
        ("x1_5", (24, 24, 176, 352, 704, 1024)),
        ("x2_0", (24, 24, 244, 488, 976, 2048)),
    ],
)
def test_maps_of_table_5(name: str, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = create_model(f"shufflenet_v2_{name}").eval()
    maps = dict(network.run_features(torch.empty(1, 3, 224, 224, device="meta")))
    assert list(maps) == ["conv1", "pool", "stage2", "stage3", "stage4", "conv5"]
    sides = (112, 56, 28, 14, 7, 7)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (c, s, s) for c, s in zip(widths, sides, strict=True)
    ]
    assert [len(network.features.get_submodule(f"stage{i}")) for i in (2, 3, 4)] == [4, 8, 4]
