"""`--tune full`: candidates are measured here, and the fastest is taken if it is clearly faster than the rule's choice.

They take turns in a process of their own, a few steps each, on noise. What was measured and what came of it is kept in
run.json, so that `--resume` and `--from-run` repeat the choice and never the measurement.

Weights in bf16 are no candidate. Where they were measured they gained 0 to 6 % over autocast, and a weight of bf16 has
eight bits: an update smaller than 1/256 of it is lost.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from convatlas.errors import ResourceError
from convatlas.layers.winograd import Winograd2d
from convatlas.train.speed import CLEARLY, Device, Speed, kept_in_float32

SAME_LOSS = 0.05  # of the loss in float32, with the same weights and images
SECONDS = 150.0  # of all turns; building and compiling come on top
DEADLINE = 400.0


@dataclass(frozen=True)
class Trial:
    """A candidate: its images a second in each turn, and its loss in the first; or why there are none."""

    speed: Speed
    rates: tuple[float, ...] = ()
    loss: float | None = None
    problem: str = ""

    @property
    def rate(self) -> float:
        """Images a second, the median of the turns."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Tuning:
    """The trials, the rule's choice first, and what was chosen."""

    trials: tuple[Trial, ...]
    chosen: Speed

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return {
            "trials": [
                {
                    "settings": f"{trial.speed.words()}, memory {trial.speed.memory}",
                    "images_per_second": round(trial.rate, 1) if trial.rates else None,
                    "turns": [round(rate, 1) for rate in trial.rates],
                    "loss": trial.loss,
                    "problem": trial.problem,
                }
                for trial in self.trials
            ]
        }


def candidates(network: nn.Module, first: Speed, device: Device) -> list[Speed]:
    """The rule's choice, then what may be faster: precisions, layouts, layers in float32, and single changes.

    Winograd's algorithm is tried in float32 for what the rule computes by it, and for all that it can.
    """
    found = [first]
    for precision in ("32", "bf16") if device.bf16 else ("32",):
        for channels_last in (True, False):
            kept: list[tuple[str, ...]] = [()]
            if precision == "bf16" and device.kind == "cpu":
                kept += [kept_in_float32(network, "slow"), kept_in_float32(network, "all")]
            usual = replace(first, precision=precision, channels_last=channels_last, winograd=())
            found += [replace(usual, float32=names) for names in kept]
    if device.kind == "cpu":
        tiles = tuple(name for name, module in network.named_modules() if Winograd2d.replaces(module))
        plain = replace(first, precision="32", channels_last=True, float32=())
        found += [plain, replace(plain, winograd=tiles)]
        found.append(replace(first, threads=0 if first.threads else 1))
        found.append(replace(first, memory="usual" if first.memory == "kept" else "kept"))
    found.append(replace(first, compile=True, winograd=()))  # last: it is the one that may not come to an end
    return list(dict.fromkeys(found))


def measured(tried: Sequence[Speed], job: Mapping[str, Any]) -> Tuning:
    """Measure the candidates; see `trial.py` for what `job` holds.

    Raises `ResourceError` if not even the first one could be measured.
    """
    trials = {number: Trial(speed, problem="was not measured in time") for number, speed in enumerate(tried)}
    for line in _told({**job, "speeds": [speed.to_json() for speed in tried], "seconds": SECONDS}):
        trial, problem = trials[line["number"]], line.get("problem", "")
        rates = (*trial.rates, line["rate"]) if "rate" in line else trial.rates
        trials[line["number"]] = Trial(trial.speed, rates, line.get("loss", trial.loss), problem)
    first = trials[0]
    if not first.rates or first.problem:
        raise ResourceError(f"the first way to compute this network could not be measured: {first.problem}.")
    reference = next(
        (each.loss for each in trials.values() if each.speed.precision == "32" and each.rates), None
    )
    checked = tuple(
        _checked(trial, first.loss if reference is None else reference) for trial in trials.values()
    )
    return Tuning(checked, _choice(checked))


def _checked(trial: Trial, reference: float | None) -> Trial:
    """The trial, with a problem if its loss is not that of float32."""
    if trial.problem or trial.loss is None or reference is None:
        return trial
    if abs(trial.loss - reference) <= SAME_LOSS * abs(reference):
        return trial
    return replace(trial, problem=f"its loss is {trial.loss:.4g}, in float32 {reference:.4g}")


def _choice(trials: Sequence[Trial]) -> Speed:
    """The fastest candidate that is clearly faster than the first; else the first.

    That is by `CLEARLY` in the median of the turns, and faster at all in three quarters of them.
    """
    first = trials[0]
    better = [(_gains(trial, first), trial) for trial in trials[1:] if not trial.problem]
    clear = [(gain, trial) for (low, gain), trial in better if gain >= CLEARLY and low > 1]
    gain, best = max(clear, key=lambda each: each[0], default=(1.0, first))
    count = sum(1 for each in trials if each.rates)
    said = f"{gain:.2f} times the rule's choice, {first.rate:.4g}" if clear else "as by rule"
    return replace(
        best.speed, reason=f"the fastest of {count} measured here: {best.rate:.4g} images/s, {said}"
    )


def _gains(trial: Trial, first: Trial) -> tuple[float, float]:
    """How many times as fast as the first, turn by turn: the lower quartile and the median."""
    if len(trial.rates) == 1:  # its one turn stands beside none of the first's
        return trial.rate / first.rate, trial.rate / first.rate
    ratios = [ours / theirs for ours, theirs in zip(trial.rates, first.rates, strict=False)]
    low, median, _ = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, median


def _told(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the measuring process says, line by line, until it ends or its time is over."""
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "convatlas.train.trial"],
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        try:
            child.communicate(json.dumps(job), timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()
            child.wait()
        told.seek(0)
        yield from (json.loads(line) for line in told if line.endswith("\n"))
