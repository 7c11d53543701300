"""The speedrun recipe and its variants: accuracy on held-out images against the arithmetic of the whole training.

    PYTHONPATH=src python benchmarks/speedrun.py CIFAR10 --search [--seed N]
    PYTHONPATH=src python benchmarks/speedrun.py CIFAR10 [--name NAME] [--seed N] [--set KEY=VALUE ...]

CIFAR10 is `cifar10.zip`. `--search` trains every variant of the table below that has no record with this seed yet, so
it can be stopped and started again. Otherwise a call is one training, and adds one record to
`benchmarks/results/speedrun-search-DATE.json`: settings, accuracy on val in the views that are asked for, arithmetic of
the training counted by `convatlas.train.arithmetic`, seconds of training and of the processor, and the machine's rate
for bf16 convolutions before and after. The training is `convatlas train` in a process of its own, as a user gets it. No
test image is looked at: what is frozen is looked at by speedrun_test.py. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from convatlas import api
from convatlas.infer.views import VIEWS
from convatlas.measure.machine import machine, versions
from convatlas.measure.roof import measure_roof
from convatlas.models import create_model
from convatlas.train import Recipe
from convatlas.train.arithmetic import training_macs

RESULTS = Path(__file__).parent / "results"
VARIANTS: dict[str, list[str]] = {
    "paper": ["--recipe", "speedrun-2024"],
    "speedrun": [],
    "smoothing 0.2": ["--set", "label_smoothing=0.2"],
    "smoothing 0.05": ["--set", "label_smoothing=0.05"],
    "batches of 1000": ["--set", "batch_size=1000", "--set", "lr=0.17"],
    "batches of 250": ["--set", "batch_size=250", "--set", "lr=0.085"],
    "rate 0.1": ["--set", "lr=0.1"],
    "rate 0.14": ["--set", "lr=0.14"],
    "momentum 0.8": ["--set", "muon_momentum=0.8", "--set", "lr=0.08"],
    "five iterations": ["--set", "muon_steps=5"],
    "direct convolutions": ["--option", "winograd=false"],
    "eight epochs": ["--set", "epochs=8", "--set", "sizes=[[0, 25], [0.25, 28], [0.625, 32]]"],
    "32 px from the start": ["--set", "epochs=8", "--set", "sizes=[]"],
    "28 px, then 32": ["--set", "sizes=[[0, 28], [0.5, 32]]"],
    "first block held": ["--set", 'hold_from=[["features.whiten.*", 0.375], ["features.block1.*", 0.75]]'],
    "narrower, longer": ["--option", "widths=[64, 192, 256]", "--set", "epochs=10"],
    "averaged weights": ["--set", "ema=0.95"],
}


def ceiling() -> float:
    """FLOP a second of a 3x3 convolution of 512 channels in bf16, as `convatlas bench` measures it."""
    return 2 * measure_roof(8.0).rates["conv bf16"].per_second


def results() -> Path:
    """The file of today."""
    return RESULTS / f"speedrun-search-{datetime.datetime.now(datetime.UTC).date()}.json"


def search(data: Path, seed: int) -> None:
    """Every variant without a record, each in a process of its own."""
    done = json.loads(results().read_text())["runs"] if results().exists() else []
    for name, words in VARIANTS.items():
        if not any((record["name"], record["seed"]) == (name, seed) for record in done):
            call = [sys.executable, __file__, str(data), "--name", name, "--seed", str(seed), *words]
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)


def command(wish: argparse.Namespace, out: Path) -> list[str]:
    """The words of `convatlas train` that make the training."""
    words = [
        "train",
        str(wish.data.resolve()),
        "--recipe",
        wish.recipe,
        "--seed",
        str(wish.seed),
        "--out",
        str(out),
    ]
    words += ["--accelerator", "cpu", "--val-share", "0" if wish.all_of_train else "0.1"]
    for option, values in (("--set", wish.settings), ("--option", wish.options)):
        words += [word for value in values for word in (option, value)]
    return words


def children_seconds() -> float:
    """The processor's seconds of all processes that this one has started and waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def trained(wish: argparse.Namespace, splits: Sequence[str]) -> dict[str, Any]:
    """One training, and what it reached on `splits`: one record."""
    out = wish.out or Path(tempfile.mkdtemp(prefix="speedrun-")) / "run"
    before, wall, used = ceiling(), time.monotonic(), children_seconds()
    subprocess.run([sys.executable, "-m", "convatlas", *command(wish, out)], check=True, stdout=sys.stderr)
    wall, used = time.monotonic() - wall, children_seconds() - used
    run = api.Run.load(out)
    data = api.images_for(run)
    decided = run.folder.read_run()
    recipe = Recipe.from_json(decided["recipe"])
    timing = [line for line in run.folder.timing() if line.get("kind") == "epoch"]
    network = create_model(decided["model"], **decided["options"])
    record: dict[str, Any] = {
        "name": wish.name,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": wish.recipe,
        "settings": wish.settings,
        "options": wish.options,
        "seed": wish.seed,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "training_flop": 2 * training_macs(network, recipe, (3, *run.preprocessing.size), len(data.train)),
        "training_seconds": round(sum(line["seconds"] for line in timing), 1),
        "validation_seconds": round(sum(line["validation_seconds"] for line in timing), 1),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used, 1),
        "threads": torch.get_num_threads(),
        "ceiling_bf16_flop_per_second": [before, ceiling()],
        "val_by_epoch": [
            [line["epoch"], round(100 * line["top1"], 2)]
            for line in run.folder.metrics()
            if line.get("kind") == "val"
        ],
    }
    for split in splits:
        images = {part.name: part for part in data.splits}[split]
        for kind in wish.views if len(images) else ():
            evaluation = run.evaluate(images, split_name=split, tta=kind)
            record[f"{split}_top1_pct_{kind}"] = round(100 * evaluation.top1, 2)
            record[f"{split}_loss_{kind}"] = round(evaluation.loss, 4)
    return record


def main() -> None:
    """One training and one record, or all variants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--name", default="speedrun")
    parser.add_argument("--recipe", default="speedrun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", dest="options")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--views", nargs="*", default=["one", "shift", "grid"], choices=list(VIEWS))
    parser.add_argument("--all-of-train", action="store_true", help="hold nothing out: for what is frozen")
    parser.add_argument("--search", action="store_true", help="train all variants")
    wish = parser.parse_args()
    if wish.search:
        search(wish.data, wish.seed)
        return
    record, path = trained(wish, ["val"]), results()
    kept: dict[str, Any] = {"machine": machine(), "versions": versions(), "runs": []}
    if path.exists():
        kept = json.loads(path.read_text())
    kept["runs"].append(record)
    path.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
