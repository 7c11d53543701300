"""Drawing a role: nothing is torn apart, classes get their shares, and only content decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convatlas.data.splits import draw


def names(count):
    return [f"{i:08x}" for i in range(count)]


def chosen(labels, units=None, *, share=0.1, keep=1, seed=0, hashes=None, role="val"):
    labels = np.asarray(labels, np.int64)
    units = np.arange(len(labels)) if units is None else np.asarray(units, np.int64)
    return draw(labels, units, hashes or names(len(labels)), share=share, keep=keep, seed=seed, role=role)


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200),
    st.floats(0.01, 0.9),
    st.integers(0, 3),
    st.integers(1, 2),
)
def test_single_images_are_shared_exactly(labels, share, seed, keep):
    pick = chosen(labels, share=share, seed=seed, keep=keep)
    for label in set(labels):
        rows = np.flatnonzero(np.array(labels) == label)
        wanted = max(math.floor(len(rows) * share + 0.5), int(len(rows) >= 10))
        assert pick[rows].sum() == max(0, min(wanted, len(rows) - keep))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=150), st.integers(0, 3)
)
def test_units_are_never_torn_and_classes_keep_one(pairs, seed):
    labels, units = (np.array(column) for column in zip(*pairs, strict=True))
    pick = chosen(labels, units, share=0.3, seed=seed)
    for unit in set(units.tolist()):
        assert len(set(pick[units == unit].tolist())) == 1
    for label in set(labels.tolist()):
        assert not pick[labels == label].all() or not pick.any()


def test_large_groups_come_near_the_share():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 40, 2000)
    labels = rng.integers(0, 3, 2000)
    pick = chosen(labels, patients, share=0.2)
    assert 0.15 <= pick.mean() <= 0.25
    for label in range(3):
        assert 0.13 <= pick[labels == label].mean() <= 0.27


def test_a_class_of_ten_large_groups_is_in_val():
    pick = chosen([0] * 100, np.arange(100) // 50, share=0.1)  # two groups of fifty, ten images wanted
    assert pick.sum() == 50


def test_one_family_cannot_be_shared():
    assert not chosen([0] * 100, [0] * 100).any()


def test_order_and_other_samples_do_not_matter():
    labels, hashes = [i % 4 for i in range(400)], names(400)
    pick = {hashes[i] for i in np.flatnonzero(chosen(labels, hashes=hashes))}
    order = np.random.default_rng(1).permutation(400)
    shuffled = chosen([labels[i] for i in order], hashes=[hashes[i] for i in order])
    assert {hashes[order[i]] for i in np.flatnonzero(shuffled)} == pick
    fewer = {hashes[i] for i in np.flatnonzero(chosen(labels[:-4], hashes=hashes[:-4]))}
    assert len(pick ^ fewer) <= 4


def test_seed_and_role_decide():
    labels = [0] * 1000
    picks = [chosen(labels, seed=seed, role=role) for seed in (0, 1) for role in ("val", "test")]
    for i, one in enumerate(picks):
        assert one.sum() == 100
        for other in picks[:i]:
            assert 0 < (one & other).sum() < 40  # ten are expected by chance


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 7)])
def test_nothing_and_everything(share, count):
    assert chosen([0, 0, 0, 1, 1, 1, 1], share=share).sum() == count
    assert chosen([], share=share).shape == (0,)
