"""Evaluation against scikit-learn and scipy, and its laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from convatlas.data import Data
from convatlas.errors import BadCheckpoint, DataError
from convatlas.infer import Evaluation, Run
from convatlas.infer.evaluate import Tally, wilson


@settings(max_examples=200)
@given(st.integers(1, 5000), st.data())
def test_wilson_is_scipys(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    low, high = wilson(hits, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / count <= high <= 1


@settings(max_examples=40)
@given(n=st.integers(1, 80), k=st.integers(2, 9), pieces=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_tally_is_scikit_learns_whatever_the_batches(n: int, k: int, pieces: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(k), n).astype(np.float32)
    labels = rng.integers(0, k, n)
    classes = [f"class {i}" for i in range(k)]
    tally = Tally(classes)
    for rows in np.array_split(np.arange(n), pieces):
        if len(rows):
            tally.add([str(i) for i in rows], torch.from_numpy(shares[rows]), torch.from_numpy(labels[rows]))
    made = tally.finish("val")
    predicted = shares.argmax(1)
    assert made.top1 == metrics.accuracy_score(labels, predicted)
    likelier = (shares > shares[np.arange(n), labels][:, None]).sum(axis=1)
    assert made.top5 == (likelier < 5).mean()
    assert made.loss == pytest.approx(
        -np.log(shares[np.arange(n), labels].astype(np.float64)).mean(), rel=1e-9
    )
    assert (made.confusion == metrics.confusion_matrix(labels, predicted, labels=range(k))).all()
    precision, recall, f1, count = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(k), zero_division=np.nan
    )
    for i, score in enumerate(made.per_class):
        assert score.count == count[i]
        for ours, theirs in ((score.precision, precision[i]), (score.recall, recall[i]), (score.f1, f1[i])):
            assert (np.nan if ours is None else ours) == pytest.approx(theirs, nan_ok=True)
    assert made.keys == tuple(str(i) for i in range(n))
    assert [made.predicted[i] != made.labels[i] for i in made.mistakes] == [True] * (n - made.hits)
    assert sorted(made.mistakes + made.unsure_hits) == list(range(n))
    assert sum(times for _, _, times in made.confused_pairs(k * k)) == n - made.hits
    assert same(Evaluation.from_json(json.loads(json.dumps(made.to_json()))), made)


def test_one_class_is_always_right() -> None:
    tally = Tally(["only"])
    tally.add(["a", "b"], torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))
    made = tally.finish("val")
    assert (made.top1, made.top5, made.loss, made.confusion.tolist(), made.mistakes) == (1, 1, 0, [[2]], [])


def same(a: Evaluation, b: Evaluation) -> bool:
    return json.dumps(a.to_json()) == json.dumps(b.to_json())


def test_a_trained_run_on_both_splits(run: Run, digits: Data) -> None:
    """Sizes and order of batches change nothing but the last bits."""
    whole = run.evaluate(digits.test)
    assert whole.count == len(digits.test)
    assert whole.keys == tuple(digits.test.keys)
    assert (whole.labels == digits.test.labels).all()
    assert whole.top1 > 0.8
    assert whole.top1 == metrics.accuracy_score(whole.labels, whole.predicted)
    small = run.evaluate(digits.test, batch_size=7)
    assert (small.predicted == whole.predicted).all()
    assert small.loss == pytest.approx(whole.loss, rel=1e-5)
    assert same(run.evaluate(digits.test), whole)
    assert whole.split == "test"
    assert run.evaluate(digits.val, split_name="mine").split == "mine"


def test_the_best_epochs_validation_score_is_found_again(run: Run, digits: Data) -> None:
    assert run.evaluate(digits.val).top1 == pytest.approx(run.spec.score["top1"])


def test_mirrored_copies_average_probabilities(run: Run, digits: Data) -> None:
    from convatlas.infer.predict import probabilities

    plain, mirrored = run.evaluate(digits.test), run.evaluate(digits.test, tta=True)
    assert mirrored.tta
    images = torch.stack([run.preprocessing.fit(digits.test.image(i)) for i in range(16)])
    batch = run.preprocessing.normalise(images)
    both = (probabilities(run.model, batch) + probabilities(run.model, batch.flip(3))) / 2
    own = both[torch.arange(16), torch.from_numpy(digits.test.labels[:16])]
    assert mirrored.probability_of_label[:16] == pytest.approx(own.numpy(), abs=1e-6)
    assert not np.allclose(plain.probability_of_label, mirrored.probability_of_label)


def test_empty_or_foreign_splits_are_refused(run: Run, digits: Data) -> None:
    with pytest.raises(DataError, match="test split is empty"):
        run.evaluate(digits.test.subset([]))
    with pytest.raises(DataError, match="beyond the network's 10 classes"):
        run.evaluate(replace(digits.test, labels=digits.test.labels + 1))


@pytest.fixture(scope="module")
def plain_values(run: Run, digits: Data) -> dict[str, Any]:
    return run.evaluate(digits.test.subset(range(20))).to_json()


DAMAGES: dict[str, Any] = {
    "format": [2, None, "1"],
    "count": [19, 0, -1, "20", 20.5],
    "top1": [1.5, -0.1, None, "0.9", float("nan")],
    "top1_interval": [[0.1], [0.1, 2.0], None, "ab"],
    "confusion": [[[20]], [[0.5] * 10] * 10, [["a"] * 10] * 10, None, [[-1] * 10] * 10],
    "labels": [[0] * 19, [99] * 20, ["0"] * 20, [0.5] * 20, None, [[0]] * 20],
    "predicted": [[-1] * 20, [10**30] * 20],
    "keys": [[1] * 20, "a" * 20 + "b", None],
    "per_class": [
        [],
        [{"name": "0"}] * 10,
        [{"name": 1, "count": 2, "precision": 2.0, "recall": 0, "f1": 0}] * 10,
        5,
    ],
    "probability_of_label": [["x"] * 20, [0.5] * 3, None],
    "tta": ["yes", 1],
    "surprise": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in DAMAGES.items() for value in values]
)
def test_a_damaged_evaluation_is_refused(plain_values: dict[str, Any], field: str, value: Any) -> None:
    with pytest.raises(BadCheckpoint, match="evaluation"):
        Evaluation.from_json({**plain_values, field: value})


@pytest.mark.parametrize("value", [None, [], 5, "text", {}])
def test_what_is_no_evaluation_is_refused(value: Any) -> None:
    with pytest.raises(BadCheckpoint, match="evaluation"):
        Evaluation.from_json(value)


@pytest.mark.parametrize("field", ["split", "count", "loss", "keys", "confusion", "per_class"])
def test_a_missing_field_is_refused(plain_values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadCheckpoint, match="evaluation"):
        Evaluation.from_json({name: value for name, value in plain_values.items() if name != field})
