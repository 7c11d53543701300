"""FractalNet: the block written out, joins and drop-path against their definitions, columns as networks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.fractalnet import FractalBlock, FractalNet, drop_paths, join, joins


def small(columns: int = 3, **settings: float) -> FractalNet:
    torch.manual_seed(0)
    network = FractalNet(columns, widths=(4, 6), block_dropout=(0.0, 0.0), **settings)  # pyright: ignore[reportArgumentType]
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
    return network.double()


def test_a_block_of_three_columns_written_out() -> None:
    """The two deeper columns join halfway; all three, each pooled, at the end."""
    torch.manual_seed(0)
    block = FractalBlock(3, 4, 3, 0.0).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    (a, pool), (b1, b2, _), (c1, c2, c3, c4, _) = (list(column) for column in block.children())
    middle = (b1(x) + c2(c1(x))) / 2
    expected = (pool(a(x)) + pool(b2(middle)) + pool(c4(c3(middle)))) / 3
    torch.testing.assert_close(block(x), expected)


def test_joins_of_the_expansion_rule() -> None:
    """f_(C+1) has the joins of f_C twice, where the last of the second is widened by the new column."""
    assert joins(1) == []
    for columns in range(2, 6):
        before = joins(columns - 1)
        if columns > 2:
            assert joins(columns) == [*before, *before[:-1], columns]
    assert joins(2) == [2]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_depth_of_the_columns(columns: int) -> None:
    block = FractalBlock(3, 2, columns, 0.0)
    depths = [sum(isinstance(m, nn.Conv2d) for m in column.modules()) for column in block.children()]
    assert depths == [2**i for i in range(columns)]


def test_a_join_is_the_mean_of_its_survivors() -> None:
    a, b, c = torch.randn(3, 2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(join([a, b, c], None), (a + b + c) / 3)
    shares = torch.tensor([[0.5], [0.0], [0.5]], dtype=torch.float64)
    torch.testing.assert_close(join([a, b, c], shares), (a + c) / 2)
    by_image = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(join([a, b, c], by_image), torch.stack([a[0], (b[1] + c[1]) / 2]))


def test_local_drop_path_has_the_probabilities_of_its_definition() -> None:
    """Inputs are dropped by themselves with probability p; where all would be, one of them survives, each as often."""
    torch.manual_seed(0)
    p, n, trials = 0.4, 3, 40_000
    drawn = drop_paths([n], n, p, 0.0, torch.zeros(trials))[0].T > 0
    for survivors in itertools.product((False, True), repeat=n):
        kept = sum(survivors)
        expected = (1 - p) ** kept * p ** (n - kept) if kept else 0.0
        expected += p**n / n if kept == 1 else 0.0
        found = float((drawn == torch.tensor(survivors)).all(1).double().mean())
        assert found == pytest.approx(expected, abs=4 * (max(expected, 1e-9) / trials) ** 0.5)


def test_local_drop_path_draws_each_join_by_itself() -> None:
    torch.manual_seed(0)
    drawn = drop_paths([2, 2], 2, 0.5, 0.0, torch.zeros(4000)) > 0
    agreement = (drawn[0] == drawn[1]).all(0).double().mean()
    assert float(agreement) == pytest.approx(0.375**2 * 2 + 0.25**2, abs=0.03)


def test_global_drop_path_keeps_one_column_everywhere() -> None:
    torch.manual_seed(0)
    meeting = joins(3) * 5
    drawn = drop_paths(meeting, 3, 0.15, 1.0, torch.zeros(3000))
    chosen = drawn[1].argmax(0)
    for place, count in enumerate(meeting):
        for column in range(3):
            here = drawn[place][:, chosen == column]
            if column >= 3 - count:
                assert (here == torch.eye(3)[column].view(3, 1)).all()
    share = chosen.bincount() / 3000
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_shares_sum_to_one_and_half_of_the_draws_are_global() -> None:
    torch.manual_seed(0)
    drawn = drop_paths(joins(4) * 5, 4, 0.0, 0.5, torch.zeros(2000))
    torch.testing.assert_close(drawn.sum(1), torch.ones(20, 2000))
    full = (drawn[3] > 0).all(0).double().mean()  # with rate 0 a local draw keeps everything
    assert float(full) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_column_is_the_network_with_the_others_dropped(columns: int) -> None:
    network = small(columns).eval()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for index in range(1, columns + 1):
        signal, meeting = x, joins(columns)
        for block in network.features:
            shares = torch.zeros(len(meeting), columns, 1, dtype=torch.float64)
            shares[:, index - 1] = 1
            signal = block(signal, shares if meeting else None)
        plain = network.column(index)
        assert not plain.training
        torch.testing.assert_close(plain(x), network.forward_head(signal), rtol=0, atol=0)
        assert sum(isinstance(m, nn.Conv2d) for m in plain.modules()) == 2 * 2 ** (index - 1)


def test_a_column_has_weights_of_its_own() -> None:
    network = small().eval()
    plain = network.column(2)
    before = network(torch.ones(1, 3, 8, 8, dtype=torch.float64))
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert torch.equal(network(torch.ones(1, 3, 8, 8, dtype=torch.float64)), before)
    for index in (0, 4):
        with pytest.raises(UsageError, match="there are 1 to 3"):
            network.column(index)


def silent_columns(network: FractalNet) -> set[str]:
    return {
        name.split(".")[2]
        for name, parameter in network.named_parameters()
        if "column" in name and (parameter.grad is None or not parameter.grad.any())
    }


def test_only_the_chosen_column_learns_from_a_global_draw() -> None:
    network = small(global_share=1.0).train()
    seen: set[frozenset[str]] = set()
    for seed in range(12):
        torch.manual_seed(seed)
        network.zero_grad()
        network(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
        seen.add(frozenset(silent_columns(network)))
    every = {"column1", "column2", "column3"}
    assert seen == {frozenset(every - {column}) for column in every}


def test_paths_of_each_image() -> None:
    """With one image twice in a batch, only `per_image` can tell them apart."""
    twice = torch.randn(1, 3, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1)
    for per_image in (False, True):
        network = small(per_image=per_image).train()
        differ = []
        for seed in range(8):
            torch.manual_seed(seed)
            first, second = network(twice)
            differ.append(not torch.allclose(first, second))
        assert any(differ) is per_image


def test_no_drop_path_is_the_whole_network_in_training_too() -> None:
    network = small(drop_path=0.0).train()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))


def test_what_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="one number per block"):
        create_model("fractalnet21_cifar", block_dropout=(0.1,))
    with pytest.raises(UsageError, match="probabilities"):
        create_model("fractalnet21_cifar", drop_path=1.0)
