"""What the rule of speed knows, measured: the rows of `convatlas/train/speed.json`.

    pip install -e '.[bench]'
    python benchmarks/rule.py [--only PATTERN] [--list] [--again] [--since DAY]
    python benchmarks/rule.py --adopt

A cell is a network in batches of a size and what is compared: `ways`, precision, layout, layers in float32, threads and
compiling, all with memory kept; `memory`, freed memory kept, trimmed or neither; `peak`, what a process then holds at
most. One more is `depthwise`, the time of single layers. Training steps on noise as `--tune full` measures them, SGD
with momentum; what is compared takes turns in one process. A cell takes at most five minutes, with the ceiling of the
machine measured first, and is then a line of `benchmarks/rule-cells.jsonl`; the next call goes on after it, and takes
those again in which others worked. With all of them `benchmarks/results/rule-DATE.json` is written, from which
`python docs/speed_results.py` makes the tables of docs/speed.md. Half an hour on two cores. Measured, never asserted.

The rule changes no bit by a new measurement until `--adopt` writes the newest one into `speed.json`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest import mock

import torch
from lightning_fabric import Fabric
from record import HERE, RESULTS, append, dated, observed, quiet, read
from speed import NETWORKS
from torch import nn

from convatlas import allocator
from convatlas.bench.gate import forget_peak, resident
from convatlas.cli.process import SPINS
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.machine import has_bf16
from convatlas.models import create_model, find
from convatlas.train.computed import arrange_memory, computed, laid_out
from convatlas.train.params import optimizer
from convatlas.train.recipe import Recipe
from convatlas.train.speed import Device, Memory, Speed, depthwise, fastest, kept_in_float32, rule
from convatlas.train.tune import measured

CELLS = HERE / "rule-cells.jsonl"
TABLE = HERE.parent / "src" / "convatlas" / "train" / "speed.json"
RECIPE = Recipe(name="settings", optimizer="sgd", momentum=0.9, weight_decay=1e-4)
CLASSES = 10
SMALL, BATCHES = "lenet5", (32, 256)
COMPILED = ("resnet20_cifar", "resnet50")  # which are also compiled; by rule nothing is
OURS = {"GOMP_SPINCOUNT": SPINS}  # what the command line sets for itself
WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
NAMED = ("precision", "channels_last", "float32", "threads", "compile")  # what a way may differ in
MEMORIES = ("usual", "kept", "trimmed")
SMALLER, AS_FAST = (
    0.95,
    0.99,
)  # trimmed is chosen where the peak is so small a part of kept's, and the speed so large
PROCESSES, HELD = 3, (2, 8)  # of each kind of memory, and their steps: before its peak counts, and then
CHANNELS, MAPS, IMAGES, STEPS = 144, 56, 16, 15  # of the depthwise layers, and how often they are timed


@contextmanager
def environment(said: Mapping[str, str] = OURS) -> Generator[None]:
    """What children are born with: how threads wait as said, and no other word of it."""
    given = {name: value for name, value in os.environ.items() if name not in WAITS}
    with mock.patch.dict(os.environ, {**given, **said}, clear=True):
        yield


# --- networks ---------------------------------------------------------------------------------------------


def built(name: str) -> nn.Module:
    """A network as its paper has it, without numbers: what the rule has to know of it."""
    with blueprint():
        return create_model(name)


def shape_of(name: str, batch: int) -> tuple[int, ...]:
    """(N, C, H, W) of its images."""
    return (batch, find(name).channels, *[NETWORKS[name][0]] * 2)


def job(name: str, batch: int) -> dict[str, Any]:
    """What the measuring process of `--tune full` wants to know."""
    told: dict[str, Any] = {"model": name, "options": {"num_classes": CLASSES}, "task": find(name).task}
    told |= {"recipe": RECIPE.to_json(), "classes": list(range(CLASSES)), "accelerator": "cpu", "seed": 0}
    return told | {"shape": shape_of(name, batch)}


def rates(name: str, batch: int, tried: Sequence[Speed]) -> list[dict[str, Any]]:
    """Images a second of each way to compute a network, turn by turn, or the problem that it has."""
    rows: list[dict[str, Any]] = []
    for trial in measured(tried, job(name, batch)).trials:
        found = {"turns": [round(rate, 2) for rate in trial.rates]} if trial.rates else {}
        rows.append(found | ({"problem": trial.problem} if trial.problem else {}))
    return rows


def ways(name: str) -> Iterator[dict[str, Any]]:
    """What may change bits, as a row of the table names it."""
    for precision in ("32", "bf16"):
        for channels_last in (True, False):
            yield {"precision": precision, "channels_last": channels_last}
    last = {"precision": "bf16", "channels_last": True}
    if depthwise(built(name)):
        yield from ({**last, "float32": which} for which in ("slow", "all"))
    if name == SMALL:
        yield from ({"precision": each, "channels_last": True, "threads": 1} for each in ("32", "bf16"))
    if name in COMPILED:
        yield {**last, "compile": True}


def compared(name: str, batch: int) -> dict[str, Any]:
    """The row of a network: its ways and their images a second."""
    network, every = built(name), list(ways(name))
    tried = [
        Speed(**{**way, "float32": kept_in_float32(network, way.get("float32", ""))}, memory="kept")
        for way in every
    ]
    found = rates(name, batch, tried)
    return {"ways": [{**way, **row} for way, row in zip(every, found, strict=True)]}


def remembered(name: str, batch: int) -> dict[str, Any]:
    """What becomes of freed memory, for a network that is otherwise computed by the rule: images a second."""
    first = rule(built(name), shape_of(name, batch), Device.here("cpu"))
    found = rates(name, batch, [replace(first, memory=memory) for memory in MEMORIES])
    return {
        "memory": [{"memory": memory, **row} for memory, row in zip(MEMORIES, found, strict=True)],
    }


def peaks(name: str, batch: int) -> dict[str, Any]:
    """The same: bytes that a process holds at most, for some processes each."""
    found = {memory: list[int]() for memory in MEMORIES}
    for _ in range(PROCESSES):
        for memory in MEMORIES:
            words = [sys.executable, str(Path(__file__).resolve()), "--peak", name, str(batch), memory]
            found[memory].append(int(subprocess.check_output(words, stderr=subprocess.DEVNULL)))
    return {"peak": found}


def peak(name: str, batch: int, memory: Memory) -> int:
    """Bytes that this process holds at most in training steps, but the first ones."""
    shape = shape_of(name, batch)
    network = create_model(name, num_classes=CLASSES).train()
    speed = replace(rule(network, shape, Device.here("cpu")), memory=memory)
    arrange_memory(speed)
    fabric = Fabric(accelerator="cpu", devices=1, precision=speed.engine)
    images, labels = torch.randn(shape), torch.arange(batch) % CLASSES
    if speed.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with computed(laid_out(network, speed), speed):
        model, optimiser = fabric.setup(network, optimizer(network, RECIPE, speed))
        for step in range(sum(HELD)):
            if step == HELD[0]:
                forget_peak()
            fabric.backward(nn.functional.cross_entropy(model(images), labels))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    held = resident("VmHWM")
    if held is None:
        raise SystemExit("what a process holds is known on Linux only.")
    return held


# --- single layers ----------------------------------------------------------------------------------------


def layers() -> list[dict[str, Any]]:
    """Depthwise convolutions between layers in bf16: seconds of forward and backward in bf16 over those in float32.

    The casts from bf16 and of its gradient back to it are in the time of float32.
    """
    allocator.keep()
    rows: list[dict[str, Any]] = []
    for kernel in (3, 5, 7):
        for strided in (False, True):
            layer = nn.Conv2d(
                CHANNELS, CHANNELS, kernel, 2 if strided else 1, kernel // 2, groups=CHANNELS, bias=False
            ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            images = torch.randn(IMAGES, CHANNELS, MAPS, MAPS).bfloat16()
            images = images.contiguous(memory_format=torch.channels_last)
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for step in range(STEPS + 2):
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


def depthwise_layers() -> dict[str, Any]:
    """The layers, in a process whose threads wait as those of the command line."""
    words = [sys.executable, str(Path(__file__).resolve()), "--layers"]
    return {"depthwise": json.loads(subprocess.check_output(words))}


# --- cells ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One thing that is measured."""

    network: str
    batch: int
    what: Literal["ways", "memory", "peak"]

    @property
    def name(self) -> str:
        """`resnet18/16/ways`."""
        return f"{self.network}/{self.batch}/{self.what}"

    def run(self) -> dict[str, Any]:
        """Its record."""
        with environment():
            work = {"ways": compared, "memory": remembered, "peak": peaks}[self.what]
            found = observed(partial(work, self.network, self.batch))
        return {"cell": self.name, **found}

    def done(self, record: Mapping[str, Any] | None, since: str = "") -> bool:
        """Whether it has been measured, since that day, and nobody disturbed it, who disturbs no peak."""
        return quiet({**record, "others": 0.0} if record and self.what == "peak" else record, since)


@dataclass(frozen=True)
class Layers:
    """The cell of single layers."""

    name: str = "depthwise"

    def run(self) -> dict[str, Any]:
        """Its record."""
        with environment():
            return {"cell": self.name, **observed(depthwise_layers)}

    def done(self, record: Mapping[str, Any] | None, since: str = "") -> bool:
        """Whether it has been measured, since that day, and nobody disturbed it."""
        return quiet(record, since)


def cells() -> Iterator[Cell | Layers]:
    """Every cell, in the order in which they are run."""
    yield Layers()
    for name, (_, batch, _) in NETWORKS.items():
        for size in BATCHES if name == SMALL else (batch,):
            yield Cell(name, size, "ways")
            if name != SMALL:  # it frees nothing that is worth keeping
                yield Cell(name, size, "memory")
                yield Cell(name, size, "peak")


def words(record: Mapping[str, Any]) -> str:
    """A cell's outcome in a line."""
    if "peak" in record:
        figures = ", ".join(
            f"{kind} {median(held) / 2**20:,.0f} MiB" for kind, held in record["peak"].items()
        )
    elif "depthwise" in record:
        figures = ", ".join(str(row["bf16_over_float32"]) for row in record["depthwise"])
    else:
        rows = record.get("ways") or record["memory"]
        figures = ", ".join(
            f"{median(row['turns']):.4g}" if "turns" in row else row["problem"] for row in rows
        )
    return f"{record['cell']}: {figures}; {record['seconds']} s, others took {record['others']:.2f} core"


# --- the table --------------------------------------------------------------------------------------------


def rate(row: Mapping[str, Any]) -> float:
    """Images a second: the median of the turns, to four figures."""
    figure = float(f"{median(row['turns']):.4g}")
    return int(figure) if figure.is_integer() else figure


def report(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The result: a row for every network and batch, with its ways and what was found of memory, and the layers."""
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells():
        record = found[cell.name]
        if isinstance(cell, Layers):
            continue
        row = rows.setdefault(
            f"{cell.network}/{cell.batch}",
            {
                "network": cell.network,
                "pixels": NETWORKS[cell.network][0],
                "batch": cell.batch,
                "macs": measure(built(cell.network), shape_of(cell.network, cell.batch)[1:]).macs,
                "depthwise": bool(depthwise(built(cell.network))),
            },
        )
        row[cell.what] = record[cell.what]
        row[f"{cell.what}_beside"] = {
            name: record[name] for name in ("measured", "ceiling_macs_per_second", "others", "seconds")
        }
    return {
        "command": "python benchmarks/rule.py",
        "bf16": has_bf16(),
        "rows": list(rows.values()),
        "depthwise": found["depthwise"]["depthwise"],
    }


def best_memory(row: Mapping[str, Any]) -> str:
    """Kept, unless giving all back is as fast; trimmed where that costs no time and takes clearly less."""
    if "memory" not in row:
        return "kept"
    of = {each["memory"]: (rate(each), median(row["peak"][each["memory"]])) for each in row["memory"]}
    quicker = "kept" if of["kept"][0] > of["usual"][0] else "usual"
    trimmed = of["trimmed"][0] >= AS_FAST * of["kept"][0] and of["trimmed"][1] <= SMALLER * of["kept"][1]
    return "trimmed" if quicker == "kept" and trimmed else quicker


def adopted(result: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's table that follows from a result."""
    here, rows = result["machine"], list[dict[str, Any]]()
    for row in result["rows"]:
        known: list[dict[str, Any]] = []
        for way in row["ways"]:
            if "problem" not in way:
                entry = {name: way[name] for name in NAMED if name in way}
                known.append({**entry, "memory": "kept", "images_per_second": rate(way)})
        best = fastest([each for each in known if not each.get("compile")])
        known[known.index(dict(best))]["memory"] = best_memory(row)
        facts = {name: row[name] for name in ("network", "pixels", "batch", "macs", "depthwise")}
        rows.append({**facts, "date": row["ways_beside"]["measured"][:10], "measured": known})
    return {
        "what": "training images per second, medians of turns, written by benchmarks/rule.py; figures are comparable "
        "within a row. memory: of the fastest way what was fastest, or smaller and as fast; the others were measured "
        "with memory kept. depthwise: between layers in bf16, time of forward and backward in bf16 over that in "
        "float32, casts included.",
        "machine": f"{here['cores']} cores of an {here['processor']}"
        + " with bf16 arithmetic" * result["bf16"],
        "torch": result["versions"]["torch"].split("+")[0],
        "depthwise": result["depthwise"],
        "rows": rows,
    }


def written(table: Mapping[str, Any]) -> str:
    """The table as a file that can be read: a line for each way."""
    head = {name: value for name, value in table.items() if name not in ("depthwise", "rows")}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    lines += ['  "depthwise": [', _lines(table["depthwise"], 4), "  ],", '  "rows": [']
    rows: list[str] = []
    for row in table["rows"]:
        facts = json.dumps({name: value for name, value in row.items() if name != "measured"})[:-1]
        rows.append(f'    {facts}, "measured": [\n{_lines(row["measured"], 6)}\n    ]}}')
    return "\n".join(["{", *lines, ",\n".join(rows), "  ]", "}", ""])


def _lines(values: Sequence[Any], indent: int) -> str:
    return ",\n".join(" " * indent + json.dumps(value) for value in values)


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    if options.adopt:
        newest = max(options.results.glob("rule-????-??-??.json"), default=None)
        if newest is None:
            raise SystemExit("there is no result yet; measure first.")
        options.table.write_text(written(adopted(json.loads(newest.read_text()))))
        print(f"{options.table.name} is {newest.name}")
        return 0
    chosen = [cell for cell in cells() if fnmatch.fnmatch(cell.name, options.only)]
    if not chosen:
        raise SystemExit(f"no cell is called {options.only!r}; --list prints all.")
    found = read(options.cells)
    for cell in chosen:
        if options.list:
            print(f"{cell.name}{'  done' if cell.done(found.get(cell.name), options.since) else ''}")
        elif options.again or not cell.done(found.get(cell.name), options.since):
            record = cell.run()
            append(options.cells, record)
            print(words(record), flush=True)
    if options.list:
        return 0
    found = read(options.cells)
    every = list(cells())
    missing = [cell.name for cell in every if not cell.done(found.get(cell.name), options.since)]
    if missing:
        print(f"{len(missing)} of {len(every)} cells are missing.")
        return int(options.only == "*")
    day = max(found[cell.name]["measured"][:10] for cell in every)
    print(dated("rule", report(found), options.results, day))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'resnet18/*' or '*/memory'")
    parser.add_argument("--list", action="store_true", help="print the cells, and measure none")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument("--adopt", action="store_true", help="the newest result becomes the rule's table")
    parser.add_argument(
        "--since", default="", metavar="DAY", help="what is older than it, as 2026-11-30, is missing"
    )
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--layers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.layers:
        print(json.dumps(layers()))
    elif given.peak:
        print(peak(given.peak[0], int(given.peak[1]), given.peak[2]))
    else:
        raise SystemExit(main(given))
