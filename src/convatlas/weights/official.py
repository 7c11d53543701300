"""Official weights: those that torchvision and timm publish, where they lie, and how they come to this machine.

They are fetched once, on an explicit wish only, checked, converted to safetensors, and kept in `cache_folder()`.
The name of a torchvision file ends in the first eight digits of its SHA-256, and torchvision itself names the file.
For timm's the Hugging Face hub states size and SHA-256 in its answer: that proves a whole file, not who made it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from convatlas.errors import BadCheckpoint, ResourceError, UsageError, did_you_mean
from convatlas.files import commit, make_folder, newest, read_json, sha256
from convatlas.weights.align import read_any
from convatlas.weights.download import NotFetched, download
from convatlas.weights.tensors import read_weights, save_weights
from convatlas.weights.timm_weights import HALF, TIMM, Number3

LIBRARIES = ("torchvision", "timm")
WEIGHTS, ORIGIN = "model.safetensors", "origin.json"
HUB = "https://huggingface.co"
# torchvision's own networks of these names take their images back from its usual normalisation to this one
# before their first layer (`transform_input`), when they hold official weights; ours have no such step.
TRANSFORMED = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Official:
    """One file of official weights, and how its images are prepared.

    `name` is the network's name in the library, `tag` that of the weights, `hash` how the SHA-256 begins (empty: the
    server says). `side` is that of the images in pixels; `mean` and `std` are on the scale 0..1.
    """

    library: Literal["torchvision", "timm"]
    name: str
    tag: str
    url: str
    file: str
    hash: str
    side: int
    crop_ratio: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: Number3
    std: Number3
    resize: Literal["crop", "squash"] = "crop"
    classes: tuple[str, ...] = ()  # in the order of the logits, where the library tells them

    @property
    def title(self) -> str:
        """How people call it: "torchvision resnet50 IMAGENET1K_V2"."""
        return f"{self.library} {self.name} {self.tag}"


@dataclass(frozen=True)
class Fetched:
    """Official weights on this machine: the safetensors file, and the SHA-256 of the file they came from."""

    path: Path
    sha256: str
    confirmed: bool  # by the hash that the library or the hub states


def cache_folder() -> Path:
    """Where official weights are kept: `CONVATLAS_CACHE`, or `convatlas` in the user's folder of caches."""
    if own := os.environ.get("CONVATLAS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convatlas"


def is_library(word: str) -> bool:
    """Whether a wish names a library ("timm", "torchvision:IMAGENET1K_V1") and not a file."""
    return word.partition(":")[0] in LIBRARIES


def find_official(wish: str, peers: Mapping[str, str], network: str) -> Official:
    """The file that `wish` ("torchvision", "timm", or with ":TAG") means for a network.

    `peers` gives the network's name in each library. Raises `UsageError` if it is not there, or has no weights.
    """
    library, _, tag = wish.partition(":")
    if library not in peers:
        there = [f"--weights {other}" for other in LIBRARIES if other in peers] or ["--weights FILE"]
        raise UsageError(
            f"{network} does not exist in {library}, so there are no official weights; try {' or '.join(there)}."
        )
    return (_torchvision if library == "torchvision" else _timm)(peers[library], tag)


def has_official(library: str, name: str) -> bool:
    """Whether the library publishes weights of the network that it calls `name`."""
    try:
        find_official(library, {library: name}, name)
    except UsageError:
        return False
    return True


def _torchvision(name: str, tag: str) -> Official:
    from torchvision.models import get_model_weights  # a second of import, spent by those who ask

    known = {entry.name: entry for entry in get_model_weights(name)}
    if not known:
        raise UsageError(f"torchvision publishes no weights of {name}.")
    if tag and tag not in known:
        raise UsageError(
            f"torchvision has no weights {tag!r} of {name}.{did_you_mean(tag, known)} It has: {', '.join(known)}."
        )
    chosen: Any = known[tag] if tag else get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    file = chosen.url.rpartition("/")[2]
    found = re.search(r"-([0-9a-f]{8,64})\.", file)
    if found is None:
        raise UsageError(f"torchvision does not say the hash of {file}, so it is not fetched.")
    prepare = chosen.transforms()
    if name in TRANSFORMED:
        mean, std = HALF
    else:
        mean, std = tuple(prepare.mean), tuple(prepare.std)
    side = prepare.crop_size[0]
    return Official(
        library="torchvision",
        name=name,
        tag=chosen.name,
        url=chosen.url,
        file=file,
        hash=found[1],
        side=side,
        crop_ratio=side / prepare.resize_size[0],
        interpolation=prepare.interpolation.value,
        mean=mean,
        std=std,
        classes=tuple(chosen.meta.get("categories") or ()),
    )


def _timm(name: str, tag: str) -> Official:
    row = TIMM.get(name)
    if row is None:
        raise UsageError(
            f"convatlas knows no official weights of timm's {name}. Fetch a file by hand, and name it: --weights FILE."
        )
    if tag not in ("", row.tag):
        raise UsageError(
            f"of timm's {name} convatlas knows the weights {row.tag} and how their images are prepared. For {tag} "
            "fetch the file by hand, name it by --weights FILE, and set mean, std and crop_ratio."
        )
    repository = f"{name}.{row.tag}"
    mean, std = row.normalisation
    return Official(
        library="timm",
        name=name,
        tag=row.tag,
        url=f"{os.environ.get('HF_ENDPOINT') or HUB}/timm/{repository}/resolve/main/model.safetensors",
        file=f"{repository}.safetensors",
        hash="",
        side=row.side,
        crop_ratio=row.crop_ratio,
        interpolation=row.interpolation,
        mean=mean,
        std=std,
        resize=row.resize,
    )


def fetch(official: Official, *, silence: float | None = None) -> Fetched:
    """The weights as a safetensors file in the cache; downloaded only if they are not there yet.

    A file that was put into the cache's folder of the library by hand (`Official.file`), or that torch.hub has, is
    taken in place of a download.

    Raises:
        ResourceError: they cannot be had: no network, an error of the server, a wrong hash, no room on the disk.
        BadCheckpoint: the file is no checkpoint that can be read safely.
    """
    place = cache_folder() / official.library
    kept = place / official.file.rpartition(".")[0]
    if found := _kept(kept):
        return found
    make_folder(kept)
    with _alone(kept):
        return _kept(kept) or _convert(official, place, kept, silence)


def _kept(folder: Path) -> Fetched | None:
    """What an earlier `fetch` left, if it is whole: each file has the hash in the manifest."""
    found, _ = newest(folder)
    if found is None:
        return None
    origin = read_json(found / ORIGIN)
    return Fetched(found / WEIGHTS, origin["sha256"], origin["confirmed"])


def _convert(official: Official, place: Path, kept: Path, silence: float | None) -> Fetched:
    arrived = (
        kept / f"download{Path(official.file).suffix}"
    )  # under the lock: what a killed process left is replaced
    by_hand = next((file for file in _by_hand(official, place) if file.is_file()), None)
    try:
        if by_hand is not None:
            digest, confirmed = sha256(by_hand), bool(official.hash)
            if not digest.startswith(official.hash):
                raise NotFetched(f"{by_hand} is another file: its SHA-256 begins with {digest[:16]}")
        else:
            extra = {} if silence is None else {"silence": silence}
            received = download(official.url, arrived, sha256=official.hash, **extra)
            digest, confirmed = received.sha256, received.confirmed
    except NotFetched as problem:
        raise ResourceError(
            f"the weights {official.title} cannot be had: {problem}. They lie at {official.url}\n"
            f"Fetch them on a machine that has a network, and put the file at {place / official.file}, "
            "or name it: --weights FILE."
        ) from problem
    try:
        state: dict[str, Tensor] = read_any(by_hand or arrived)
        origin = {"url": official.url, "sha256": digest, "confirmed": confirmed, "title": official.title}
        parts = {
            WEIGHTS: save_weights(state),
            ORIGIN: (json.dumps(origin, indent=2, sort_keys=True) + "\n").encode(),
        }
        return Fetched(commit(kept, "weights-1", parts, keep=1) / WEIGHTS, digest, confirmed)
    finally:
        arrived.unlink(missing_ok=True)


def _by_hand(official: Official, place: Path) -> list[Path]:
    """Where the file may lie already; torch.hub's only where a hash tells what it is."""
    hub = [Path(torch.hub.get_dir()) / "checkpoints" / official.file] if official.hash else []
    return [place / official.file, *hub]


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time: the others wait, and then find what the first one fetched."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ResourceError(
            f"cannot write to {folder}: {error.strerror}. Name another by CONVATLAS_CACHE."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_official(official: Official) -> tuple[dict[str, Tensor], Fetched]:
    """Tensors by their library's names, from the cache or fetched into it. Raises as `fetch`."""
    fetched = fetch(official)
    try:
        return read_weights(fetched.path), fetched
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{error} Remove {fetched.path.parent} to fetch it again.") from error
