"""What the reliability tests train, and what must be equal in two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from convatlas.files import newest

# 3 epochs of 20 steps with everything in it that could break exactness
DIGITS: dict[str, Any] = {
    "model": "lenet5",
    "settings": {
        "epochs": 3,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 1e-4,
        "ema": 0.9,
        "mixup": 0.2,
        "dropout": 0.3,  # the one that draws from the generators of a step
        "clip_norm": 1.0,
    },
    "seed": 7,
}
PHOTOS: dict[str, Any] = {
    "model": "resnet20_cifar",
    "settings": {
        "epochs": 2,
        "batch_size": 16,
        "image_size": 72,
        "optimizer": "adamw",
        "lr": 1e-3,
        "cutmix": 1.0,
    },
    "seed": 7,
}


def photos(folder: Path, count: int = 60, side: int = 96) -> Path:
    """Two classes of JPEGs: `count` windows each of two real photographs."""
    random = np.random.default_rng(0)
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        height, width = photo.shape[:2]
        for number in range(count):
            y, x = random.integers(height - side), random.integers(width - side)
            Image.fromarray(photo[y : y + side, x : x + side]).save(
                folder / name / f"{number:03}.jpg", quality=90
            )
    return folder


def contents(run: Path) -> dict[str, bytes]:
    """Every byte that a resumed run must share with an uninterrupted one, by file."""
    checkpoint, damaged = newest(run / "checkpoints")
    assert checkpoint is not None
    assert not damaged
    best, _ = newest(run / "best")
    assert best is not None
    found = {"metrics.jsonl": (run / "metrics.jsonl").read_bytes()}
    for folder in (checkpoint, best):
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            if path.name == "manifest.json":
                continue
            if path.name == "state.json":  # the log of seconds may be longer or shorter
                state = json.loads(content)
                del state["timing_offset"]
                content = json.dumps(state, sort_keys=True).encode()
            found[f"{folder.name}/{path.name}"] = content
    return found


def assert_equal(run: Path, reference: dict[str, bytes]) -> None:
    """Byte for byte, with the names of what differs."""
    ours = contents(run)
    assert ours.keys() == reference.keys()
    different = [name for name in ours if ours[name] != reference[name]]
    assert not different, f"{run.name} differs in {different}"
