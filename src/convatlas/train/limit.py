"""How close a training came to what its machine can do.

The limit is the roofline of `measure.roofline`: a row of the network takes at least the longer of its multiply-adds at
the machine's peak and its bytes at the machine's bandwidth, both as measured. Here it is that of the steps that were
really made: images grow and parameters are held as the recipe has it, a gradient that nobody needs costs nothing, and a
layer by Winograd's algorithm is charged what that needs. Data, the optimiser and what is computed again for want of
memory are time without work, so they lower the share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, get_args, get_type_hints

from torch import nn

from convatlas.errors import BadCheckpoint
from convatlas.layers.blueprint import blueprint
from convatlas.measure.machine import machine
from convatlas.measure.roof import Roof
from convatlas.measure.roofline import beside, roofline
from convatlas.models import create_model
from convatlas.train import params
from convatlas.train.arithmetic import step_rows, steps_of_epoch
from convatlas.train.computed import by_winograd
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Speed

FORMAT = 1
Dtype = Literal["fp32", "bf16"]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a training reached. `share` of the roofline, `arithmetic_share` of the peak in multiply-adds a second."""

    images_per_second: float
    share: float
    arithmetic_share: float
    dtype: Dtype  # whose peak it is
    peak_macs: float
    bandwidth: float
    measured: str  # when these two were

    def to_json(self) -> dict[str, Any]:
        """Plain values, for limit.json."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(value: Any) -> Limit:
        """What `to_json` gave. Raises `BadCheckpoint` for anything else."""
        hints = get_type_hints(Limit)
        if not isinstance(value, dict) or value.keys() != {"format", *hints} or value["format"] != FORMAT:
            raise BadCheckpoint("the limit of this run is not what this version writes.")
        sound = value["dtype"] in get_args(Dtype) and isinstance(value["measured"], str)
        numbers = [value[name] for name, kind in hints.items() if kind is float]
        if not sound or not all(type(number) in (int, float) and 0 < number < inf for number in numbers):
            raise BadCheckpoint(f"the limit of this run holds what no run writes: {value}.")
        return Limit(**{name: value[name] for name in hints})

    def words(self) -> str:
        """The share in a clause.

        Examples:
            >>> Limit(830.0, 0.714, 0.53, "bf16", 5e11, 4e10, "2026-11-30T06:00:00+00:00").words()
            '71 % of what this machine can do with this network in bf16'
        """
        kind = "float32" if self.dtype == "fp32" else self.dtype
        if self.arithmetic_share > 1:
            return f"more than this machine was measured to do in {kind}: look again with `convatlas bench --roofline`"
        if self.share > 1:  # what was found in caches is charged as if it came from memory
            return (
                f"{self.share:.1f} times what this machine can do in {kind} where nothing stays in its caches"
            )
        return f"{100 * self.share:.0f} % of what this machine can do with this network in {kind}"


def limit_of(value: Any) -> Limit | None:
    """What limit.json says; None without one, and where it is damaged: nothing depends on it."""
    try:
        return Limit.from_json(value)
    except BadCheckpoint:
        return None


def epochs_here(timing: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of timing.jsonl of epochs that one process made on the processor of this very machine."""
    here = machine()
    mine = {"kind": "epoch", "device": "cpu", "world": 1} | {
        name: here[name] for name in ("processor", "cores")
    }
    return [
        line
        for line in timing
        if line.get("seconds") and all(line.get(name) == value for name, value in mine.items())
    ]


def reached(decided: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]], roof: Roof) -> Limit:
    """What a run reached in `epochs`, at least one of `epochs_here`, by its run.json and the roof of this machine."""
    recipe, speed = Recipe.from_json(decided["recipe"]), Speed.of_run(decided)
    dtype: Dtype = "bf16" if speed.precision == "bf16" else "fp32"
    counted = decided["data"]["counts"]["train"]
    images = sum(counted.values()) if isinstance(counted, dict) else counted
    batch, steps = min(recipe.batch_size, images), max(images // recipe.batch_size, 1)
    with blueprint():
        network = create_model(decided["model"], **decided["options"])
    params.hold(network, recipe)
    shape: Shape = (decided["options"]["in_channels"], *decided["preprocessing"]["size"])
    known: dict[tuple[Shape, frozenset[str]], tuple[float, float]] = {}
    seconds = seen = least = arithmetic = 0.0
    for line in epochs:
        kinds = steps_of_epoch(network, recipe, shape, line["epoch"] - 1, steps)
        seconds, seen = seconds + line["seconds"], seen + line["images"]
        for kind, count in kinds.items():
            if kind not in known:
                with by_winograd(network, speed.winograd):
                    known[kind] = least_seconds(network, *kind, roof, batch=batch, dtype=dtype)
            made = line["images"] / batch * count / steps  # steps of this kind
            least, arithmetic = least + made * known[kind][0], arithmetic + made * known[kind][1]
    return Limit(
        images_per_second=seen / seconds,
        share=least / seconds,
        arithmetic_share=arithmetic / seconds,
        dtype=dtype,
        peak_macs=roof.peak_macs(dtype),
        bandwidth=roof.bandwidth,
        measured=roof.measured,
    )


def least_seconds(
    network: nn.Module, shape: Shape, held: frozenset[str], roof: Roof, *, batch: int, dtype: Dtype
) -> tuple[float, float]:
    """Seconds that a training step takes at least under `roof`, and what its arithmetic alone takes.

    `shape` is (C, H, W) of an image; `held` as in `step_rows`.
    """
    rows = step_rows(network, shape, held)
    bounds = beside([each.row for each in rows], roofline(network, roof, shape, batch=batch, dtype=dtype))
    arithmetic = [each.macs * batch / roof.peak_macs(dtype) for each in rows]
    memory = [
        each.passes * bound.memory_seconds if bound else 0.0 for each, bound in zip(rows, bounds, strict=True)
    ]
    return sum(map(max, arithmetic, memory)), sum(arithmetic)
