"""What it takes to see what a network costs: convatlas beside torchinfo, fvcore and ptflops.

    pip install -e '.[bench]'
    python benchmarks/inspection.py [--networks vgg16,resnet50] [--runs N] [--pilot]

Every cell is a network, a tool and a run, each in a process of its own; the runs alternate, so that a change of the
machine's load meets all tools alike, and medians are kept. All tools are given the same network: torchvision's or
timm's where they have it, else ours, built before the clock starts. Imports are not counted either, but what a tool
imports while it works is.

- `seconds`: the first report in a fresh process, which is what somebody who asks once waits for; `again`: a second one.
- `extra_mib`: the largest resident memory while the first report is made, above what was resident before it.
- `params`, `macs`: what the tool says. They differ where the tools count differently.

convatlas makes its whole report (parameters, multiply-adds, other operations, activations, receptive fields); torchinfo
is used as its page shows it first, with an image of the network's size, and on the meta device, with a network that
is there already; fvcore and ptflops as their pages show. Nobody prints. Then the canon: the seconds that one process
takes to build all of its networks without content and to measure them. The result goes to
`benchmarks/results/inspection-DATE.json`; with `--pilot` nothing is written. Measured, never asserted. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    """What a cell in a fresh process says; the seconds of the whole process are `process_seconds`."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--cell", *words], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": time.perf_counter() - begin}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def times_faster(cells: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
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


def main(options: argparse.Namespace) -> None:
    networks = options.networks.split(",")
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        network: {tool: [] for tool in TOOLS} for network in networks
    }
    whole: list[dict[str, float]] = []
    for _ in range(options.runs):
        for network in networks:
            for tool in TOOLS:
                runs[network][tool].append(child(network, tool))
                print(network, tool, json.dumps(runs[network][tool][-1]), flush=True)
        if not options.pilot:
            whole.append(child("canon"))
            print("canon", json.dumps(whole[-1]), flush=True)
    cells = {
        network: {tool: medians(each) for tool, each in tools.items()} for network, tools in runs.items()
    }
    print(json.dumps({"medians": cells, "times faster": times_faster(cells)}, indent=2))
    if options.pilot:
        return
    from convatlas.measure.machine import machine, versions

    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "command": f"python benchmarks/inspection.py --networks {options.networks} --runs {options.runs}",
        "networks": {network: NETWORKS[network] for network in networks},
        "runs": options.runs,
        "medians": cells,
        "times faster": times_faster(cells),
        "canon": medians(whole),
        "every run": {"networks": runs, "canon": whole},
        "machine": machine() | {"load_before": LOAD},
        "versions": versions() | {package: version(package) for package in PEERS},
    }
    file = Path(__file__).parent / "results" / f"inspection-{date}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


LOAD = os.getloadavg()[0]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pilot", action="store_true", help="print, write nothing, leave the canon out")
    parser.add_argument("--cell", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cell:
        warnings.simplefilter("ignore")
        print(json.dumps(canon() if chosen.cell == ["canon"] else cell(*chosen.cell)))
    else:
        main(chosen)
