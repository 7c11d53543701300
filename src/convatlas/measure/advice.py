"""Which networks fit a budget, the most accurate first: `advise(candidates, Budget(max_params=5_000_000), clock)`.

The rule, in the order of its steps:

1. What is over the budget of parameters, MACs or memory is out. These are counted, not measured, so it is certain.
2. The rest is timed, best first by its published error (`measure.evidence`), until enough fit or the time is over.
   What takes too long is out.
3. What is left is ranked by that error; of two with the same error the quicker one comes first.
   What was measured by runs on the user's own images comes before what was published.
4. A network is dominated if a better ranked one has no larger error and costs no more of anything.

An error on ImageNet is a proxy: it says how good a network was on other images, mostly larger ones, trained by the
recipe of its paper. Differences below a point mean little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from convatlas.errors import UsageError
from convatlas.measure.evidence import Evidence
from convatlas.measure.timing import Timing

NEAREST = 5  # of those that do not fit, how many are told


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network as it would be used: counted for the wanted classes and images, and timed if it came to that.

    `weights` says where official weights can be had, `same` which other names of the canon are the same network with
    a figure of another size. Memory is None where it was not worth predicting.
    """

    name: str
    evidence: Evidence
    params: int
    macs: int
    memory_bytes: int | None = None
    weights: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    timing: Timing | None = None

    @property
    def milliseconds(self) -> float | None:
        """The median, or None before it was timed."""
        return None if self.timing is None else self.timing.median * 1e3


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a network may cost; None is no limit. Raises `UsageError` for a limit that is not above 0."""

    max_params: int | None = None
    max_macs: int | None = None
    max_memory_bytes: int | None = None
    max_ms: float | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not limit > 0:
                option = name.removesuffix("_bytes").replace("_", "-")
                raise UsageError(
                    f"--{option} {limit}: nothing costs so little; a number above 0 is expected."
                )

    def excess(self, candidate: Candidate) -> dict[str, float]:
        """What is over the budget, and how many times the budget it is. What is not known is not over."""
        limits: dict[str, tuple[float | None, float | None]] = {
            "params": (candidate.params, self.max_params),
            "macs": (candidate.macs, self.max_macs),
            "memory_bytes": (candidate.memory_bytes, self.max_memory_bytes),
            "milliseconds": (candidate.milliseconds, self.max_ms),
        }
        return {
            what: cost / limit
            for what, (cost, limit) in limits.items()
            if cost is not None and limit is not None and cost > limit
        }


@dataclass(frozen=True, slots=True)
class Ranked:
    """A network that fits, and the better ranked one that costs no more of anything, if there is one."""

    candidate: Candidate
    dominated_by: str | None


@dataclass(frozen=True, slots=True)
class Miss:
    """A network that does not fit: `excess` as `Budget.excess` gives it, never empty."""

    candidate: Candidate
    excess: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest excess: how far it is from fitting."""
        return max(self.excess.values())


@dataclass(frozen=True, slots=True)
class Advice:
    """What fits, best first; what nearly fits, nearest first; what would have fitted but was not timed."""

    ranked: tuple[Ranked, ...]
    misses: tuple[Miss, ...]
    untimed: tuple[Candidate, ...] = field(default=())

    @property
    def nearest(self) -> tuple[Miss, ...]:
        """The nearest misses: those that would be ranked first; all that are near if nothing fits."""
        best = self.ranked[0].candidate if self.ranked else None
        wanted = [miss for miss in self.misses if best is None or _order(miss.candidate) < _order(best)]
        return tuple(wanted[:NEAREST])


def _order(candidate: Candidate) -> tuple[bool, float, float, int, str]:
    """The key of the ranking: own runs first, by the error as it counts; then time, MACs and the name."""
    known = candidate.evidence
    published = known.kind != "own"
    return published, known.counted_pct, candidate.milliseconds or 0.0, candidate.macs, candidate.name


def rank(candidates: Sequence[Candidate], budget: Budget) -> Advice:
    """Those that fit the budget, ranked; and all that do not, by how far they are from it."""
    fitting = sorted((each for each in candidates if not budget.excess(each)), key=_order)
    misses = [Miss(each, excess) for each in candidates if (excess := budget.excess(each))]
    misses.sort(key=lambda miss: (miss.worst, _order(miss.candidate)))
    ranked = tuple(
        Ranked(each, next((better.name for better in fitting[:place] if dominates(better, each)), None))
        for place, each in enumerate(fitting)
    )
    return Advice(ranked, tuple(misses))


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether `one` is nowhere worse and somewhere better: error, parameters, MACs, memory, time if both have one.

    Errors of different kinds say nothing of each other, and then neither network dominates.
    """
    if one.evidence.kind != other.evidence.kind:
        return False
    pairs: list[tuple[float, float]] = [
        (one.evidence.counted_pct, other.evidence.counted_pct),
        (one.params, other.params),
        (one.macs, other.macs),
    ]
    if one.memory_bytes is not None and other.memory_bytes is not None:
        pairs.append((one.memory_bytes, other.memory_bytes))
    if one.milliseconds is not None and other.milliseconds is not None:
        pairs.append((one.milliseconds, other.milliseconds))
    return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def advise(
    candidates: Sequence[Candidate],
    budget: Budget,
    timed: Callable[[Candidate], Timing],
    *,
    enough: int,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Advice:
    """Cut by what is counted, time the best of the rest, and rank.

    Args:
        candidates: counted, not timed.
        budget: what may be spent.
        timed: measures one of them.
        enough: timing ends when so many fit.
        most: it ends when so many were timed.
        seconds: it ends when so many have passed; a measurement that has begun is finished.
        clock: gives the time in seconds.
    """
    affordable = sorted((each for each in candidates if not budget.excess(each)), key=_order)
    begin, fit = clock(), 0
    known: list[Candidate] = []
    for each in affordable:
        if fit >= enough or len(known) >= most or clock() - begin >= seconds:
            break
        known.append(replace(each, timing=timed(each)))
        fit += not budget.excess(known[-1])
    untimed = affordable[len(known) :]
    rest = [each for each in candidates if budget.excess(each)]
    return replace(rank([*known, *rest], budget), untimed=tuple(untimed))


# --- in words -------------------------------------------------------------------------------------------

_WORDS: dict[str, Callable[[Candidate], str]] = {
    "params": lambda each: f"has {_count(each.params)} parameters",
    "macs": lambda each: f"makes {_count(each.macs)} MACs",
    "memory_bytes": lambda each: f"needs {(each.memory_bytes or 0) / 1e6:,.0f} MB",
    "milliseconds": lambda each: f"takes {each.milliseconds:.3g} ms",
}


def sentence(miss: Miss) -> str:
    """Why a network is out: "resnet18 has 11.7 M parameters, 2.3 times the budget"."""
    reasons = [
        f"{_WORDS[what](miss.candidate)}, {_times(ratio)} the budget" for what, ratio in miss.excess.items()
    ]
    return f"{miss.candidate.name} {'; '.join(reasons)}"


def _times(ratio: float) -> str:
    """2.34 as "2.3 times"; a little more than 1 with the digits that show it."""
    return f"{ratio:.1f} times" if ratio >= 1.05 else f"{100 * (ratio - 1):.2g} % over"


def _count(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def to_json(candidate: Candidate) -> dict[str, Any]:
    """Plain values."""
    known = candidate.evidence
    return {
        "name": candidate.name,
        "error_pct": known.error_pct,
        "counted_error_pct": known.counted_pct,
        "evidence": {"kind": known.kind, "test": known.test, "image": known.side, "source": known.source},
        "params": candidate.params,
        "macs": candidate.macs,
        "memory_bytes": candidate.memory_bytes,
        "seconds": None if candidate.timing is None else candidate.timing.to_json(),
        "official_weights": list(candidate.weights),
        "same_network": list(candidate.same),
    }
