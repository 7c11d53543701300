"""The case study on CIFAR-100: its rows, what its units see, its parameters one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.cifar100_study import StudyNet, conv_block


def seen(name: str) -> dict[str, int]:
    """Side in pixels of what one output pixel of each child depends on: where its gradient is not zero."""
    network = create_model(name).double()
    for parameter in network.parameters():  # positive numbers through ReLU: no path cancels or is cut
        nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    sides: dict[str, int] = {}
    x = torch.ones(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    for child, output in network.run_features(x):
        centre = output[0, 0, output.shape[2] // 2, output.shape[3] // 2]
        (gradient,) = torch.autograd.grad(centre, x, retain_graph=True)
        rows = gradient[0].abs().sum((0, 2)).nonzero()
        columns = gradient[0].abs().sum((0, 1)).nonzero()
        sides[child] = int(rows[-1] - rows[0]) + 1
        assert int(columns[-1] - columns[0]) + 1 == sides[child]
    return sides


def test_receptive_fields() -> None:
    """The lecture prints 5, 9, 15, 15, 23, 31."""
    assert list(seen("cifar100_study_printed").values()) == [5, 9, 11, 19, 27, 31]
    assert list(seen("cifar100_study").items())[-2:] == [("block5", 47), ("block6", 63)]


def test_rows_of_the_table() -> None:
    with torch.device("meta"):
        rows = [
            (name.rstrip("0123456789"), tuple(y.shape[1:]))
            for name, y in create_model("cifar100_study_printed").run_features(torch.empty(1, 3, 32, 32))
        ]
    assert rows == [
        ("block", (32, 32, 32)),
        ("block", (32, 32, 32)),
        ("sub", (32, 16, 16)),
        ("block", (128, 16, 16)),
        ("block", (128, 16, 16)),
        ("sub", (128, 8, 8)),
    ]


def test_a_block_is_rows_columns_rows_columns() -> None:
    convolutions = [m for m in conv_block(8, 16, batch_norm=True).modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in convolutions] == [(1, 3), (3, 1), (1, 3), (3, 1)]
    assert [m.in_channels for m in convolutions] == [8, 16, 16, 16]
    leaves = [type(m) for m in conv_block(8, 16, batch_norm=True).modules() if not list(m.children())]
    assert leaves == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 4


@pytest.mark.parametrize(
    ("widths", "last", "params"), [((32, 128), True, 549_156), ((32, 128, 256), False, 2_038_564)]
)
def test_parameters_by_hand(widths: tuple[int, ...], last: bool, params: int) -> None:
    total, c_in = 0, 3
    for i, width in enumerate(widths):
        total += 3 * c_in * width + width + 7 * (3 * width * width + width)  # eight units of two blocks
        if last or i + 1 < len(widths):
            total += 9 * width * width + width
        c_in = width
    assert total + 100 * c_in + 100 == params
    with torch.device("meta"):
        network = StudyNet(widths, subsample_last=last)
    assert sum(p.numel() for p in network.parameters()) == params


def test_regularised() -> None:
    head = create_model("cifar100_study_bn", dropout=0.5).head
    assert [type(m) for m in head] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear]


def test_without_widths() -> None:
    with pytest.raises(UsageError, match="without widths"):
        StudyNet(())
