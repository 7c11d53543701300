"""What it takes to see what a network costs: convatlas beside torchinfo, fvcore and ptflops.

    pip install -e '.[bench]'
    python benchmarks/inspection.py [--networks vgg16,resnet50] [--runs N] [--only PATTERN] [--list] [--again]
                                    [--since DAY]

A cell is a turn of all tools at a network, each in a process of its own; turns alternate, so that a change of the
machine's load meets all networks alike, and medians are kept. What is done is a line of
`benchmarks/inspection-cells.jsonl`, after which the next call goes on. All tools are given the same network:
torchvision's or timm's where they have it, else ours, built before the clock starts. Imports are not counted either,
but what a tool imports while it works is.

- `seconds`: the first report in a fresh process, which is what somebody who asks once waits for; `again`: a second one.
- `extra_mib`: the largest resident memory while the first report is made, above what was resident before it.
- `params`, `macs`: what the tool says. They differ where the tools count differently.

convatlas makes its whole report (parameters, multiply-adds, other operations, activations, receptive fields); torchinfo
is used as its page shows it first, with an image of the network's size, and on the meta device, with a network that
is there already; fvcore and ptflops as their pages show. Nobody prints. Then the canon: the seconds that one process
takes to build all of its networks without content and to measure them. The result goes to
`benchmarks/results/inspection-DATE.json`, from which `python docs/speed_results.py` makes the table of docs/measure.md.
Measured, never asserted. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import HERE, Records, add_options, ends, stamps, told

CELLS = HERE / "inspection-cells.jsonl"
CANON = "canon"
# network: (whose, its name there, side of the image)
NETWORKS = {
    "resnet50": ("torchvision", "resnet50", 224),
    "vgg16": ("torchvision", "vgg16", 224),
    "efficientnet_b7": ("torchvision", "efficientnet_b7", 600),
    "nasnet_a_large": ("timm", "nasnetalarge", 331),
    "densenet264": ("convatlas", "densenet264", 224),
}
Shape = tuple[int, int, int]
Counts = dict[str, float]
PEERS = ("torchinfo", "fvcore", "ptflops", "timm")


# --- the tools: each imports, and gives the function that makes its report --------------------------------------


def convatlas() -> Callable[[Any, Shape], Counts]:
    from convatlas.measure import measure

    def report(model: Any, shape: Shape) -> Counts:
        cost = measure(model, shape)
        return {"params": cost.params, "macs": cost.macs}

    return report


def torchinfo() -> Callable[[Any, Shape], Counts]:
    import torchinfo

    def report(model: Any, shape: Shape) -> Counts:
        found = torchinfo.summary(model, input_size=(1, *shape), verbose=0)
        return {"params": found.total_params, "macs": found.total_mult_adds}

    return report


def torchinfo_on_meta() -> Callable[[Any, Shape], Counts]:
    import torchinfo

    def report(model: Any, shape: Shape) -> Counts:
        found = torchinfo.summary(model, input_size=(1, *shape), verbose=0, device="meta")
        return {"params": found.total_params, "macs": found.total_mult_adds}

    return report


def fvcore() -> Callable[[Any, Shape], Counts]:
    import torch
    from fvcore.nn import FlopCountAnalysis, parameter_count

    def report(model: Any, shape: Shape) -> Counts:
        analysis = FlopCountAnalysis(model.eval(), torch.randn(1, *shape)).unsupported_ops_warnings(False)
        by_module = analysis.by_module()
        return {"params": parameter_count(model)[""], "macs": by_module[""]}

    return report


def ptflops() -> Callable[[Any, Shape], Counts]:
    from ptflops import get_model_complexity_info

    def report(model: Any, shape: Shape) -> Counts:
        macs, params = get_model_complexity_info(
            model, shape, as_strings=False, print_per_layer_stat=False, verbose=False
        )
        return {"params": params, "macs": macs}

    return report


# tool: (how to make its report, whether the network is without content)
TOOLS = {
    "convatlas": (convatlas, False),
    "convatlas, meta": (convatlas, True),
    "torchinfo": (torchinfo, False),
    "torchinfo, meta": (torchinfo_on_meta, True),
    "fvcore": (fvcore, False),
    "ptflops": (ptflops, False),
}


# --- a cell, in a process of its own ----------------------------------------------------------------------------


def built(whose: str, name: str, on_meta: bool) -> Any:
    """The network, with weights as its constructor draws them, or without content."""
    from convatlas.cli.target import resolve

    target = name if whose == "convatlas" else f"{whose}:{name}"
    return resolve(target, real=not on_meta).model


def resident(field: str) -> int:
    """Bytes of this process: VmRSS is what is resident, VmHWM the most since it was last reset."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def cell(network: str, tool: str) -> dict[str, float]:
    """Build, report, and report again."""
    whose, name, side = NETWORKS[network]
    load, on_meta = TOOLS[tool]
    report = load()
    model = built(whose, name, on_meta)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the peak begins here: building the network had one of its own
    begin = time.perf_counter()
    found = report(model, (3, side, side))
    first = time.perf_counter() - begin
    peak = resident("VmHWM")
    begin = time.perf_counter()
    report(model, (3, side, side))
    again = time.perf_counter() - begin
    return {"seconds": first, "again": again, "extra_mib": (peak - before) / 2**20, **found}


def canon() -> dict[str, float]:
    """Build every network of the canon without content, and measure it."""
    from convatlas.layers.blueprint import blueprint
    from convatlas.measure import measure
    from convatlas.models import create_model, list_models
    from convatlas.registry import find

    before = resident("VmRSS")
    begin, working = time.perf_counter(), time.process_time()
    rows = 0
    for name in list_models():
        spec = find(name)
        with blueprint():
            model = create_model(name)
        rows += len(measure(model, (spec.channels, spec.image, spec.image)).rows)
    seconds = time.perf_counter() - begin
    return {
        "networks": len(list_models()),
        "rows": rows,
        "seconds": seconds,
        "processor_seconds": time.process_time() - working,
        "extra_mib": (resident("VmHWM") - before) / 2**20,
    }


# --- the runs -----------------------------------------------------------------------------------------------------


def child(*words: str) -> dict[str, float]:
    """What is measured in a fresh process; the seconds of the whole process are `process_seconds`."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--cell", *words], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": time.perf_counter() - begin}


@dataclass(frozen=True)
class Turn:
    """A turn of all tools at one network, or the canon."""

    network: str  # of NETWORKS, or "canon"
    number: int
    timed: bool = True

    @property
    def name(self) -> str:
        """`vgg16/2`."""
        return f"{self.network}/{self.number}"

    def run(self, _: Records) -> dict[str, Any]:
        """What each tool said and took; the canon is convatlas's alone."""
        if self.network == CANON:
            return {"told": {"convatlas": child(CANON)}}
        return {"told": {tool: child(self.network, tool) for tool in TOOLS}}

    def words(self, record: Mapping[str, Any]) -> str:
        """Seconds of the first reports."""
        return ", ".join(f"{tool} {each['seconds']:.3f}" for tool, each in record["told"].items())


def cells(networks: Sequence[str], runs: int) -> list[Turn]:
    """Every turn, in the order in which they are run."""
    return [Turn(network, number) for number in range(runs) for network in (*networks, CANON)]


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's median over the runs."""
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def times_faster(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """For each network the peers' seconds over convatlas's: the quickest default use, and torchinfo on meta."""
    found: dict[str, dict[str, float]] = {}
    for network, tools in cells.items():
        quickest = min(tools[tool]["seconds"] for tool in ("torchinfo", "fvcore", "ptflops"))
        found[network] = {
            "quickest default use": round(quickest / tools["convatlas"]["seconds"], 2),
            "torchinfo on meta": round(
                tools["torchinfo, meta"]["seconds"] / tools["convatlas, meta"]["seconds"], 2
            ),
        }
    middle = {
        key: statistics.median(each[key] for each in found.values()) for key in next(iter(found.values()))
    }
    return found | {"median network": middle}


def report(found: Records, networks: Sequence[str], runs: int) -> dict[str, Any]:
    """The result: medians of every network and tool, and every run."""
    every = {
        network: {
            tool: [found[Turn(network, number).name]["told"][tool] for number in range(runs)]
            for tool in TOOLS
        }
        for network in networks
    }
    whole = [found[Turn(CANON, number).name]["told"]["convatlas"] for number in range(runs)]
    middle = {
        network: {tool: medians(each) for tool, each in tools.items()} for network, tools in every.items()
    }
    return {
        "command": f"python benchmarks/inspection.py --networks {','.join(networks)} --runs {runs}",
        "networks": {network: NETWORKS[network] for network in networks},
        "runs": runs,
        "medians": middle,
        "times faster": times_faster(middle),
        "canon": medians(whole),
        "every run": {"networks": every, "canon": whole},
        "peers": {package: version(package) for package in PEERS},
        "cells": {cell.name: stamps(found[cell.name]) for cell in cells(networks, runs)},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    networks = options.networks.split(",")
    every = cells(networks, options.runs)
    return told("inspection", every, options, lambda found: report(found, networks, options.runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cell", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cell:
        warnings.simplefilter("ignore")
        print(json.dumps(canon() if chosen.cell == [CANON] else cell(*chosen.cell)))
    else:
        ends(main, chosen)
