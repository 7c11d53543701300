"""Is it as good, too? One recipe through our loop with its default settings, and through torchvision's loop in fp32.

    pip install -e '.[bench]'
    python benchmarks/accuracy.py [--data DATA] [--epochs 10] [--seeds 3] [--only ours|torchvision] [--again]
                                   [--since DAY] [--limit IMAGES]

resnet20_cifar on CIFAR-10 by the recipe of loops.py. 5,000 of the 50,000 training images are val, the same for both
sides and all seeds; the figure is val accuracy after the last epoch. Test images are not looked at. A run that is done
is a line of `benchmarks/accuracy-runs.jsonl`, and a second call goes on after the last epoch of the last one; with all
of them, `benchmarks/results/accuracy-DATE.json` is written. About an hour on two cores for three seeds. `--limit` takes
so many images only, to see that it works, and writes nothing. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from loops import SIDES, Pace, limited, ours, torchvision
from record import HERE, RESULTS, add_since, append, beside, dated, here, read

from convatlas.data import Data, open_data
from convatlas.models import create_model

RUNS = HERE / "accuracy-runs.jsonl"
UNFINISHED = HERE / "unfinished"
NETWORK = "resnet20_cifar"


def accuracy(side: str, data: Data, epochs: int, seed: int, kept: Path | None = None) -> float:
    """One run, from where it was stopped: accuracy on val, in [0, 1], after the last epoch."""
    if side == "ours":
        return ours(data, NETWORK, {}, epochs, seed, Pace(), kept=kept)
    make = partial(create_model, NETWORK, num_classes=len(data.classes))
    return torchvision(data, make, epochs, seed, Pace(), kept=kept)


def fresh(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The runs that are done, and not older than they may be."""
    found = read(options.runs)
    return {name: run for name, run in found.items() if run.get("measured", "") >= options.since}


def main(options: argparse.Namespace) -> None:
    """Run what is missing."""
    wanted = [f"{side}/{options.epochs}/{seed}" for seed in range(options.seeds) for side in SIDES]
    found = {} if options.limit else fresh(options)
    missing = [
        name for name in wanted if (options.again or name not in found) and name.startswith(options.only)
    ]
    told = max(options.results.glob("accuracy-????-??-??.json"), default=None)
    newest = max((found[name].get("measured", "")[:10] for name in wanted if name in found), default="")
    if not missing and told is not None and told.stem[-len("2026-11-30") :] >= newest:
        print("every run is done; --again makes them anew.")
        return
    if missing and options.data is None:
        raise SystemExit("CIFAR-10 is needed: --data DATA or CONVATLAS_DATA, a folder with cifar10.zip.")
    if missing:
        data = open_data(options.data / "cifar10.zip", seed=0)
        data = limited(data, options.limit) if options.limit else data
    for name in missing:
        side, _, seed = name.split("/")
        roof, begin = beside(), time.monotonic()
        kept = None if options.limit else UNFINISHED / f"accuracy-{name.replace('/', '-')}-{here()['torch']}"
        if kept is not None and options.again:
            shutil.rmtree(kept, ignore_errors=True)
        val = accuracy(side, data, options.epochs, int(seed), kept)
        record = {
            "cell": name,
            "val": val,
            "val_images": len(data.val),
            "train_images": len(data.train),
            **roof,
        }
        record["measured"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record["seconds"] = round(time.monotonic() - begin, 1)
        print(json.dumps(record), flush=True)
        if kept is not None:
            append(options.runs, record)
            shutil.rmtree(kept)
    found = {} if options.limit else fresh(options)
    if all(name in found for name in wanted):
        print(write(found, wanted, options))


def write(found: dict[str, dict[str, Any]], wanted: list[str], options: argparse.Namespace) -> Path:
    """The dated file: every run, means, and their difference in points."""
    values = {side: [found[name]["val"] for name in wanted if name.startswith(side)] for side in SIDES}
    means = {side: statistics.mean(each) for side, each in values.items()}
    spread = {side: statistics.stdev(each) if len(each) > 1 else 0.0 for side, each in values.items()}
    report = {
        "command": f"python benchmarks/accuracy.py --epochs {options.epochs} --seeds {options.seeds}",
        "what": "share of CIFAR-10's val images that resnet20_cifar names right after the last epoch",
        "runs": [found[name] for name in wanted],
        "mean": means,
        "deviation": spread,
        "difference_points": 100 * (means["ours"] - means["torchvision"]),
    }
    when = [each["measured"] for each in report["runs"] if "measured" in each]
    return dated("accuracy", report, options.results, when)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="ours or torchvision")
    parser.add_argument("--limit", type=int, default=0, help="so many images, and write nothing")
    parser.add_argument("--again", action="store_true", help="also the runs that are done")
    add_since(parser)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    main(parser.parse_args())
