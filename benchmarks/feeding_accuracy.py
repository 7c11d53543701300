"""What the fast way of cutting costs in accuracy: one network on random parts cut by it, and by the exact way.

    pip install -e '.[bench]'
    python benchmarks/feeding_accuracy.py [--data DATA] [--seeds N] [--only PATTERN] [--list] [--again] [--since DAY]

The fast way decodes a JPEG at a smaller scale where the part is large, and resizes with one kernel for bytes; the exact
way is Pillow's `resize(box=...)` of the whole picture. resnet20_cifar at 32 px on the blood cells of `bccd.zip` (in
DATA, or CONVATLAS_DATA), three classes, for three epochs; only training differs, validation pixels are the same bits. A
cell is a training, a line of `benchmarks/feeding-accuracy-cells.jsonl`, and the next call goes on after it. With all of
them `benchmarks/results/feeding-accuracy-DATE.json` is written. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from record import HERE, Records, add_options, ends, stamps, told

import convatlas
from convatlas.data import Augment, open_data
from convatlas.data.reader import Reader
from convatlas.data.transforms import resample
from convatlas.train import Compute

CELLS = HERE / "feeding-accuracy-cells.jsonl"
WAYS = ("fast", "exact")
EPOCHS, WORKERS, OF_A_CLASS = 3, 2, 200
SETTINGS = {"epochs": EPOCHS, "image_size": 32, "crop": "resized", "trivial": False, "erasing": 0.0}


def blood_cells(source: Path, out: Path) -> Path:
    """The cells of `bccd.zip`, cut out with a margin: folders of classes with JPEGs of about 60 to 250 px."""
    counts: dict[str, int] = {}
    with zipfile.ZipFile(source / "bccd.zip") as archive:
        for name in sorted(one for one in archive.namelist() if one.endswith(".xml")):
            root = ElementTree.fromstring(archive.read(name))
            image = Image.open(io.BytesIO(archive.read(f"JPEGImages/{Path(name).stem}.jpg"))).convert("RGB")
            for number, thing in enumerate(root.iter("object")):
                label = str(thing.findtext("name"))
                x0, y0, x1, y1 = (
                    int(str(thing.findtext(f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")
                )
                if min(x1 - x0, y1 - y0) < 20 or counts.get(label, 0) >= OF_A_CLASS:
                    continue
                counts[label] = counts.get(label, 0) + 1
                path = out / label / f"{Path(name).stem}-{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                margin = round(0.15 * max(x1 - x0, y1 - y0))
                image.crop((x0 - margin, y0 - margin, x1 + margin, y1 + margin)).save(path, quality=95)
    return out


def exact(reader: Any, job: Any, row: int, augment: Augment) -> np.ndarray:
    """A part of the whole picture, by Pillow's own filter; in the place of `Reader._cut`."""
    prepare = reader.preprocessing
    image = reader.image(int(job[1][row]))
    box = reader._box(job, row, image.shape[1], image.shape[0], augment)
    return resample(prepare.recolour(image), box, prepare.size, prepare.interpolation)


def cutting(way: str) -> AbstractContextManager[Any]:
    """Cut by one of `WAYS`, also in the workers that are begun meanwhile."""
    return mock.patch.object(Reader, "_cut", exact) if way == "exact" else nullcontext()


@dataclass(frozen=True)
class Training:
    """A network whose parts are cut in a way."""

    way: str  # of WAYS
    seed: int
    data: Path | None
    timed: bool = False

    @property
    def name(self) -> str:
        """`fast/0`."""
        return f"{self.way}/{self.seed}"

    def run(self, _: Records) -> dict[str, Any]:
        """Accuracy on val in percent."""
        if self.data is None or not (self.data / "bccd.zip").is_file():
            raise SystemExit("blood cells are needed: --data DATA or CONVATLAS_DATA, a folder with bccd.zip.")
        with tempfile.TemporaryDirectory() as folder, cutting(self.way):
            cells = blood_cells(self.data, Path(folder, "cells"))
            data = open_data(cells, seed=self.seed, val_share=0.25, test_share=0.0)
            run = convatlas.train(
                data,
                "resnet20_cifar",
                out=Path(folder, "run"),
                seed=self.seed,
                compute=Compute(workers=WORKERS),
                settings=SETTINGS,
            )
            found = run.folder.evaluation("val") or {}
        return {
            "val": 100 * float(found["top1"]),
            "train_images": len(data.train),
            "val_images": len(data.val),
        }

    def words(self, record: Mapping[str, Any]) -> str:
        """What it reached."""
        return f"val {record['val']:.2f} %"


def report(found: Records, every: Sequence[Training], options: argparse.Namespace) -> dict[str, Any]:
    """Every seed by both ways, and how far the ways are apart in the mean."""
    reached = {way: [found[cell.name]["val"] for cell in every if cell.way == way] for way in WAYS}
    apart = [fast - slow for fast, slow in zip(reached["fast"], reached["exact"], strict=True)]
    last = found[every[-1].name]
    return {
        "command": f"python benchmarks/feeding_accuracy.py --seeds {options.seeds}",
        "what": f"val accuracy, percent, resnet20_cifar, cells of bccd.zip at 32 px, {EPOCHS} epochs",
        "train_images": last["train_images"],
        "val_images": last["val_images"],
        "per_seed": reached,
        "difference_mean": round(statistics.mean(apart), 2),
        "difference_standard_error": round(statistics.stdev(apart) / len(apart) ** 0.5, 2),
        "cells": {cell.name: stamps(found[cell.name]) for cell in every},
    }


def main(options: argparse.Namespace) -> int:
    """Measure what is missing; 0 if nothing is missing any more."""
    every = [Training(way, seed, options.data) for seed in range(options.seeds) for way in WAYS]
    return told("feeding-accuracy", every, options, lambda found: report(found, every, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser, CELLS)
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    ends(main, parser.parse_args())
