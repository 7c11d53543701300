"""From CIFAR-10 to 500 images of another kind: does it pay to start from learnt weights?

    pip install -e '.[bench]'
    python benchmarks/transfer.py [--data DATA] [--target blood|streets] [--epochs N] [--seeds N] [--only PATTERN]
                                   [--list] [--again] [--since DAY] [--pilot]

DATA, or CONVATLAS_DATA, holds `cifar10.zip`, `bccd.zip` and `camvid-half.zip`. The weights are those of resnet20_cifar
after six epochs of the recipe `quick` on CIFAR-10, a run that is made first and kept. The target is cut from pictures
of which those of the test images are others: `blood` has crops of red cells, white cells and platelets, `streets`
patches of street scenes, named by what most of their pixels are.

For each seed 500 images are drawn and divided into 400 for training and 100 for validation. Both starts get the same
images, recipe (`quick`) and epochs; they differ in `--weights RUN` and what follows from it, the body at a tenth of the
rate and the preprocessing of the run. Test images are looked at once, by the epoch that validation chose. Frames of
one drive through the streets may be in training and in test; that is the same for both. `--pilot` looks at validation
alone: what is to be chosen is chosen there. A cell is a seed, a line of `benchmarks/transfer-cells.jsonl`, and the next
call goes on after it; with all of them `benchmarks/results/transfer-TARGET-DATE.json` is written. Measured, never
asserted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import tempfile
import xml.etree.ElementTree as Xml
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import HERE, Records, add_options, ends, here, measured, stamps, told

from convatlas import api
from convatlas.train import Compute

CELLS = HERE / "transfer-cells.jsonl"
UNFINISHED = HERE / "unfinished"
SOURCE_EPOCHS = 6
SIDE = 32
TRAIN = 500
TEST_PER_CLASS = 100
STREETS = {0: "sky", 1: "building", 3: "road", 4: "pavement", 5: "tree", 8: "car"}
Crop = tuple[str, Image.Image]  # class and picture


def blood(folder: Path) -> tuple[list[Crop], list[Crop]]:
    """Square crops around the boxes, half as large again; test are those of BCCD's own test pictures."""
    with zipfile.ZipFile(folder / "bccd.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        tests = set(archive.read(names["test.txt"]).decode().split())
        train: list[Crop] = []
        test: list[Crop] = []
        for name in sorted(n for n in archive.namelist() if n.endswith(".xml")):
            picture = Image.open(io.BytesIO(archive.read(names[f"{Path(name).stem}.jpg"]))).convert("RGB")
            for thing in Xml.fromstring(archive.read(name)).iter("object"):
                box = thing.find("bndbox")
                x0, y0, x1, y1 = (int(box.findtext(key, "0")) for key in ("xmin", "ymin", "xmax", "ymax"))
                half = min(max(x1 - x0, y1 - y0) * 0.75, min(picture.size) / 2)
                if half >= 8:
                    x = min(max((x0 + x1) / 2, half), picture.width - half)  # moved to lie in the picture
                    y = min(max((y0 + y1) / 2, half), picture.height - half)
                    crop = picture.resize(
                        (SIDE, SIDE), Image.Resampling.BILINEAR, (x - half, y - half, x + half, y + half)
                    )
                    (test if Path(name).stem in tests else train).append((thing.findtext("name", ""), crop))
    return train, test


def streets(folder: Path) -> tuple[list[Crop], list[Crop]]:
    """One patch a class and frame with at least 70 % of its pixels of that class; test is CamVid's val."""
    return tuple(list(patches(folder, split)) for split in ("train", "val"))


def patches(folder: Path, split: str) -> Iterator[Crop]:
    """The patches of one of CamVid's splits."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "camvid-half.zip") as archive:
        masks = {Path(n).stem: n for n in archive.namelist() if f"{split}/masks/" in n and n.endswith("png")}
        for name in sorted(n for n in archive.namelist() if f"{split}/images/" in n and n.endswith("jpg")):
            picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            mask = np.asarray(Image.open(io.BytesIO(archive.read(masks[Path(name).stem]))))
            found: dict[str, Crop] = {}
            for _ in range(400):
                y, x = rng.integers(mask.shape[0] - SIDE), rng.integers(mask.shape[1] - SIDE)
                values, counts = np.unique(mask[y : y + SIDE, x : x + SIDE], return_counts=True)
                most = int(values[counts.argmax()])
                if most in STREETS and counts.max() >= 0.7 * SIDE * SIDE and STREETS[most] not in found:
                    crop = picture.crop((x, y, x + SIDE, y + SIDE))
                    found[STREETS[most]] = (STREETS[most], crop)
            yield from found.values()


TARGETS: Mapping[str, Callable[[Path], tuple[list[Crop], list[Crop]]]] = {"blood": blood, "streets": streets}


def by_class(crops: list[Crop]) -> dict[str, list[Image.Image]]:
    """The pictures of each class."""
    found: defaultdict[str, list[Image.Image]] = defaultdict(list)
    for name, crop in crops:
        found[name].append(crop)
    return dict(sorted(found.items()))


def write(folder: Path, train: list[Crop], test: list[Crop], seed: int) -> Path:
    """An image folder with 400 training and 100 validation images drawn by the seed; test is always the same."""
    rng = np.random.default_rng(seed)
    groups = by_class(train)
    share = TRAIN // len(groups)
    for number, (name, pictures) in enumerate(groups.items()):
        count = share + (1 if number < TRAIN - share * len(groups) else 0)
        chosen = rng.permutation(len(pictures))[:count]
        for place, index in enumerate(chosen):
            path = folder / ("val" if place < count // 5 else "train") / name / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[index].save(path)
    for name, pictures in by_class(test).items():
        for index in np.random.default_rng(0).permutation(len(pictures))[:TEST_PER_CLASS]:
            path = folder / "test" / name / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[index].save(path)
    return folder


def source_run(data: Path) -> Path:
    """The run on CIFAR-10, made where it is not there yet."""
    out = UNFINISHED / f"transfer-source-{here()['torch']}"
    api.train(
        data / "cifar10.zip",
        "resnet20_cifar",
        out=out,
        settings={"epochs": SOURCE_EPOCHS},
        auto_resume=True,
        compute=Compute(accelerator="cpu"),
    )
    return out


@dataclass(frozen=True)
class Pair:
    """Both starts on the images of a seed."""

    target: str  # of TARGETS
    epochs: int
    seed: int
    pilot: bool
    data: Path | None
    timed: bool = False

    @property
    def name(self) -> str:
        """`blood/10/0`."""
        return f"{self.target}/{self.epochs}/{self.seed}{'/pilot' if self.pilot else ''}"

    def run(self, _: Records) -> dict[str, Any]:
        """What each start reached, shares of images."""
        if self.data is None or not (self.data / "cifar10.zip").is_file():
            raise SystemExit("CIFAR-10 and the targets are needed: --data DATA or CONVATLAS_DATA.")
        source = source_run(self.data)
        train, test = TARGETS[self.target](self.data)
        with tempfile.TemporaryDirectory() as folder:
            data = write(Path(folder) / self.target, train, test, self.seed)
            starts = {"scratch": None, "transferred": source}
            return {
                name: self.trained(data, start, Path(folder) / name) for name, start in starts.items()
            } | {"source": described(source)}

    def trained(self, data: Path, source: Path | None, out: Path) -> dict[str, Any]:
        """Train from a start; accuracies on val and, unless it is a pilot, on test."""
        run = api.train(
            data,
            "resnet20_cifar",
            out=out,
            seed=self.seed,
            weights=None if source is None else str(source),
            settings={"epochs": self.epochs},
            compute=Compute(accelerator="cpu", workers=0),
        )
        found: dict[str, Any] = {"val": run.folder.evaluation("val")["top1"], "epoch": run.spec.epoch}
        if not self.pilot:
            evaluation = api.evaluate(run, split="test")
            found |= {"test": evaluation.top1, "test_images": evaluation.count}
        return found | {"counts": run.folder.read_run()["data"]["counts"]}

    def words(self, record: Mapping[str, Any]) -> str:
        """Both accuracies."""
        split = "val" if self.pilot else "test"
        reached = ", ".join(
            f"{name} {100 * record[name][split]:.1f} %" for name in ("scratch", "transferred")
        )
        return f"{split}: {reached}"


def described(source: Path) -> dict[str, Any]:
    """Where the weights come from."""
    decided = json.loads((source / "run.json").read_text())
    return {
        "images": Path(decided["where"]).name,
        "model": decided["model"],
        "recipe": decided["recipe_name"],
        "epochs": decided["recipe"]["epochs"],
        "seed": decided["seed"],
        "val": json.loads((source / "evaluation" / "val.json").read_text())["top1"],
    }


def report(found: Records, every: Sequence[Pair], options: argparse.Namespace) -> dict[str, Any]:
    """Both starts of every seed, means, and what the learnt one gains."""
    runs = [
        {"seed": cell.seed, **{name: found[cell.name][name] for name in ("scratch", "transferred")}}
        for cell in every
    ]
    pairs = [(each["scratch"]["test"], each["transferred"]["test"]) for each in runs]
    gains = [after - before for before, after in pairs]
    return {
        "command": f"python benchmarks/transfer.py --target {options.target} --epochs {options.epochs} "
        f"--seeds {options.seeds}",
        "unit": "share of the test images that are named right",
        "source": found[every[-1].name]["source"],
        "settings": {"epochs": options.epochs, "recipe": "quick"},
        "runs": runs,
        "mean": {
            "scratch": statistics.mean(before for before, _ in pairs),
            "transferred": statistics.mean(after for _, after in pairs),
        },
        "gain": {
            "mean": statistics.mean(gains),
            "smallest": min(gains),
            "deviation": statistics.stdev(gains) if len(gains) > 1 else math.nan,
        },
        "cells": {cell.name: stamps(found[cell.name]) for cell in every},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    every = [
        Pair(options.target, options.epochs, seed, options.pilot, options.data)
        for seed in range(options.seeds)
    ]
    if options.pilot:
        return int(measured(every, options) is None and options.only == "*" and not options.list)
    return told(f"transfer-{options.target}", every, options, lambda found: report(found, every, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--target", choices=TARGETS, default="blood")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pilot", action="store_true", help="look at val alone")
    ends(main, parser.parse_args())
