"""A finished run, ready for use: its best weights, classes and preprocessing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from convatlas.data import Batches, Preprocessing, Split
from convatlas.errors import BadCheckpoint, DataError, UsageError
from convatlas.infer.evaluate import Evaluation, Tally
from convatlas.infer.predict import OnBad, Predictions, predict, probabilities, sources
from convatlas.infer.views import kind_of
from convatlas.models import create_model
from convatlas.randomness import preserved
from convatlas.train.run import RunFolder
from convatlas.train.saved_spec import SavedSpec
from convatlas.weights import read_weights

WEIGHTS, SPEC = "model.safetensors", "spec.json"


class Run:
    """What `convatlas train` left: `Run.load("runs/digits").predict("scans/")[0].label`, or `evaluate` of a split.

    Attributes:
        folder: the run's `RunFolder`.
        spec: spec.json beside the weights.
        model: the network with the best weights, in evaluation mode.
    """

    def __init__(self, folder: RunFolder, spec: SavedSpec, model: nn.Module) -> None:
        self.folder, self.spec, self.model = folder, spec, model.eval()

    @staticmethod
    def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Run:
        """The run in that folder with its best weights, on `device`; on a GPU if there is one and none is named.

        Raises `BadCheckpoint` if it is no run, its files are damaged, or weights and spec do not belong together.
        """
        folder = RunFolder.open(os.fspath(path))
        best = folder.best
        spec = SavedSpec.read(best / SPEC)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Run(folder, spec, _network(spec, best).to(place))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return self.spec.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures are prepared, the same as in training."""
        return self.spec.preprocessing

    def predict(
        self,
        images: Any,
        *,
        topk: int = 5,
        batch_size: int = 64,
        workers: int = 0,
        on_bad: OnBad = "error",
        tta: bool | str = False,
    ) -> Predictions:
        """One `Prediction` per picture, in order.

        Args:
            images: a path, a folder (searched below), a glob pattern, a PIL image, a uint8 array (H, W, C), or a list.
            topk: classes listed in `Prediction.top`, likeliest first.
            batch_size: pictures in memory at a time.
            workers: threads that decode; 0 decodes in this one.
            on_bad: "error" raises `BadImage` at the first bad file; "skip" leaves it out and lists it in `.bad`.
            tta: average the probabilities over views: mirrored if True, or a kind of `convatlas.infer.views.VIEWS`.
        """
        if topk < 1 or batch_size < 1 or workers < 0:
            raise UsageError(
                f"topk = {topk} and batch_size = {batch_size} must be at least 1, workers = {workers} 0."
            )
        if on_bad not in ("error", "skip"):
            raise UsageError(f"on_bad = {on_bad!r}: 'error' or 'skip' is expected.")
        return predict(
            self.model,
            self.preprocessing,
            self.classes,
            sources(images),
            topk=topk,
            batch_size=batch_size,
            workers=workers,
            on_bad=on_bad,
            tta=tta,
        )

    def evaluate(
        self,
        split: Split,
        *,
        split_name: str | None = None,
        batch_size: int = 256,
        workers: int = 0,
        tta: bool | str = False,
        fingerprint: str = "",
    ) -> Evaluation:
        """How good the network is on a split. No augmentation; nothing but a few numbers per image is kept.

        `split_name` and `fingerprint` (of the data) are written down in the result. Raises `DataError` if the split
        is empty or has labels that the network does not know.
        """
        name, views = split_name or split.name, kind_of(tta)
        if not len(split):
            raise DataError(f"the {name} split is empty; there is nothing to evaluate.")
        if int(split.labels.max()) >= len(self.classes) or int(split.labels.min()) < 0:
            raise DataError(f"the {name} split has labels beyond the network's {len(self.classes)} classes.")
        device = next(self.model.parameters()).device
        keys = dict(zip(np.asarray(split.ids).tolist(), split.keys, strict=True))
        tally = Tally(self.classes, device)
        batches = Batches(
            split, self.preprocessing, batch_size=batch_size, shuffle=False, drop_last=False, workers=workers
        )
        try:
            for batch in batches.epoch(0):
                shares = probabilities(self.model, batch.images.to(device), tta=views)
                tally.add([keys[number] for number in batch.ids.tolist()], shares, batch.labels.to(device))
        finally:
            batches.close()
        return tally.finish(name, views=views, fingerprint=fingerprint)


def _network(spec: SavedSpec, best: Any) -> nn.Module:
    """The network of `spec` with the weights beside it.

    It is built on the meta device first: until the file's names and shapes are known to fit, nothing is allocated.
    """
    path = best / WEIGHTS
    with preserved():
        try:
            with torch.device("meta"):
                model = create_model(spec.model, **spec.options)
        except (
            Exception
        ) as error:  # whatever a constructor does with values from a file, the file is what is wrong
            raise BadCheckpoint(
                f"{best / SPEC}: {spec.model} cannot be built with {spec.options}: {error}"
            ) from error
        weights = read_weights(path)
        _check(model, weights, path)
        model.load_state_dict(weights, assign=True)
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            model = create_model(spec.model, **spec.options)  # buffers that are computed, not saved
            model.load_state_dict(weights)
    return model


def _check(model: nn.Module, weights: dict[str, torch.Tensor], path: Any) -> None:
    """Same names, shapes and kinds of numbers, all of them finite."""
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or unknown:
        raise BadCheckpoint(
            f"{path} does not fit the network: {len(missing)} tensors are missing (first: {missing[:1]}), "
            f"{len(unknown)} are unknown (first: {unknown[:1]})."
        )
    for name, tensor in weights.items():
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            found, wanted = f"{tensor.dtype} {tuple(tensor.shape)}", f"{want.dtype} {tuple(want.shape)}"
            raise BadCheckpoint(f"{path}: {name} is {found}, but the network has {wanted}.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadCheckpoint(f"{path}: {name} holds numbers that are not finite.")
