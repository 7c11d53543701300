"""Weight layers on the longest path: by hand for every kind of junction, and against torch's own graph."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.measure.depth import weight_layers


class Join(nn.Module):
    """Branches that are joined by `how`."""

    def __init__(self, how: str, *branches: nn.Module) -> None:
        super().__init__()
        self.how, self.branches = how, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        if self.how == "cat":
            return torch.cat(outputs, 1)
        first, *rest = outputs
        for other in rest:
            first = first + other if self.how == "add" else first * other
        return first


def conv(c_in: int, c_out: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)


def chain(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(conv(a, b, 3) for a, b in pairwise(sizes)))


class Switched(nn.Module):
    """Splits, shuffles views and joins: every result of a function with several carries the depth."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.late = conv(4, 4), conv(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        joined = torch.cat([left, self.late(right)], 1)
        return joined.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)


squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(4, 2), nn.ReLU(), conv(2, 4), nn.Sigmoid())


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (nn.Identity(), 0),
        (chain(4, 8, 4), 2),
        (nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.PReLU(4), nn.ReLU()), 1),
        (Join("add", chain(4, 4, 4), conv(4, 4)), 2),  # a projection beside its block
        (Join("add", chain(4, 4, 4), nn.Identity()), 2),
        (nn.Sequential(conv(4, 4), Join("cat", chain(4, 2), chain(4, 3, 3, 3), nn.MaxPool2d(3, 1, 1))), 4),
        (Join("mul", chain(4, 4), chain(4, 4)), 1),  # a gate of the same size is on the path
        (Join("mul", nn.Identity(), squeeze), 0),  # one value a map is beside it
        (nn.Sequential(conv(4, 4), Join("mul", nn.Identity(), squeeze), conv(4, 4)), 2),
        (Switched(), 2),
        (nn.Sequential(conv(4, 4), nn.Flatten(), nn.Linear(4 * 64, 3)), 2),
        (nn.Sequential(*[shared := conv(4, 4), shared]), 2),  # applied twice, twice as deep
    ],
)
def test_layers_of_a_path(network: nn.Module, layers: int) -> None:
    assert weight_layers(network, (4, 8, 8)) == layers


def test_the_network_is_given_back() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert weight_layers(network) == 1
    assert network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Constant(nn.Module):
    """Has content of its own that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.offset = conv(3, 4), torch.ones(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.offset * torch.arange(8.0)


def test_constants_and_new_tensors_are_taken_to_meta() -> None:
    assert weight_layers(Constant(), (3, 8, 8)) == 1


@pytest.mark.parametrize(("shape", "complaint"), [((4, 8, 8), "in '0'"), ((), "positive numbers")])
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        weight_layers(nn.Sequential(conv(3, 4)), shape)
