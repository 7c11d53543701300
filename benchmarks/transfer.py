"""From CIFAR-10 to 500 images of another kind: does it pay to start from learnt weights?

    PYTHONPATH=src python benchmarks/transfer.py DATA --source RUN [--target blood|streets] [--epochs N] [--seeds N]

DATA holds `bccd.zip` and `camvid-half.zip`. RUN is a run on CIFAR-10, for example
`convatlas train cifar10.zip --model resnet20_cifar --epochs 6 --out RUN`. The target is cut from pictures of which
those of the test images are others: `blood` has crops of red cells, white cells and platelets, `streets` patches of
street scenes, named by what most of their pixels are.

For each seed 500 images are drawn and divided into 400 for training and 100 for validation. Both starts get the same
images, recipe (`quick`) and epochs; they differ in `--weights RUN` and what follows from it, the body at a tenth of the
rate and the preprocessing of the run. Test images are looked at once, by the epoch that validation chose. Frames of
one drive through the streets may be in training and in test; that is the same for both. `--pilot` looks at validation
alone: what is to be chosen is chosen there. The result goes to `benchmarks/results/transfer-TARGET-DATE.json`.
Measured, never asserted.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import math
import statistics
import tempfile
import xml.etree.ElementTree as Xml
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convatlas import api
from convatlas.measure.machine import machine, versions
from convatlas.train import Compute

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


def by_class(crops: list[Crop]) -> dict[str, list[Image.Image]]:
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


def one(data: Path, source: Path | None, out: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train; accuracies on val and, unless it is a pilot, on test."""
    settings = dict(pair.split("=", 1) for pair in options.set)
    run = api.train(
        data,
        "resnet20_cifar",
        out=out,
        seed=seed,
        weights=None if source is None else str(source),
        settings={"epochs": options.epochs, **settings},
        compute=Compute(accelerator="cpu", workers=0),
    )
    found: dict[str, Any] = {"val": run.folder.evaluation("val")["top1"], "epoch": run.spec.epoch}
    if not options.pilot:
        evaluation = api.evaluate(run, split="test")
        found |= {"test": evaluation.top1, "test_images": evaluation.count}
    found["counts"] = run.folder.read_run()["data"]["counts"]
    return found


def main(options: argparse.Namespace) -> None:
    train, test = {"blood": blood, "streets": streets}[options.target](options.data)
    source = json.loads((options.source / "run.json").read_text())
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            data = write(Path(folder) / options.target, train, test, seed)
            result: dict[str, Any] = {"seed": seed}
            for name, start in (("scratch", None), ("transferred", options.source)):
                if name in options.only.split(","):
                    result[name] = one(data, start, Path(folder) / name, options, seed)
            results.append(result)
            print(json.dumps(result), flush=True)
    if options.pilot:
        return
    pairs = [(each["scratch"]["test"], each["transferred"]["test"]) for each in results]
    gains = [after - before for before, after in pairs]
    spread = statistics.stdev(gains) if len(gains) > 1 else math.nan
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        "command": f"python benchmarks/transfer.py DATA --source RUN --target {options.target} "
        f"--epochs {options.epochs} --seeds {options.seeds}",
        "unit": "share of the test images that are named right",
        "source": {
            "images": Path(source["where"]).name,
            "model": source["model"],
            "recipe": source["recipe_name"],
            "epochs": source["recipe"]["epochs"],
            "seed": source["seed"],
            "val": json.loads((options.source / "evaluation" / "val.json").read_text())["top1"],
        },
        "settings": {"epochs": options.epochs, "recipe": "quick", "set": options.set},
        "runs": results,
        "mean": {
            "scratch": statistics.mean(before for before, _ in pairs),
            "transferred": statistics.mean(after for _, after in pairs),
        },
        "gain": {"mean": statistics.mean(gains), "smallest": min(gains), "deviation": spread},
        "machine": machine(),
        "versions": versions(),
    }
    print(json.dumps({"mean": report["mean"], "gain": report["gain"]}))
    file = Path(__file__).parent / "results" / f"transfer-{options.target}-{date}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", choices=("blood", "streets"), default="blood")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pilot", action="store_true", help="look at val alone")
    parser.add_argument("--only", default="scratch,transferred")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    main(parser.parse_args())
