"""BagNet: what a unit sees, by its gradient; a patch says the same alone and in an image; the answer is their mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.bagnet import PATCHES, BagNet


def narrow(patch: int) -> BagNet:
    """An eighth of the width, in float64; kernels, strides and depths as they are."""
    torch.manual_seed(patch)
    return BagNet(patch=patch, width=8, num_classes=5).double().eval()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("unit", [(0, 0), (2, 1), (3, 4)])
def test_a_unit_sees_its_patch_exactly(patch: int, unit: tuple[int, int]) -> None:
    """Its gradient is zero outside a square of `patch` pixels at 8 times its place, and reaches all four borders."""
    network, (i, j) = narrow(patch), unit
    x = torch.randn(1, 3, 80, 80, dtype=torch.float64, requires_grad=True)
    network.forward_features(x)[0, :, i, j].sum().backward()
    seen = x.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (8 * i, 8 * i + patch - 1)
    assert (int(columns.min()), int(columns.max())) == (8 * j, 8 * j + patch - 1)


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_says_alone_what_it_says_in_the_image(patch: int) -> None:
    network = narrow(patch)
    x = torch.randn(2, 3, 64, 72, dtype=torch.float64)
    logits = network.patch_logits(x)
    assert logits.shape[2:] == ((64 - patch) // 8 + 1, (72 - patch) // 8 + 1)
    for i, j in ((0, 0), (1, 2), (logits.shape[2] - 1, logits.shape[3] - 1)):
        alone = network(x[:, :, 8 * i : 8 * i + patch, 8 * j : 8 * j + patch])
        torch.testing.assert_close(logits[:, :, i, j], alone)
    assert logits.std() > 1e-3


@pytest.mark.parametrize("patch", PATCHES)
def test_the_answer_is_the_mean_of_the_patches(patch: int) -> None:
    network = narrow(patch)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(network.patch_logits(x).mean((2, 3)), network(x))


@pytest.mark.parametrize(("patch", "stages"), [(9, 2), (17, 3), (33, 4)])
def test_few_convolutions_are_3x3(patch: int, stages: int) -> None:
    """One in the stem, and one in the first block of the first stages; nothing is padded."""
    with torch.device("meta"):
        network = create_model(f"bagnet{patch}")
    convs = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    large = {name for name, conv in convs.items() if conv.kernel_size == (3, 3)}
    expected = {f"features.conv{stage + 2}_x.0.residual.conv2" for stage in range(stages)}
    assert large == {"features.conv1.conv", *expected}
    assert {conv.kernel_size for name, conv in convs.items() if name not in large} == {(1, 1)}
    assert {conv.padding for conv in convs.values()} == {(0, 0)}
    assert [stage.stride for stage in network.stages] == [1, 2, 4, 8]


def test_patches_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="9, 17, 33"):
        create_model("bagnet33", patch=32)
    without = create_model("bagnet9", num_classes=0, width=8)
    with pytest.raises(UsageError, match="left out"):
        without.patch_logits(torch.zeros(1, 3, 32, 32))
