"""How long the network waited for data: arithmetic, and what the page says about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crafted import craft

from convatlas.report import write_report
from convatlas.report.pace import pace

SMALL: dict[str, Any] = {"data": {"sizes": {"median": [32, 28]}}}
DECIDED: dict[str, Any] = {"workers": 1, "machine": {"cores": 4}, "cache": None}


def epoch(seconds: float, share: float) -> dict[str, Any]:
    return {
        "kind": "epoch",
        "seconds": seconds,
        "waiting_share": share,
        "images_per_second": 10.0,
        "validation_seconds": 1.0,
    }


def test_the_share_is_of_all_epochs_time() -> None:
    found = pace([epoch(10, 0.5), epoch(30, 0.1)], DECIDED)
    assert found["waited"] == pytest.approx((5 + 3) / 40)
    assert found["seconds"] == 42
    assert found["images_per_second"] == 10.0


@pytest.mark.parametrize("timing", [[], [{"kind": "other"}], [{"seconds": 0.0, "waiting_share": 0.0}]])
def test_nothing_is_said_where_nothing_is_known(timing: list[dict[str, Any]]) -> None:
    found = pace(timing, DECIDED)
    assert found["waited"] is None
    assert not found["waiting_advice"]


def test_advice_begins_above_five_percent() -> None:
    assert pace([epoch(10, 0.05)], DECIDED)["waiting_advice"] == ""
    assert pace([epoch(10, 0.0501)], DECIDED)["waiting_advice"]


@pytest.mark.parametrize(
    ("decided", "told", "untold"),
    [
        (DECIDED, ("--workers; it had 1", "--cache DIR", "not much larger"), ()),
        ({**DECIDED, "workers": 4}, ("--cache DIR",), ("--workers",)),
        ({**DECIDED, "workers": None}, ("--cache DIR",), ("--workers",)),
        ({**DECIDED, "workers": 4, "cache": "/c"}, ("Faster would be images",), ("--workers", "--cache")),
        ({}, ("--cache DIR",), ("--workers",)),
        ({"data": {"sizes": {"median": [500, 375]}}}, ("--cache DIR",), ("memory",)),
        (SMALL | {"preprocessing": {"size": [32, 32]}}, ("kept in memory",), ("Faster", "--cache")),
        (SMALL | {"preprocessing": {"size": [224, 224]}}, ("--cache DIR",), ("memory",)),
    ],
)
def test_advice_names_what_has_not_been_done(
    decided: dict[str, Any], told: tuple[str, ...], untold: tuple[str, ...]
) -> None:
    advice = pace([epoch(10, 0.3)], decided)["waiting_advice"]
    assert all(word in advice for word in told)
    assert not any(word in advice for word in untold)


@pytest.mark.parametrize(("share", "advised"), [(0.123, True), (0.01, False)])
def test_the_page_says_it(tmp_path: Path, share: float, advised: bool) -> None:
    folder = craft(tmp_path / "run", ["cat", "dog"], workers=1, machine={"cores": 2})
    folder.timing_path.write_text(json.dumps(epoch(60.0, share)) + "\n")
    page = write_report(folder).read_text().replace("\xa0", " ")
    assert f"waited for data</dt><dd>{100 * share:.1f} %" in page
    assert (
        "The network waited for its data 12.3 % of the training time. Faster would be more" in page
    ) == advised
