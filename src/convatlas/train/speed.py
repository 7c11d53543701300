"""How a recipe's arithmetic is computed, by a rule that reads a table of measurements.

A recipe says what a paper would print. `Speed` is the rest: the precision, where numbers lie in memory, which layers
stay in float32, how many threads. These change bits, so no clock decides them: `rule` is a function of network, batch
and device, and gives two runs of one version the same. What it knows are the rows of a table, one for processors that
multiply bfloat16 numbers themselves and one for those that do not; a network is computed as was best for the row that
is most like it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import nn

from convatlas.errors import BadCheckpoint
from convatlas.layers.winograd import Winograd2d
from convatlas.measure.machine import has_bf16
from convatlas.measure.operations import macs
from convatlas.measure.trace import trace

Precision = Literal["32", "bf16"]
Memory = Literal["usual", "kept", "trimmed"]
CLEARLY = 1.03  # times as fast; what is nearer may be noise
TABLES = {True: "speed.json", False: "speed-without-bf16.json"}  # by whether the processor has bf16
UNUSUAL = "bf16 was asked for; this processor has no arithmetic for it, and nothing has been measured"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How the same arithmetic is computed. Everything here is kept in run.json, and repeated when a run goes on."""

    precision: Precision = (
        "32"  # bf16: autocast; weights, their updates and sums over batches stay in float32
    )
    channels_last: bool = True  # tensors lie as N, H, W, C
    float32: tuple[str, ...] = ()  # modules that are computed in float32 where the rest is bf16
    winograd: tuple[str, ...] = ()  # convolutions that learn by Winograd's algorithm
    fused: bool = True  # the optimiser passes over each weight once
    compile: bool = False  # forward and backward by torch.compile
    threads: int = 0  # of PyTorch; 0: as many as it has
    memory: Memory = "usual"  # what the command line's own process does with what is freed; bits are the same
    recompute: bool = False  # activations inside blocks are computed again for the backward pass
    reason: str = ""  # where this comes from, in a sentence

    @property
    def engine(self) -> Literal["bf16-mixed", "32-true"]:
        """The precision as Fabric names it."""
        return "bf16-mixed" if self.precision == "bf16" else "32-true"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return dataclasses.asdict(self) | {name: list(getattr(self, name)) for name in NAMES}

    @staticmethod
    def from_json(value: Any) -> Speed:
        """What `to_json` gave, also before there was `winograd`.

        Raises `BadCheckpoint` for a field that is missing, unknown or of another type.
        """
        hints = get_type_hints(Speed)
        value = {"winograd": [], **value} if isinstance(value, dict) else {}
        if value.keys() != hints.keys():
            raise BadCheckpoint("the speed settings of this run are not those that this version writes.")
        sound = all(
            isinstance(value[names], list) and all(isinstance(name, str) for name in value[names])
            for names in NAMES
        )
        sound = sound and value["precision"] in get_args(Precision) and value["memory"] in get_args(Memory)
        sound = sound and all(
            type(value[name]) is kind for name, kind in hints.items() if kind in (bool, int, str)
        )
        if not sound or value["threads"] < 0:
            raise BadCheckpoint(f"the speed settings of this run hold what no run writes: {value}.")
        settings: dict[str, Any] = {**value, **{names: tuple(value[names]) for names in NAMES}}
        return Speed(**settings)

    @staticmethod
    def of_run(decided: Mapping[str, Any]) -> Speed:
        """The settings in run.json; runs from before there were any name two of them in their recipe."""
        if "speed" in decided:
            return Speed.from_json(decided["speed"])
        recipe = decided["recipe"]
        precision = recipe.get("precision", "32")
        if precision not in get_args(Precision):
            raise BadCheckpoint(f"the recipe of this run has precision {precision!r}, which no run writes.")
        return Speed(precision=precision, channels_last=bool(recipe.get("channels_last", True)))

    def words(self) -> str:
        """The settings in a line.

        Examples:
            >>> Speed(precision="bf16", float32=("stem",)).words()
            'bf16 with 1 layer in float32, channels last, fused optimiser'
        """
        kept = f" with {_counted(self.float32, 'layer')} in float32" if self.float32 else ""
        return ", ".join(
            text
            for text, said in (
                (f"bf16{kept}" if self.precision == "bf16" else "float32", True),
                (f"{_counted(self.winograd, 'convolution')} by Winograd's algorithm", bool(self.winograd)),
                ("channels last", self.channels_last),
                ("fused optimiser", self.fused),
                ("compiled", self.compile),
                (f"{self.threads} thread{'s' * (self.threads > 1)}", self.threads > 0),
                ("activations recomputed", self.recompute),
            )
            if said
        )


NAMES = ("float32", "winograd")  # the fields of names


def _counted(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)}"


@dataclass(frozen=True)
class Device:
    """What a rule has to know of the place where a network is trained."""

    kind: str  # as PyTorch names it: cpu, cuda, mps
    bf16: bool  # has the arithmetic; a processor without it converts each number, and loses
    version: str = torch.__version__.split("+")[0]  # of PyTorch

    @staticmethod
    def here(accelerator: str = "auto") -> Device:
        """The device that Fabric takes for this wish."""
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        if accelerator in ("cuda", "gpu", "auto") and cuda:
            return Device("cuda", torch.cuda.is_bf16_supported(including_emulation=False))
        if accelerator in ("mps", "gpu", "auto") and mps:
            return Device("mps", False)
        return Device("cpu", has_bf16()) if accelerator in ("cpu", "auto") else Device(accelerator, False)


def rule(
    network: nn.Module,
    shape: Sequence[int],
    device: Device,
    *,
    precision: Literal["auto", "32", "bf16"] = "auto",
    table: Mapping[str, Any] | None = None,
) -> Speed:
    """The settings for batches of `shape` (N, C, H, W): a pure function of its arguments.

    The row that counts is the nearest in the table of processors like this one: depthwise if this network is, and the
    least apart in multiply-adds of an image and in the size of the batch, both as factors. Its fastest way counts, bf16
    or Winograd's algorithm only if it is faster than float32 by direct sums by 3 %, and nothing is compiled. Updates
    are fused if that is faster for the network of the table whose weights are nearest in number. `precision` is a wish
    that goes before the table, of which a processor without bf16 has none for it. The table knows one version of
    PyTorch: with another one the same rows count, and the reason says so.

    Examples:
        >>> from convatlas.models import create_model
        >>> rule(create_model("resnet18"), (16, 3, 224, 224), Device("cpu", bf16=True)).words()
        'bf16, channels last, fused optimiser'
    """
    known = table if table is not None else measurements(device.bf16)
    allowed = {"32", "bf16"} if device.bf16 else {"32"}
    if precision != "auto":
        allowed = {precision}
    if device.kind != "cpu":
        return Speed(
            precision="bf16" if "bf16" in allowed else "32",
            fused=device.kind in ("cuda", "mps"),
            reason=f"nothing has been measured on {device.kind} yet: what is usual there",
        )
    if allowed == {"bf16"} and not device.bf16:
        return Speed(precision="bf16", fused=_fused(network, known), memory="kept", reason=UNUSUAL)
    work = sum(macs(op) for op in trace(network, tuple(shape[1:])).ops)
    is_depthwise = bool(depthwise(network))

    def apart(row: Mapping[str, Any]) -> float:
        return abs(math.log(max(work, 1) / row["macs"])) + abs(math.log(shape[0] / row["batch"]))

    alike = [row for row in known["rows"] if row["depthwise"] == is_depthwise and _usable(row, allowed)]
    row = min(alike, key=apart)
    best = fastest(_usable(row, allowed))
    settings = {name: value for name, value in best.items() if name in Speed.__dataclass_fields__}
    settings["float32"] = kept_in_float32(network, best.get("float32", ""), known)
    settings["winograd"] = faster_by_winograd(network, shape, known) if best.get("winograd") else ()
    settings["fused"] = _fused(network, known)
    asked = (
        "" if precision == "auto" else f"{'float32' if precision == '32' else 'bf16'} was asked for; else "
    )
    other = (
        "" if _minor(device.version) == _minor(known["torch"]) else f"; here torch {device.version} computes"
    )
    reason = f"{asked}{_as(row, best)} (torch {known['torch']}, {known['machine']}){other}"
    return Speed(**settings, reason=reason)


def fastest(ways: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fastest of what was measured and not compiled.

    bf16, and Winograd's algorithm, only where it is clearly faster than all of float32 by direct sums.
    """

    def rate(each: Mapping[str, Any]) -> float:
        return each["images_per_second"]

    eager = [each for each in ways if not each.get("compile")]
    best = max(eager, key=rate)
    direct = (each for each in eager if each["precision"] == "32" and not each.get("winograd"))
    exact = max(direct, key=rate, default=best)
    return best if rate(best) >= CLEARLY * rate(exact) else exact


def _fused(network: nn.Module, table: Mapping[str, Any]) -> bool:
    """Whether a fused update is faster, by the network of the table whose weights are nearest in number."""
    count = sum(parameter.numel() for parameter in network.parameters())
    row = min(table["updates"], key=lambda row: abs(math.log(max(count, 1) / row["parameters"])))
    return row["fused_over_plain"] < 1


def _minor(version: str) -> list[str]:
    """2.14.1 -> 2, 14."""
    return version.split(".")[:2]


def _usable(row: Mapping[str, Any], allowed: Container[str]) -> list[Mapping[str, Any]]:
    """What was measured in a precision that may be taken."""
    return [each for each in row["measured"] if each["precision"] in allowed]


def _as(row: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """What the row says, as a sentence."""
    return (
        f"as is best for {row['network']} at {row['pixels']} px in batches of {row['batch']}, measured on "
        f"{row['date']}: {best['images_per_second']:g} images/s"
    )


def depthwise(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that give every channel a filter of its own, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    }


def kept_in_float32(
    network: nn.Module, which: str, table: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Names of depthwise convolutions: "all" of them, the "slow" ones, or none for "".

    Slow are those that the table has faster in float32, strided ones above all. A kernel that is not in the table is
    judged by the largest one that is not larger.
    """
    if which != "slow":
        return tuple(depthwise(network)) if which == "all" else ()
    rows = (table if table is not None else measurements())["depthwise"]
    slow: list[str] = []
    for name, layer in depthwise(network).items():
        side, strided = max(layer.kernel_size), max(layer.stride) > 1
        alike = [row for row in rows if row["strided"] == strided]
        row = max(
            (row for row in alike if row["kernel"] <= side), key=lambda row: row["kernel"], default=alike[0]
        )
        if row["bf16_over_float32"] > 1:
            slow.append(name)
    return tuple(slow)


def faster_by_winograd(network: nn.Module, shape: Sequence[int], table: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of 3x3 convolutions that learn faster by Winograd's algorithm, for batches of `shape` (N, C, H, W).

    The row of the table that counts is the nearest in channels, filters and pixels of a batch, as factors. A layer with
    fewer channels or filters than any row that gained is none: changing coordinates costs more than it saves.
    """
    gained = [row for row in table.get("winograd", ()) if row["winograd_over_direct"] < 1 / CLEARLY]
    fewest = [min((row[side] for row in gained), default=math.inf) for side in ("channels", "filters")]
    fitting = {name for name, module in network.named_modules() if Winograd2d.replaces(module)}
    faster: list[str] = []
    for call in trace(network, tuple(shape[1:])).calls if fitting and gained else ():
        if call.name not in fitting or call.output is None:
            continue
        (_, c, *_), (_, k, height, width) = call.inputs[0].shape, call.output.shape
        if c < fewest[0] or k < fewest[1]:
            continue

        def apart(row: Mapping[str, Any], sizes: Sequence[int] = (c, k, shape[0] * height * width)) -> float:
            known = (row["channels"], row["filters"], row["batch"] * row["side"] ** 2)
            return sum(abs(math.log(size / there)) for size, there in zip(sizes, known, strict=True))

        if min(table["winograd"], key=apart) in gained:
            faster.append(call.name)
    return tuple(dict.fromkeys(faster))


@cache
def measurements(bf16: bool = True) -> dict[str, Any]:
    """A committed table: what was measured on a processor with bf16 or without, where, when and with which version."""
    file = resources.files("convatlas.train") / TABLES[bf16]
    return json.loads(file.read_text(encoding="utf-8"))
