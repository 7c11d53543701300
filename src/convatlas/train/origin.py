"""What a run starts from: nothing, official weights, a file, or the best weights of another run.

A wish is a word (`none`, `auto`, `torchvision`, `timm`, the last two with `:TAG`), a file, or a run's folder. What
it comes to depends on the images and the network alone, never on what happens to lie in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from convatlas.data import Data, Preprocessing
from convatlas.errors import BadCheckpoint, UsageError, did_you_mean
from convatlas.files import sha256
from convatlas.registry import Spec
from convatlas.train.run import RunFolder
from convatlas.train.saved_spec import SavedSpec
from convatlas.weights import transfer
from convatlas.weights.align import Origin as Names
from convatlas.weights.official import (
    LIBRARIES,
    Official,
    fetch,
    find_official,
    has_official,
    is_library,
)
from convatlas.weights.tensors import read_weights

WORDS = ("none", "auto", *LIBRARIES)
SMALL = 64  # px: official weights have learnt from photographs that are larger
MANY = 1_000_000  # images: below, the lectures on transfer advise to start from learnt weights
TRANSFER = {"body_lr": 0.1}  # a tenth of the rate for what is learnt already


@dataclass(frozen=True)
class Start:
    """A starting point, decided but not yet read. `reason` says why it is this one.

    With `official` weights and with a `run` it is known how images were prepared, and for which classes.
    """

    kind: Literal["scratch", "official", "file", "run"]
    title: str
    reason: str
    official: Official | None = None
    path: Path | None = None
    run: SavedSpec | None = None

    @property
    def learnt(self) -> bool:
        """Whether there are weights to start from."""
        return self.kind != "scratch"

    def settings(self, data: Data) -> dict[str, Any]:
        """Fields of the recipe that belong to the weights: normalisation, geometry, and the rate of the body."""
        if self.official is not None:
            found = {**TRANSFER, "mean": self.official.mean, "std": self.official.std}
            if data.typical_side() > SMALL:
                of = self.official
                found |= {"resize": of.resize, "crop_ratio": of.crop_ratio, "image_size": of.side}
            return found
        if self.run is not None:
            of = self.run.preprocessing
            return {**TRANSFER, "mean": of.mean, "std": of.std, "resize": of.resize,
                    "crop_ratio": of.crop_ratio, "image_size": of.size[0]}  # fmt: skip
        return dict(TRANSFER) if self.learnt else {}

    def prepared(self, preprocessing: Preprocessing) -> Preprocessing:
        """The same preprocessing with what belongs to the weights and no recipe has."""
        if self.official is not None:
            return replace(preprocessing, interpolation=self.official.interpolation)
        if self.run is not None:
            of = self.run.preprocessing
            return replace(preprocessing, interpolation=of.interpolation, fill=of.fill)
        return preprocessing

    def options(self, model: str) -> dict[str, Any]:
        """Settings of the network that the weights were learnt with; what a recipe or the images decide is left out."""
        if self.run is None or self.run.model != model:
            return {}
        decided = ("num_classes", "in_channels", "dropout")
        return {name: value for name, value in self.run.options.items() if name not in decided}

    def to_json(self) -> dict[str, Any]:
        """For run.json; what was read comes from `Reading.fill`."""
        told = {"kind": self.kind, "title": self.title, "reason": self.reason}
        if self.official is not None:
            told["source"] = f"{self.official.library}:{self.official.tag}"
        return told

    def channels(self, data: Data) -> int:
        """Channels that the network reads: those of the weights; grey images are repeated, colour becomes luma."""
        if self.official is not None:
            return 3
        return self.run.preprocessing.channels if self.run is not None else data.channels

    def read(self, classes: tuple[str, ...]) -> Reading:
        """Find the file, fetched if need be, and its hash. Raises as `weights.official.fetch`."""
        head: Literal["keep", "fit", "new"] = "fit"
        if self.official is not None:
            fetched = fetch(self.official)
            head = "keep" if self.official.classes == classes else "new"
            return Reading(self, fetched.path, fetched.sha256, head, self.official.library, fetched.confirmed)
        assert self.path is not None  # noqa: S101 - `learnt` was asked
        if self.run is not None:
            head = "keep" if self.run.classes == classes else "new"
            return Reading(self, self.path, _hash(self.path), head, "ours")
        return Reading(self, self.path, _hash(self.path), head, "auto")


@dataclass(frozen=True)
class Reading:
    """A file of weights that is at hand, and how a network takes them."""

    start: Start
    path: Path
    sha256: str
    head: Literal["keep", "fit", "new"]
    names: Names
    confirmed: bool | None = None

    def fill(self, model: nn.Module) -> dict[str, Any]:
        """Fill the network; give what run.json says of it.

        Raises `BadCheckpoint` with the first pair that does not fit.
        """
        source = read_weights(self.path) if self.start.official is not None else self.path
        what = str(self.path) if self.start.official is None else self.start.title
        done = transfer(model, source, origin=self.names, head=self.head, what=what)
        told: dict[str, Any] = {
            "file": str(self.path.resolve()),
            "sha256": self.sha256,
            "names": self.names,
            "head": "new" if any(name.startswith("head.") for name in done.drawn) else "kept",
            "left_out": list(done.left_out),
            "drawn": list(done.drawn),
        }
        if self.start.official is not None:
            told |= {"url": self.start.official.url, "confirmed": self.confirmed}
        return told


SCRATCH = Start("scratch", "random weights", "no weights were asked for")


def check_wish(wish: str | None, spec: Spec | None) -> Start | None:
    """What a wish comes to if no images are needed to say so; None for `auto`, or before the network is known.

    Raises `UsageError` for a word or a file that does not exist, and `BadCheckpoint` for a folder that is no run with
    best weights: before any image is read.
    """
    if wish in (None, "", "none"):
        return (
            SCRATCH if wish != "none" else Start("scratch", "random weights", "asked for by --weights none")
        )
    if wish == "auto":
        return None
    if is_library(wish):
        return _official(wish, spec, f"asked for by --weights {wish}") if spec is not None else None
    path = Path(wish)
    if path.is_dir():
        folder = RunFolder.open(path)
        best = folder.best
        saved = SavedSpec.read(best / "spec.json")
        images = f"{Path(folder.read_run()['where']).name}, {len(saved.classes)} classes"
        title = f"the run {path}: epoch {saved.epoch} of {saved.model} on {images}"
        return Start(
            "run", title, f"asked for by --weights {wish}", path=best / "model.safetensors", run=saved
        )
    if not path.exists():
        near = did_you_mean(wish, WORDS)
        raise UsageError(
            f"weights {wish!r}: there is no such file or folder, and it is none of {', '.join(WORDS)}.{near}"
        )
    return Start("file", f"the file {path}", f"asked for by --weights {wish}", path=path)


def settle(wish: str | None, data: Data, spec: Spec) -> Start:
    """What a run on these images with this network starts from. Raises as `check_wish`.

    `auto` takes official weights where the images are coloured photographs of more than 64 px, fewer than a million,
    and the network has such weights, torchvision's before timm's.
    """
    decided = check_wish(wish, spec)
    if decided is not None:
        return decided
    side, count = data.typical_side(), len(data.train)
    library = next(
        (each for each in LIBRARIES if each in spec.peers and has_official(each, spec.peers[each])), None
    )
    seen = (
        f"auto: {count:,} {'grey' if data.channels == 1 else 'colour'} training images of typically {side} px"
    )
    if data.channels != 3 or side <= SMALL:
        return Start(
            "scratch", "random weights", f"{seen} are not the photographs that official weights are for"
        )
    if count >= MANY:
        return Start("scratch", "random weights", f"{seen} are enough to learn from")
    if library is None:
        return Start("scratch", "random weights", f"auto: there are no official weights of {spec.name}")
    return _official(library, spec, f"{seen}, and {spec.name} has official weights")


def _official(wish: str, spec: Spec, reason: str) -> Start:
    official = find_official(wish, spec.peers, spec.name)
    return Start("official", f"official weights: {official.title}", reason, official=official)


def again(told: Mapping[str, Any], spec: Spec) -> Reading | None:
    """The same weights for a run that has no checkpoint yet; None for one that began from scratch.

    Raises `BadCheckpoint` if the file is another one now, and as `weights.official.fetch`.
    """
    kind = told.get("kind", "scratch")
    if kind == "scratch":
        return None
    title, reason = str(told["title"]), str(told["reason"])
    if kind == "official":
        official = find_official(str(told["source"]), spec.peers, spec.name)
        start = Start("official", title, reason, official=official)
        fetched = fetch(official)
        path, digest = fetched.path, fetched.sha256
    else:
        start = Start(kind, title, reason)
        path = Path(str(told["file"]))
        digest = _hash(path)
    if digest != told["sha256"]:
        raise BadCheckpoint(f"{path} is not the file that the run began from; begin a new run instead.")
    head = "keep" if told["head"] == "kept" else "new"
    return Reading(start, path, digest, head, cast(Names, told["names"]))


def sentences(decided: Mapping[str, Any]) -> list[str]:
    """What run.json tells of the start beside its title, for people: why, which file, what was left out, what rate."""
    start: Mapping[str, Any] = decided.get("start") or {}
    said = [f"Why: {start['reason']}."] if start else []
    if "sha256" in start:
        doubt = "" if start.get("confirmed", True) else ", which no published hash confirms"
        said.append(f"The SHA-256 of the file begins with {start['sha256'][:16]}{doubt}.")
    if start.get("head") == "kept":
        said.append("Its classifier is kept.")
    elif start.get("head") == "new":
        said.append(f"The classifier is new; left out: {', '.join(start['left_out']) or 'nothing'}.")
    factor = decided["recipe"].get("body_lr", 1.0)
    if factor not in (0, 1):
        said.append(f"All but the classifier learns at {factor:g} of the rate.")
    return said


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror or error}.") from error
