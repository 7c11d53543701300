"""Exact counts, worked out apart from this code. The papers' own, rounded ones are compared in tests/audit."""

from __future__ import annotations

from functools import cache

import pytest

from canon import counts
from convatlas.layers.blueprint import blueprint
from convatlas.measure import Measurement, measure
from convatlas.models import create_model, find, specs
from convatlas.models.printed import agrees

NAMES = [spec.name for spec in specs()]


@cache
def measured(name: str) -> Measurement:
    spec = find(name)
    with blueprint():
        network = create_model(name)
    return measure(network, (spec.channels, spec.image, spec.image))


def test_every_network_is_counted() -> None:
    assert sorted(counts()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_exact_counts(name: str) -> None:
    """Of what a prediction needs; the auxiliary heads apart."""
    with blueprint():
        network = create_model(name)
    auxiliary = sum(p.numel() for p in network.auxiliary.parameters())
    params = sum(p.numel() for p in network.parameters() if p.requires_grad)
    expected = counts()[name]
    assert params - auxiliary == expected["params"]
    assert auxiliary == expected.get("auxiliary", 0)
    if "macs" in expected:
        assert measured(name).macs == expected["macs"]


def test_errors_are_percentages_with_a_test_that_gave_them() -> None:
    for spec in specs():
        published = spec.published
        errors = [published.top1_error_pct, published.top5_error_pct, published.error_pct]
        for error in filter(None, errors):
            assert 0 < float(error) < 100
            assert published.test, spec.name
        if published.top1_error_pct and published.top5_error_pct:
            assert float(published.top5_error_pct) < float(published.top1_error_pct)


@pytest.mark.parametrize(
    ("ours", "printed", "same"),
    [
        (138_357_544, "138M", True),
        (138_500_000, "138M", False),
        (137_499_999, "138M", False),
        (61_706, "60,000", False),
        (60_000, "60,000", True),
        (60_001, "60,000", False),
        (1_727_962, "1.7M", True),
        (1_750_001, "1.7M", False),
        (11_282_415_616, "11.3×10^9", True),
        (1.5e9, "1.5 G", True),
    ],
)
def test_agreement_at_the_printed_precision(ours: float, printed: str, same: bool) -> None:
    assert agrees(ours, printed) is same


@pytest.mark.parametrize("printed", ["", "many", "about 60", "1.2.3M", "12T"])
def test_text_that_is_no_figure(printed: str) -> None:
    with pytest.raises(ValueError, match="is not a figure"):
        agrees(1, printed)
