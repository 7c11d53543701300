"""From JPEG files to batches: ours beside torchvision's ImageFolder, DataLoader and v2 transforms, in one run.

    PYTHONPATH=src python benchmarks/feeding.py [--quick] [--data FOLDER]

The photographs of `bccd.zip` and `camvid-half.zip` (in FOLDER, or CONVATLAS_DATA) are encoded anew at 500x375,
JPEG of quality 95, 4:2:0. Both sides read the same files with two worker processes, cut a random part (35 to 100 % of
the area) to 224 px, mirror half of them, and give normalised float32 batches of 64. They take turns, epoch by epoch;
figures are medians with the slowest and the fastest. "Per processor second" counts the time of all processes, so that
others on the machine matter less; "per second" is the clock's. The result goes to
`benchmarks/results/feeding-DATE.json`. Measured, not asserted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from record import beside, dated
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from convatlas.data import Augment, Batches, Data, Preprocessing, open_data
from convatlas.data.transforms import cut, resample

BATCH, WORKERS, SIDE = 64, 2, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.35, 1.0)
PREPARE = Preprocessing((SIDE, SIDE), "crop", 3, MEAN, STD)
Epoch = Callable[[int], int]  # number -> images that came


def photographs(source: Path, out: Path, most: int, size: tuple[int, int]) -> dict[str, int]:
    """Write the photographs at `size` as JPEG into folders by archive; their number and mean bytes."""
    sizes: list[int] = []
    for name, inside in (("bccd.zip", "JPEGImages/"), ("camvid-half.zip", "/images/")):
        folder = out / name.split(".")[0]
        folder.mkdir(parents=True)
        with zipfile.ZipFile(source / name) as archive:
            members = [one for one in archive.namelist() if inside in one and one.endswith(".jpg")]
            for number, member in enumerate(members[: most // 2]):
                image = Image.open(io.BytesIO(archive.read(member))).convert("RGB")
                path = folder / f"{number:04d}.jpg"
                image.resize(size, Image.Resampling.BICUBIC).save(path, quality=95, subsampling=2)
                sizes.append(path.stat().st_size)
    return {"images": len(sizes), "bytes_per_image": round(statistics.mean(sizes))}


def ours(data: Data, augment: Augment | None, cache: Path | None = None) -> tuple[Epoch, Callable[[], None]]:
    """Our batches of all images, and how to end."""
    batches = Batches(
        data.all,
        PREPARE,
        batch_size=BATCH,
        augment=augment,
        shuffle=augment is not None,
        drop_last=False,
        workers=WORKERS,
        cache=cache,
    )

    def epoch(number: int) -> int:
        return sum(len(batch) for batch in batches.epoch(number))

    return epoch, batches.close


def theirs(
    folder: Path, transforms: list[v2.Transform], *, shuffle: bool
) -> tuple[Epoch, Callable[[], None]]:
    """torchvision's way, with workers that stay from epoch to epoch."""
    normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.ToPureTensor()]
    images = ImageFolder(str(folder), v2.Compose([*transforms, *normalise]))
    loader = DataLoader(images, BATCH, shuffle=shuffle, num_workers=WORKERS, persistent_workers=True)

    def epoch(number: int) -> int:
        del number
        return sum(len(labels) for _, labels in loader)

    def end() -> None:
        loader._iterator = None

    return epoch, end


def processor_seconds() -> float:
    """Of this process and of its children, also those that live."""
    own = sum(os.times()[:4])
    for listed in Path("/proc/self/task").glob("*/children"):
        for pid in listed.read_text().split():
            try:
                fields = Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            own += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own


def compare(runners: dict[str, tuple[Epoch, Callable[[], None]]], rounds: int) -> dict[str, Any]:
    """Epochs in turn: {who: {per_processor_second, per_second}} and the ratios to the fastest of torchvision's."""
    costs: dict[str, list[float]] = {who: [] for who in runners}
    times: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + 1):  # the first starts the processes and warms up
        for who, (epoch, _) in runners.items():
            before, begin = processor_seconds(), time.perf_counter()
            count = epoch(turn)
            if turn:
                times[who].append(count / (time.perf_counter() - begin))
                costs[who].append(count / (processor_seconds() - before))
    for _, end in runners.values():
        end()
    result: dict[str, Any] = {
        who: {"per_processor_second": spread(costs[who]), "per_second": spread(times[who])} for who in runners
    }
    peers = [who for who in runners if who.startswith("torchvision")]
    best = max(peers, key=lambda who: statistics.median(costs[who]))
    for who in runners:
        if who not in peers:
            ratios = [a / b for a, b in zip(costs[who], costs[best], strict=True)]
            result[who]["ratio_to"] = best
            result[who]["ratio"] = spread(ratios, 2)
            result[who]["ratio_by_clock"] = spread(
                [a / b for a, b in zip(times[who], times[best], strict=True)], 2
            )
    for who, each in result.items():
        print(f"  {who}: {each}", flush=True)
    return result


def spread(values: list[float], digits: int = 0) -> dict[str, float]:
    """Median, slowest and fastest."""
    found = {"median": statistics.median(values), "slowest": min(values), "fastest": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


@contextmanager
def without_simplejpeg() -> Iterator[None]:
    """Decode with Pillow alone, as where simplejpeg is not installed."""
    import sys

    with mock.patch.object(sys.modules["convatlas.data.decode"], "_simplejpeg", None):
        yield


def training(folder: Path, data: Data, rounds: int, work: Path) -> dict[str, Any]:
    """Random parts, mirrored, normalised."""
    part = {"size": SIDE, "scale": SCALE, "antialias": True}
    augment = Augment(crop="resized", resized_scale=SCALE, flip=True)
    kept = work / "cache"
    with without_simplejpeg():  # workers are forked at the first epoch, and stay as they are
        plain = ours(data, augment)
        plain[0](0)
    return compare(
        {
            "ours": ours(data, augment),
            "ours, Pillow alone": plain,
            "ours, --cache": ours(data, augment, kept),
            "torchvision, PIL": theirs(
                folder,
                [v2.RandomResizedCrop(**part), v2.RandomHorizontalFlip(), v2.PILToTensor()],
                shuffle=True,
            ),
            "torchvision, tensors": theirs(
                folder,
                [v2.PILToTensor(), v2.RandomResizedCrop(**part), v2.RandomHorizontalFlip()],
                shuffle=True,
            ),
        },
        rounds,
    )


def evaluation(folder: Path, data: Data, rounds: int, work: Path) -> dict[str, Any]:
    """The middle of each picture, which every way gives exactly."""
    return compare(
        {
            "ours": ours(data, None),
            "ours, --cache": ours(data, None, work / "cache"),
            "torchvision, PIL": theirs(
                folder, [v2.Resize(256), v2.CenterCrop(SIDE), v2.PILToTensor()], shuffle=False
            ),
            "torchvision, tensors": theirs(
                folder, [v2.PILToTensor(), v2.Resize(256, antialias=True), v2.CenterCrop(SIDE)], shuffle=False
            ),
        },
        rounds,
    )


def differences(data: Data, most: int) -> dict[str, Any]:
    """Pixels of the fast ways against the exact one: parts at full size, and of pictures decoded smaller."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"largest": [], "mean": [], "largest_inside": []}
    for i in range(min(most, len(data.train))):
        image = data.train.image(i)
        height, width = image.shape[:2]
        w, h = rng.integers(SIDE, width + 1), rng.integers(SIDE, height + 1)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        box = (float(x), float(y), float(x + w), float(y + h))
        apart = np.abs(cut(image, box, (SIDE, SIDE)).astype(int) - resample(image, box, (SIDE, SIDE)))
        found["largest"].append(float(apart.max()))
        found["mean"].append(float(apart.mean()))
        found["largest_inside"].append(float(apart[4:-4, 4:-4].max()))
    return {
        "largest": max(found["largest"]),
        "largest_4_pixels_from_the_border": max(found["largest_inside"]),
        "mean": round(statistics.mean(found["mean"]), 4),
    }


def small(rounds: int) -> dict[str, Any]:
    """CIFAR's size, held in memory: shifted, mirrored, normalised; images per second of processor time, one thread."""

    class Noise:
        keys = [str(i) for i in range(12_800)]  # noqa: RUF012
        labels, ids = np.zeros(12_800, np.int64), np.arange(12_800)
        pixels = np.random.default_rng(0).integers(0, 256, (12_800, 32, 32, 3), dtype=np.uint8)

        def __len__(self) -> int:
            return len(self.keys)

        def image(self, i: int, /) -> np.ndarray:
            return self.pixels[i]

    result: dict[str, Any] = {}
    prepare = Preprocessing((32, 32), "pad", 3, MEAN, STD)
    for size in (128, 2000):
        batches = Batches(
            Noise(),
            prepare,
            batch_size=size,
            augment=Augment(crop="shift", flip=True),
            shuffle=True,
            drop_last=True,
        )
        speeds: list[float] = []
        for number in range(rounds + 1):
            begin = time.process_time()
            count = sum(len(batch) for batch in batches.epoch(number))
            if number:
                speeds.append(count / (time.process_time() - begin))
        result[f"batch {size}"] = spread(speeds)
    print(f"  {result}", flush=True)
    return result


def installed(package: str) -> str:
    """A version, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def speed(source: Path, *, quick: bool) -> dict[str, Any]:
    """Every comparison of images per second."""
    rounds, most = (2, 160) if quick else (5, 832)
    result: dict[str, Any] = {
        "unit": "images per second of all processes' processor time, and of the clock; 2 workers, batches of 64",
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, size, count in (("500x375", (500, 375), most), ("2000x1500", (2000, 1500), most // 8)):
            result[f"pictures {name}"] = photographs(source, work / name, count, size)
            data = open_data(work / name, val_share=0, test_share=0)
            print(f"{name}: {result[f'pictures {name}']}; training", flush=True)
            result[f"training {name}"] = training(work / name, data, rounds, work)
            if name == "500x375":
                print("evaluation", flush=True)
                result[f"evaluation {name}"] = evaluation(work / name, data, rounds, work)
                result["pixels of parts, against Pillow's resize"] = differences(data, 64)
    print("32 px, in memory", flush=True)
    result["32 px in memory, one thread"] = small(rounds)
    return result


def main() -> None:
    """Take turns, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds; writes no result")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CONVATLAS_DATA"), help="folder of bccd.zip"
    )
    chosen = parser.parse_args()
    if chosen.data is None or not (Path(chosen.data) / "bccd.zip").is_file():
        parser.error("the photographs are missing: name the folder of bccd.zip with --data or CONVATLAS_DATA")
    begun, ceiling = os.getloadavg(), beside()
    torch.set_num_threads(1)
    result = {
        "command": f"python benchmarks/feeding.py{' --quick' if chosen.quick else ''}",
        "simplejpeg": installed("simplejpeg"),
        **ceiling,
        "load_at_start": begun,
        **speed(Path(chosen.data), quick=chosen.quick),
        "load_at_end": os.getloadavg(),
    }
    print(json.dumps(result, indent=2) if chosen.quick else dated("feeding", result))


if __name__ == "__main__":
    main()
