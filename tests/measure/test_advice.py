"""The ranking: by hand, by its laws on random candidates, and with a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.errors import UsageError
from convatlas.measure.advice import (
    NEAREST,
    Budget,
    Candidate,
    Miss,
    advise,
    dominates,
    rank,
    sentence,
    to_json,
)
from convatlas.measure.evidence import Evidence
from convatlas.measure.timing import Timing


def candidate(
    name: str, error: float, params: int = 1, macs: int = 1, memory: int = 1, ms: float | None = None
) -> Candidate:
    known = Evidence("imagenet", error, error, "ILSVRC-2012 val", 224, "paper")
    timing = None if ms is None else Timing(ms / 1e3, ms / 1e3, ms / 1e3, 3)
    return Candidate(name, known, params, macs, memory, timing=timing)


def test_by_hand() -> None:
    networks = [
        candidate("heavy", 20, params=12, ms=9),
        candidate("slow", 21, params=4, ms=25),
        candidate("good", 25, params=4, macs=5, ms=9),
        candidate("worse", 26, params=4, macs=5, ms=9),
        candidate("small", 30, params=2, macs=5, ms=9),
        candidate("quick", 30, params=3, macs=5, ms=5),
    ]
    advice = rank(networks, Budget(max_params=5, max_ms=20))
    told = [(each.candidate.name, each.dominated_by) for each in advice.ranked]
    assert told == [("good", None), ("worse", "good"), ("quick", None), ("small", None)]
    assert [(miss.candidate.name, dict(miss.excess)) for miss in advice.misses] == [
        ("slow", {"milliseconds": 1.25}),
        ("heavy", {"params": 2.4}),
    ]
    assert advice.nearest == advice.misses  # both would be first


def test_misses_that_would_not_be_first_are_not_near() -> None:
    networks = [candidate("fits", 25), candidate("better", 24, params=9), candidate("worse", 26, params=6)]
    advice = rank(networks, Budget(max_params=5))
    assert [miss.candidate.name for miss in advice.nearest] == ["better"]
    assert [miss.candidate.name for miss in advice.misses] == ["worse", "better"]
    nothing = rank([replace(each, macs=7) for each in networks], Budget(max_macs=3))
    assert nothing.ranked == ()
    assert [miss.candidate.name for miss in nothing.nearest] == ["better", "fits", "worse"]


@pytest.mark.parametrize(
    ("limits", "hint"), [({"max_params": 0}, "--max-params 0"), ({"max_memory_bytes": -1}, "--max-memory -1")]
)
def test_a_budget_is_above_nothing(limits: dict[str, int], hint: str) -> None:
    with pytest.raises(UsageError, match=f"{hint}: .* above 0 is expected"):
        Budget(**limits)


def test_a_figure_of_several_crops_is_ranked_by_what_it_counts() -> None:
    crops = candidate("crops", 24)
    crops = replace(crops, evidence=replace(crops.evidence, counted_pct=25.4))
    ranked = rank([crops, candidate("one", 25)], Budget()).ranked
    assert [each.candidate.name for each in ranked] == ["one", "crops"]


costs = st.integers(1, 5)
many = st.lists(
    st.builds(candidate, st.uuids().map(str), st.integers(1, 5), costs, costs, costs, costs),
    max_size=12,
    unique_by=lambda each: each.name,
)
budgets = st.builds(Budget, *[st.none() | costs] * 4)


@given(many, budgets)
def test_laws(networks: list[Candidate], budget: Budget) -> None:
    advice = rank(networks, budget)
    fitting = [each.candidate for each in advice.ranked]
    assert sorted(each.name for each in (*fitting, *(miss.candidate for miss in advice.misses))) == sorted(
        each.name for each in networks
    )
    for each in fitting:
        assert not budget.excess(each)
        for cost, limit in (
            (each.params, budget.max_params),
            (each.macs, budget.max_macs),
            (each.memory_bytes, budget.max_memory_bytes),
            (each.milliseconds, budget.max_ms),
        ):
            assert limit is None or (cost is not None and cost <= limit)
    assert all(miss.worst > 1 for miss in advice.misses)
    errors = [each.evidence.counted_pct for each in fitting]
    assert errors == sorted(errors)
    for each in advice.ranked:  # marked exactly where another one that fits is better all round
        others = [other for other in fitting if dominates(other, each.candidate)]
        assert (each.dominated_by is None) == (not others)
        assert each.dominated_by in (None, *(other.name for other in others))
    assert len(advice.nearest) <= NEAREST
    looser = rank(networks, replace(budget, max_params=None))  # a larger budget never loses a network
    assert {each.name for each in fitting} <= {each.candidate.name for each in looser.ranked}


@given(many)
def test_domination_is_a_strict_order(networks: list[Candidate]) -> None:
    for a in networks:
        assert not dominates(a, a)
        for b in networks:
            assert not (dominates(a, b) and dominates(b, a))
            for c in networks:
                assert not (dominates(a, b) and dominates(b, c)) or dominates(a, c)


class Watch:
    """Times candidates by their names: "n12" takes 12 ms, and every measurement a second."""

    def __init__(self) -> None:
        self.now, self.timed = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def measure(self, each: Candidate) -> Timing:
        self.now += 1
        self.timed.append(each.name)
        seconds = int(each.name[1:]) / 1e3
        return Timing(seconds, seconds, seconds, 1)


FIVE = [
    candidate(f"n{10 * (6 - error)}", error, params=error) for error in (3, 1, 5, 2, 4)
]  # better is slower


@pytest.mark.parametrize(
    ("bounds", "timed", "ranked", "untimed"),
    [
        ({}, ["n50", "n40", "n30", "n20", "n10"], ["n20", "n10"], []),
        ({"enough": 1}, ["n50", "n40", "n30", "n20"], ["n20"], ["n10"]),
        ({"most": 2}, ["n50", "n40"], [], ["n30", "n20", "n10"]),
        ({"seconds": 2.5}, ["n50", "n40", "n30"], [], ["n20", "n10"]),
        ({"seconds": 0.0}, [], [], ["n50", "n40", "n30", "n20", "n10"]),
    ],
)
def test_the_best_are_timed_first_within_bounds(
    bounds: dict[str, float], timed: list[str], ranked: list[str], untimed: list[str]
) -> None:
    watch = Watch()
    limits = {"enough": 9, "most": 9, "seconds": 99.0, **bounds}
    advice = advise(FIVE, Budget(max_ms=25), watch.measure, clock=watch, **limits)  # type: ignore[arg-type]
    assert watch.timed == timed
    assert [each.candidate.name for each in advice.ranked] == ranked
    assert [each.name for each in advice.untimed] == untimed
    assert {miss.candidate.name for miss in advice.misses} == set(timed) - set(ranked)


def test_what_is_over_the_counted_budget_is_never_timed() -> None:
    watch = Watch()
    advice = advise(FIVE, Budget(max_params=2), watch.measure, enough=9, most=9, seconds=99, clock=watch)
    assert watch.timed == ["n50", "n40"]
    assert [miss.candidate.name for miss in advice.misses] == ["n30", "n20", "n10"]


def test_sentences() -> None:
    big = candidate("resnet18", 30, params=11_700_000, macs=1_800_000_000, memory=3_100_000_000, ms=31)
    told = sentence(Miss(big, Budget(max_params=5_000_000).excess(big)))
    assert told == "resnet18 has 11.7 M parameters, 2.3 times the budget"
    told = sentence(Miss(big, Budget(5_000_000, 300_000_000, 2_000_000_000, 30).excess(big)))
    assert told == (
        "resnet18 has 11.7 M parameters, 2.3 times the budget; makes 1.8 G MACs, 6.0 times the budget; "
        "needs 3,100 MB, 1.6 times the budget; takes 31 ms, 3.3 % over the budget"
    )
    small = candidate("tiny", 30, params=999_600)
    assert "1 M parameters" in sentence(Miss(small, {"params": 2.0}))


def test_json_has_what_was_decided_by() -> None:
    told = to_json(candidate("a", 25.5, 10, 20, 30, 4.0))
    assert told["error_pct"] == told["counted_error_pct"] == 25.5
    assert told["evidence"] == {
        "kind": "imagenet", "test": "ILSVRC-2012 val", "image": 224, "source": "paper",
    }  # fmt: skip
    assert (told["params"], told["macs"], told["memory_bytes"], told["seconds"]["runs"]) == (10, 20, 30, 3)
    assert to_json(candidate("a", 25.5))["seconds"] is None
