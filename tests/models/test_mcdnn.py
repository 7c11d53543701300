"""MCDNN: a column layer by layer, the vote against the mean of columns computed apart, committees and views."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.mcdnn import MCDNN, Vote, committee


def column(seed: int, **settings: int) -> MCDNN:
    torch.manual_seed(seed)
    network = create_model("mcdnn_column", **settings)
    assert isinstance(network, MCDNN)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # the first weights are so small that all columns say nearly the same
    return network.double().eval()


def by_hand(network: MCDNN, x: Tensor) -> Tensor:
    """20C4-MP2-40C5-MP3-150N-10N and softmax, as the paper writes them, with a linear layer for 150N."""
    w = network.state_dict()

    def squash(t: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * t)

    f = nn.functional
    x = squash(f.conv2d(x, w["features.conv1.conv.weight"], w["features.conv1.conv.bias"]))
    x = f.max_pool2d(x, 2)
    x = squash(f.conv2d(x, w["features.conv2.conv.weight"], w["features.conv2.conv.bias"]))
    x = f.max_pool2d(x, 3).flatten(1)
    assert x.shape[1] == 360
    x = squash(f.linear(x, w["head.hidden.conv.weight"].flatten(1), w["head.hidden.conv.bias"]))
    return f.linear(x, w["head.output.weight"].flatten(1), w["head.output.bias"]).softmax(1)


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 29, 29, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_column_is_the_papers_list_of_layers() -> None:
    network, x = column(0), images()
    torch.testing.assert_close(network(x).softmax(1), by_hand(network, x))


def test_a_committee_averages_the_probabilities_of_its_columns() -> None:
    members, x = [column(seed) for seed in range(4)], images()
    each = [by_hand(member, x) for member in members]
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    torch.testing.assert_close(committee(members)(x).softmax(1), torch.stack(each).mean(0))


def test_the_mean_of_probabilities_is_not_that_of_logits() -> None:
    """One column that is sure outvotes one that is not."""
    x = torch.tensor([[9.0, 0.0, 0.0, 1.0]])[..., None, None]
    found = Vote(2)(x).softmax(1)
    sure, unsure = 1 / (1 + math.exp(-9)), 1 / (1 + math.exp(1))
    torch.testing.assert_close(found[0, 0], torch.tensor((sure + unsure) / 2))


def test_each_width_is_seen_by_its_own_columns() -> None:
    members = [column(seed) for seed in range(6)]
    views = torch.stack([images(seed=view) for view in range(3)], dim=1)
    assert views.shape == (3, 3, 1, 29, 29)
    expected = torch.stack([by_hand(member, views[:, i // 2]) for i, member in enumerate(members)]).mean(0)
    together = committee(members)
    torch.testing.assert_close(together.forward_views(views).softmax(1), expected)
    same = images()[:, None].expand(-1, 2, -1, -1, -1)
    assert torch.equal(together.forward_views(same), together(images()))


def test_columns_do_not_see_each_other() -> None:
    """The logit of one column gives no gradient to the weights of another."""
    together = committee([column(0), column(1)])
    received = together.forward_head(together.forward_features(images()), pre_logits=True)
    assert received.shape == (3, 300, 1, 1)
    received[:, :150].sum().backward()
    for name, parameter in together.named_parameters():
        if "output" not in name:
            assert parameter.grad is not None
            first, second = parameter.grad.chunk(2)
            assert first.any(), name
            assert not second.any(), name


def test_a_committee_of_committees_keeps_every_column() -> None:
    members, x = [column(seed) for seed in range(3)], images()
    nested = committee([committee(members[:2]), members[2]])
    assert nested.columns == 3
    assert torch.equal(nested(x), committee(members)(x))
    assert not nested.training


def test_a_committee_owns_its_weights() -> None:
    member = column(0)
    together, before = committee([member]), member(images())
    with torch.no_grad():
        together.head.output.weight.zero_()
    assert torch.equal(member(images()), before)


def test_thirty_five_columns_start_apart_and_within_the_papers_bounds() -> None:
    torch.manual_seed(0)
    network = create_model("mcdnn_35")
    for name, parameter in network.named_parameters():
        assert 0.045 < float(parameter.detach().abs().max()) <= 0.05, name
        columns = parameter.detach().chunk(35)
        assert len(columns) == 35
        assert not torch.equal(columns[0], columns[1])


def test_maps_of_other_images_are_brought_to_three_by_three() -> None:
    network = column(0)
    assert network.forward_features(images()).shape == (3, 40, 9, 9)
    assert network(torch.zeros(1, 1, 64, 64, dtype=torch.float64)).shape == (1, 10)


def test_what_cannot_be_put_together() -> None:
    with pytest.raises(UsageError, match="0 networks"):
        committee([])
    with pytest.raises(UsageError, match=r"\(7, 1\), \(10, 1\)"):
        committee([column(0), column(1, num_classes=7)])
    with pytest.raises(UsageError, match="0 columns"):
        create_model("mcdnn_35", columns=0)
    together = committee([column(0), column(1)])
    for wrong in (torch.zeros(1, 3, 1, 29, 29), torch.zeros(1, 1, 29, 29)):
        with pytest.raises(UsageError, match="V divides the columns"):
            together.forward_views(wrong.double())
