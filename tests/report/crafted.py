"""Runs that were written and not trained: any classes, any names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convatlas.data import Preprocessing
from convatlas.files import commit
from convatlas.infer import Evaluation
from convatlas.infer.evaluate import Tally
from convatlas.models import create_model
from convatlas.train import Recipe, RunFolder
from convatlas.weights import save_weights


def craft(path: Path, classes: Sequence[str], *, keys: Sequence[str] = (), **fields: Any) -> RunFolder:
    """A run folder with those classes; `fields` replace what run.json says."""
    folder = RunFolder.create(path)
    plain = Preprocessing((32, 32), "crop", 3)
    options = {"num_classes": len(classes), "in_channels": 3}
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", **options)
    spec = {
        "format": 1, "task": "classification", "model": "resnet20_cifar", "options": options, "epoch": 1,
        "classes": list(classes), "preprocessing": plain.to_json(), "score": {"split": "val", "top1": 0.5},
        "recipe": "quick",
    }  # fmt: skip
    parts = {
        "model.safetensors": save_weights(model.state_dict()),
        "spec.json": json.dumps(spec).encode(),
    }
    commit(folder.path / "best", "epoch-0001", parts)
    folder.write_run(
        {
            "model": "resnet20_cifar", "options": options, "recipe": Recipe().to_json(), "recipe_name": "quick",
            "command": ["convatlas", "train"], "seed": 0, "versions": {}, "machine": {}, "where": "photos",
            "data": {"notes": [], "per_class": {"train": dict.fromkeys(classes, 3)}}, "fingerprint": "0" * 64,
            "preprocessing": plain.to_json(), "task": "classification", "created": "2026-01-02T03:04:05+00:00",
            "choice": None, "notes": [], "weights": None, "workers": None, "reading": {}, "safety": {}, **fields,
        }
    )  # fmt: skip
    folder.write_evaluation("val", made_up(classes, keys).to_json())
    return folder


def made_up(classes: Sequence[str], keys: Sequence[str] = ()) -> Evaluation:
    """Predictions that are right two times in three, three for each class."""
    rng, size = np.random.default_rng(0), len(classes)
    labels = np.tile(np.arange(size), 3)
    predicted = np.where(rng.random(len(labels)) < 0.67, labels, rng.integers(0, size, len(labels)))
    shares = np.full((len(labels), size), 0.2 / size, np.float32)
    shares[np.arange(len(labels)), predicted] += 0.8
    tally = Tally(classes)
    names = list(keys) or [f"picture {i}.png" for i in range(len(labels))]
    tally.add(names, torch.from_numpy(shares), torch.from_numpy(labels))
    return tally.finish("val")
