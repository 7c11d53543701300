"""What the rule of speed knows, measured: the rows of `convatlas/train/speed.json`.

    pip install -e '.[bench]'
    python benchmarks/rule.py [--only PATTERN] [--list] [--again] [--since DAY]
    python benchmarks/rule.py --adopt

A cell is a network in batches of a size and what is compared: `ways`, precision, layout, layers in float32 or by
Winograd's algorithm, threads and compiling, all with memory kept; of the best of them `memory`, freed memory kept,
trimmed or neither, and `peak`, what a process then holds at most. Others are `depthwise` and `winograd`, the time of
single layers, and `updates`, that of the optimiser. Where the processor has no bf16, nothing is measured in bf16, and
memory is kept, which is best on those that have it.
Training steps on noise, and what is compared takes turns in one process. Where nobody else works a cell takes at most
five minutes. It is then a line of `benchmarks/rule-cells.jsonl`, and the next call goes on after it. With all of them
`benchmarks/results/rule-DATE.json` is written, from which `python docs/speed_results.py` makes the tables of
docs/speed.md. Three quarters of an hour on two cores. Measured, never asserted.

The rule changes no bit by a new measurement until `--adopt` writes the newest one into `speed.json`, or that of a
processor without bf16 into `speed-without-bf16.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import HERE, Records, add_options, called, ends, stamps, told
from speed import NETWORKS
from steps import RECIPE, built, environment, peak, rates, shape_of
from torch import nn

from convatlas import allocator
from convatlas.files import write_durable
from convatlas.layers.winograd import Winograd2d, winograd
from convatlas.measure import measure
from convatlas.measure.machine import has_bf16
from convatlas.models import create_model
from convatlas.train.params import optimizer
from convatlas.train.speed import (
    TABLES,
    Memory,
    Speed,
    depthwise,
    faster_by_winograd,
    fastest,
    kept_in_float32,
    measurements,
)

CELLS = HERE / "rule-cells.jsonl"
PACKAGE = HERE.parent / "src" / "convatlas" / "train"
SMALL, BATCHES = "lenet5", (32, 256)
COMPILED = ("resnet20_cifar", "resnet50")  # which are also compiled; by rule nothing is
NAMED = (
    "precision",
    "channels_last",
    "float32",
    "winograd",
    "threads",
    "compile",
)  # what a way may differ in
MEMORIES: tuple[Memory, ...] = ("usual", "kept", "trimmed")
SMALLER = 0.95  # trimmed is chosen where it holds at most so large a part of what kept holds,
AS_FAST = 0.99  # and makes at least so large a part of its images a second
PROCESSES = 3  # of each kind of memory
CHANNELS, MAPS, IMAGES, STEPS = 144, 56, 16, 15  # of the depthwise layers, and how often they are timed
CONVOLUTIONS = (  # 3x3: channels, filters, side of the map, batch; those of the networks below
    (16, 16, 32, 128), (32, 32, 16, 128), (64, 64, 8, 128), (64, 64, 56, 16), (128, 128, 28, 16), (256, 256, 14, 16),
    (512, 512, 7, 16), (128, 32, 56, 16), (128, 32, 28, 16), (128, 32, 14, 16), (128, 32, 7, 16), (64, 64, 224, 16),
    (64, 128, 112, 16), (128, 128, 112, 16), (128, 256, 56, 16), (256, 256, 56, 16), (256, 512, 28, 16),
    (512, 512, 28, 16), (512, 512, 14, 16),
)  # fmt: skip
TURNS = 4  # of each of them


# --- single layers ----------------------------------------------------------------------------------------


def layers() -> list[dict[str, Any]]:
    """Seconds of forward and backward in bf16 over those in float32, which has the casts from bf16 and back to it."""
    allocator.keep()
    rows: list[dict[str, Any]] = []
    images = torch.randn(IMAGES, CHANNELS, MAPS, MAPS).bfloat16()
    images = images.contiguous(memory_format=torch.channels_last)
    for kernel in (3, 5, 7):
        for strided in (False, True):
            layer = nn.Conv2d(
                CHANNELS, CHANNELS, kernel, 2 if strided else 1, kernel // 2, groups=CHANNELS, bias=False
            ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for step in range(2 + STEPS):
                for bf16 in (False, True) if step % 2 else (True, False):
                    x = images.clone().requires_grad_()
                    begin = time.perf_counter()
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        out = layer(x if bf16 else x.float())
                    out.backward(torch.ones_like(out))
                    if step >= 2:
                        seconds[bf16].append(time.perf_counter() - begin)
            ratio = round(median(seconds[True]) / median(seconds[False]), 2)
            rows.append({"kernel": kernel, "strided": strided, "bf16_over_float32": ratio})
    return rows


def tiles() -> list[dict[str, Any]]:
    """Seconds of forward and backward in float32 by Winograd's algorithm over those of the direct sum."""
    allocator.keep()
    rows: list[dict[str, Any]] = []
    for c, k, side, batch in CONVOLUTIONS:
        layer = nn.Conv2d(c, k, 3, padding=1, bias=False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        images = torch.randn(batch, c, side, side).contiguous(memory_format=torch.channels_last)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for step in range(1 + TURNS):
            for tiled in (False, True) if step % 2 else (True, False):
                x = images.clone().requires_grad_()
                begin = time.perf_counter()
                out = winograd(x, layer.weight) if tiled else layer(x)
                out.backward(torch.ones_like(out))
                if step:
                    seconds[tiled].append(time.perf_counter() - begin)
        ratio = round(median(seconds[True]) / median(seconds[False]), 2)
        sizes = {"channels": c, "filters": k, "side": side, "batch": batch}
        rows.append({**sizes, "winograd_over_direct": ratio})
    return rows


# --- updates ----------------------------------------------------------------------------------------------


def updates() -> list[dict[str, Any]]:
    """Seconds of a fused update by SGD with momentum over those of one that takes a tensor after the other."""
    allocator.keep()
    rows: list[dict[str, Any]] = []
    for name in NETWORKS:
        network = create_model(name)
        for parameter in network.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        ways = {fused: optimizer(network, RECIPE, Speed(fused=fused)) for fused in (False, True)}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for step in range(2 + STEPS):
            for fused in (False, True) if step % 2 else (True, False):
                begin = time.perf_counter()
                ways[fused].step()
                if step >= 2:
                    seconds[fused].append(time.perf_counter() - begin)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        ratio = round(median(seconds[True]) / median(seconds[False]), 2)
        rows.append({"network": name, "parameters": parameters, "fused_over_plain": ratio})
    return rows


RATIOS = {  # cell: what measures it, and the figure of its rows
    "depthwise": (layers, "bf16_over_float32"),  # where there is bf16
    "winograd": (tiles, "winograd_over_direct"),
    "updates": (updates, "fused_over_plain"),
}


@dataclass(frozen=True)
class Alone:
    """What is measured apart from networks' steps, in a process whose threads wait as those of the command line."""

    name: str  # of RATIOS
    timed: bool = True

    def run(self, _: Records) -> dict[str, Any]:
        """Its rows of the table."""
        command = [sys.executable, str(Path(__file__).resolve()), "--alone", self.name]
        with environment():
            told = subprocess.run(command, check=True, capture_output=True, text=True)
        return {self.name: json.loads(told.stdout)}

    def words(self, record: Mapping[str, Any]) -> str:
        """The ratios."""
        return ", ".join(str(row[RATIOS[self.name][1]]) for row in record[self.name])


# --- networks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfNetwork:
    """What is measured of a network in batches of a size."""

    network: str
    batch: int

    @property
    def name(self) -> str:
        """`resnet18/16/ways`."""
        return f"{self.network}/{self.batch}/{type(self).__name__.lower()}"


@dataclass(frozen=True)
class Ways(OfNetwork):
    """What may change bits, in turn, with memory kept."""

    timed: bool = True

    def run(self, found: Records) -> dict[str, Any]:
        """Images a second of each."""
        every = [
            way
            for way in ways(self.network)
            if not way.get("winograd") or speed_of(self.network, self.batch, way, found).winograd
        ]
        with environment():
            rows = rates(
                self.network, self.batch, [speed_of(self.network, self.batch, way, found) for way in every]
            )
        return {"ways": [{**way, **row} for way, row in zip(every, rows, strict=True)]}

    def words(self, record: Mapping[str, Any]) -> str:
        """The rates, or problems."""
        return _figures(record["ways"])


@dataclass(frozen=True)
class Kinds(OfNetwork):
    """What becomes of freed memory, for the best of the ways."""

    timed: bool = True

    def run(self, found: Records) -> dict[str, Any]:
        """Images a second of each kind."""
        best = best_of(self.network, self.batch, found)
        with environment():
            rows = rates(self.network, self.batch, [replace(best, memory=kind) for kind in MEMORIES])
        kinds = [{"memory": kind, **row} for kind, row in zip(MEMORIES, rows, strict=True)]
        return {"kinds": kinds, "speed": best.words()}

    def words(self, record: Mapping[str, Any]) -> str:
        """The rates, or problems."""
        return _figures(record["kinds"])


@dataclass(frozen=True)
class Peak(OfNetwork):
    """What a process holds at most with each kind of memory; the same on a busy machine."""

    timed: bool = False

    def run(self, found: Records) -> dict[str, Any]:
        """Bytes of some processes for each kind."""
        best = best_of(self.network, self.batch, found)
        most = {kind: list[int]() for kind in MEMORIES}
        with environment():
            for _ in range(PROCESSES):
                for kind, bytes_held in most.items():
                    bytes_held.append(peak(self.network, self.batch, replace(best, memory=kind)))
        return {"peak": most, "speed": best.words()}

    def words(self, record: Mapping[str, Any]) -> str:
        """Medians in MiB."""
        return ", ".join(f"{kind} {median(most) / 2**20:,.0f} MiB" for kind, most in record["peak"].items())


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(row.get("problem") or f"{rate(row):g}" for row in rows)


def ways(name: str) -> Iterator[dict[str, Any]]:
    """The ways to compute a network, as a row of the table names them."""
    precisions, network = ("32", "bf16") if has_bf16() else ("32",), built(name)
    for precision in precisions:
        for channels_last in (True, False):
            yield {"precision": precision, "channels_last": channels_last}
    last = {"precision": precisions[-1], "channels_last": True}
    if has_bf16() and depthwise(network):
        yield from ({**last, "float32": which} for which in ("slow", "all"))
    if any(map(Winograd2d.replaces, network.modules())):
        yield {"precision": "32", "channels_last": True, "winograd": True}
    if name == SMALL:
        yield from ({"precision": each, "channels_last": True, "threads": 1} for each in precisions)
    if name in COMPILED:
        yield {**last, "compile": True}


def speed_of(name: str, batch: int, way: Mapping[str, Any], found: Records) -> Speed:
    """The settings of a way. Which layers are slow, or faster, is as it was measured here, or as the rule knows it."""
    settings: dict[str, Any] = {key: way[key] for key in NAMED if key in way}
    settings["float32"] = kept_in_float32(built(name), way.get("float32", ""), found.get("depthwise"))
    known = found.get("winograd", measurements(has_bf16()))
    tiled = way.get("winograd", False)
    settings["winograd"] = faster_by_winograd(built(name), shape_of(name, batch), known) if tiled else ()
    return Speed(**settings, memory="kept")


def best_of(name: str, batch: int, found: Records) -> Speed:
    """The best of the ways as they were measured here, or as the rule knows them."""
    record = found.get(f"{name}/{batch}/ways", {})
    known = [
        {**way, "images_per_second": rate(way)} for way in record.get("ways", ()) if "problem" not in way
    ]
    if not known:
        rows = measurements(has_bf16())["rows"]
        known = next(row["measured"] for row in rows if (row["network"], row["batch"]) == (name, batch))
    return speed_of(name, batch, fastest(known), found)


def cells() -> list[Alone | Ways | Kinds | Peak]:
    """Every cell, in the order in which they are run."""
    every: list[Alone | Ways | Kinds | Peak] = [
        Alone(name) for name in RATIOS if has_bf16() or name != "depthwise"
    ]
    for name, (_, batch, _) in NETWORKS.items():
        every += [Ways(name, size) for size in (BATCHES if name == SMALL else (batch,))]
        if name != SMALL and has_bf16():  # that one frees nothing that is worth keeping
            every += [Kinds(name, batch), Peak(name, batch)]
    return every


# --- the table --------------------------------------------------------------------------------------------


def rate(row: Mapping[str, Any]) -> float:
    """Images a second: the median of the turns, to four figures."""
    return float(f"{median(row['turns']):.4g}")


def report(found: Records) -> dict[str, Any]:
    """The result: a row for every network and batch, with its ways and what was found of memory, and the layers."""
    rows: list[dict[str, Any]] = []
    for cell in cells():
        if isinstance(cell, Alone):
            continue
        record = found[cell.name]
        if isinstance(cell, Ways):
            network, shape = built(cell.network), shape_of(cell.network, cell.batch)
            facts = {"network": cell.network, "pixels": shape[-1], "batch": cell.batch}
            facts |= {"macs": measure(network, shape[1:]).macs, "depthwise": bool(depthwise(network))}
            rows.append({**facts, "cells": {}})
        what = type(cell).__name__.lower()
        rows[-1][what] = record[what]
        rows[-1]["cells"][what] = stamps(record) | ({"speed": record["speed"]} if "speed" in record else {})
    return {
        "command": "python benchmarks/rule.py",
        "bf16": has_bf16(),
        "rows": rows,
        **{name: found[name][name] for name in RATIOS if name in found},
        **{f"{name}_cell": stamps(found[name]) for name in RATIOS if name in found},
    }


def best_memory(row: Mapping[str, Any]) -> str:
    """Kept, unless giving all back is as fast; trimmed where that costs no time and takes clearly less."""
    of = {
        each["memory"]: (rate(each), median(row["peak"][each["memory"]]))
        for each in row.get("kinds", ())
        if "problem" not in each
    }
    if "kept" not in of:
        return "kept"
    if "usual" in of and of["usual"][0] >= of["kept"][0]:
        return "usual"
    speed, held = of.get("trimmed", (0.0, 0.0))
    return "trimmed" if speed >= AS_FAST * of["kept"][0] and held <= SMALLER * of["kept"][1] else "kept"


def adopted(result: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's table that follows from a result."""
    here, rows = result["machine"], list[dict[str, Any]]()
    arithmetic = f"with{'' if result['bf16'] else 'out'} bf16 arithmetic"  # names of before do not say it
    processor = here["processor"] if "with bf16" in here["processor"] else f"{here['processor']} {arithmetic}"
    for row in result["rows"]:
        known: list[dict[str, Any]] = []
        for way in row["ways"]:
            if "problem" not in way:
                entry = {name: way[name] for name in NAMED if name in way}
                figure = rate(way)
                whole = int(figure) if figure.is_integer() else figure
                known.append({**entry, "memory": "kept", "images_per_second": whole})
        best = fastest(known)
        next(entry for entry in known if entry is best)["memory"] = best_memory(row)
        facts = {name: row[name] for name in ("network", "pixels", "batch", "macs", "depthwise")}
        rows.append({**facts, "date": row["cells"]["ways"]["measured"][:10], "measured": known})
    return {
        "what": "training images per second, medians of turns, written by benchmarks/rule.py; figures are comparable "
        "within a row. memory: of the best way what was fastest, or smaller and as fast; the others were measured "
        "with memory kept. depthwise: between layers in bf16, time of forward and backward in bf16 over that in "
        "float32, casts included. winograd: time of forward and backward of a 3x3 convolution in float32 by Winograd's "
        "algorithm over that of the direct sum. updates: time of a fused update of all weights by SGD with momentum "
        "over that of one that takes a tensor after the other.",
        "machine": f"{here['cores']} cores of an {processor}",
        "torch": result["versions"]["torch"].split("+")[0],
        **{name: result[name] for name in RATIOS if name in result},
        "rows": rows,
    }


def written(table: Mapping[str, Any]) -> str:
    """The table as a file that can be read: a line for each way."""
    head = {name: value for name, value in table.items() if name not in (*RATIOS, "rows")}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    for name in [name for name in RATIOS if name in table]:
        lines += [f'  "{name}": [', _lines(table[name], 4), "  ],"]
    lines.append('  "rows": [')
    rows: list[str] = []
    for row in table["rows"]:
        facts = json.dumps({name: value for name, value in row.items() if name != "measured"})[:-1]
        rows.append(f'    {facts}, "measured": [\n{_lines(row["measured"], 6)}\n    ]}}')
    return "\n".join(["{", *lines, ",\n".join(rows), "  ]", "}", ""])


def _lines(values: Sequence[Any], indent: int) -> str:
    return ",\n".join(" " * indent + json.dumps(value) for value in values)


def adopt(results: Path, package: Path) -> None:
    """Write the newest results, of processors with bf16 and of those without, into the rule's tables."""
    found = {
        package / table: max(results.glob(f"{called('rule', bf16)}-????-??-??.json"), default=None)
        for bf16, table in TABLES.items()
    }
    if not any(found.values()):
        raise SystemExit(f"there is no result in {results} yet; measure first, without --adopt.")
    for table, newest in found.items():
        if newest is not None:
            write_durable(table, written(adopted(json.loads(newest.read_text()))).encode())
            print(f"{table.name} is {newest.name}")


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    return told("rule", cells(), options, report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--adopt", action="store_true", help="the newest result becomes the rule's table")
    parser.add_argument("--alone", choices=RATIOS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(RATIOS[given.alone][0]()))
    elif given.adopt:
        adopt(given.results, PACKAGE)
    else:
        ends(main, given)
