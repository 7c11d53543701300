"""From whatever a user has (files, folders, patterns, arrays) to one prediction per picture.

Every picture takes the way that it took in training: the one decode path, then `Preprocessing.fit`. Pictures
are read batch by batch, so a folder may be larger than memory.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from convatlas.data import BadFile, Preprocessing, decode
from convatlas.data.decode import FORMATS, MAX_BYTES
from convatlas.errors import BadImage, DataError
from convatlas.files import inside, read_untrusted
from convatlas.infer.views import VIEWS, kind_of

OnBad = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One picture: the likeliest class with its probability, and the `top` few, likeliest first."""

    name: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "top": [list(pair) for pair in self.top]}


class Predictions(list[Prediction]):
    """Predictions in the order of the pictures; `bad` lists the files that were left out."""

    def __init__(self, items: Iterable[Prediction] = (), bad: Sequence[BadFile] = ()) -> None:
        super().__init__(items)
        self.bad = tuple(bad)


@dataclass(frozen=True, slots=True)
class Source:
    """A picture that can be loaded: its name, and a function that gives (H, W, C) uint8 or raises `BadImage`."""

    name: str
    load: Callable[[], NDArray[np.uint8]] = field(repr=False)


# --- finding pictures ---------------------------------------------------------------------------------


def sources(images: Any) -> list[Source]:
    """Every picture that `images` means: a path, folder (searched below), glob pattern, PIL image, array, or a list.

    In folders and patterns only files with an image's suffix count, and a link must lead to a file inside; a file
    that is named itself is always tried, wherever it leads.
    Raises `DataError` if a path does not exist, or a folder or pattern holds no picture.
    """
    found = list(_sources(images))
    if not found:
        raise DataError("no pictures were given.")
    return found


def _sources(images: Any) -> Iterator[Source]:
    if isinstance(images, (str, os.PathLike)):
        paths, root = _paths(os.fspath(cast("str | os.PathLike[str]", images)))
        for path in paths:
            yield Source(str(path), lambda path=path: _read(path, root))
    elif isinstance(images, Image.Image):
        name = str(getattr(images, "filename", "") or "picture")
        yield Source(name, lambda: _from_pillow(images, name))
    elif isinstance(images, np.ndarray):
        yield Source("array", lambda: _from_array(cast("NDArray[Any]", images), "array"))
    elif isinstance(images, Iterable):
        for number, item in enumerate(cast("Iterable[Any]", images)):
            for source in _sources(item):
                inner = isinstance(item, np.ndarray) or source.name == "picture"
                yield Source(f"{source.name} {number}", source.load) if inner else source
    else:
        raise DataError(
            f"{type(images).__name__} is not a picture. Give a path, a folder, a pattern such as 'photos/*.jpg', "
            "a PIL image, a uint8 array (H, W, 3), or a list of these."
        )


def _paths(text: str) -> tuple[list[Path], Path | None]:
    """Files, and the folder that they were found in: None for a file that is named itself."""
    path = Path(text)
    if path.is_dir():
        found = _below(path)
        if not found:
            raise DataError(f"{path} holds no pictures, neither itself nor below.")
        return found, path
    if os.path.lexists(path) or not glob.has_magic(text):
        if not os.path.lexists(path):
            raise DataError(f"{path} does not exist.")
        return [path], None
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
    found = [each for match in matches for each in (_below(match) if match.is_dir() else [match])]
    pictures = list(dict.fromkeys(filter(_is_named_as_picture, found)))  # ** names a folder and what is in it
    if not pictures:
        raise DataError(f"no picture matches {text!r}.")
    return pictures, _stem(path)


def _stem(pattern: Path) -> Path:
    """The folder that a pattern names before its first magic part: `photos` of `photos/*/a?.jpg`."""
    fixed = takewhile(lambda part: not glob.has_magic(part), pattern.parts)
    return Path(*fixed)


def _below(folder: Path) -> list[Path]:
    """Pictures in a folder and its folders, sorted; hidden folders are left out, links to folders not followed."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += filter(_is_named_as_picture, (Path(parent, name) for name in sorted(files)))
    return found


def _is_named_as_picture(path: Path) -> bool:
    return Image.registered_extensions().get(path.suffix.lower()) in FORMATS


# --- loading ------------------------------------------------------------------------------------------


def _read(path: Path, root: Path | None) -> NDArray[np.uint8]:
    """One file's pixels; with `root` only if it lies in that folder, links followed."""
    if root is not None and not inside(path, root):
        raise BadImage("link", "it leads out of the folder", str(path))
    try:
        content = read_untrusted(path, root=root, max_bytes=MAX_BYTES)
    except DataError as error:
        raise BadImage("unreadable", str(error), str(path)) from error
    return decode(content, channels=3, name=str(path))


def _from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Through the one decode path, so that modes and orientation mean what they mean in a file."""
    buffer = io.BytesIO()
    kind = "TIFF" if image.mode in ("CMYK", "F", "YCbCr", "LAB") else "PNG"
    try:
        image.save(buffer, kind, exif=image.getexif())
    except (OSError, ValueError) as error:
        raise BadImage("colour mode", f"{image.mode}: {error}", name) from error
    return decode(buffer.getvalue(), channels=3, name=name)


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3, 4))
    ):
        expected = "uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) was expected"
        raise BadImage("not an image", f"{array.dtype} of shape {array.shape}; {expected}", name)
    if not array.size:
        raise BadImage("empty", f"shape {array.shape}", name)
    if array.ndim == 3 and array.shape[2] == 4:
        return _from_pillow(Image.fromarray(array), name)
    return np.ascontiguousarray(array if array.ndim == 3 else array[..., None])


# --- predicting ---------------------------------------------------------------------------------------


def probabilities(model: nn.Module, images: Tensor, *, tta: bool | str = False) -> Tensor:
    """Softmax of the network's outputs: (N, C, H, W) normalised -> (N, K), each row summing to 1.

    With `tta` every picture is shown in several views, and the probabilities are averaged: mirrored (left-right) if
    True, else a kind of `views.VIEWS`.
    """
    with torch.inference_mode():
        weighed = [weight * model(view).float().softmax(1) for weight, view in VIEWS[kind_of(tta)].of(images)]
        return torch.stack(weighed).sum(0) if len(weighed) > 1 else weighed[0]


def predict(
    model: nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    found: Iterable[Source],
    *,
    topk: int = 5,
    batch_size: int = 64,
    workers: int = 0,
    on_bad: OnBad = "error",
    tta: bool | str = False,
) -> Predictions:
    """A prediction for every source, in their order. `workers` threads decode; see `Run.predict`."""
    bad: list[BadFile] = []
    result: list[Prediction] = []

    def load(source: Source) -> Tensor | BadImage:
        try:
            return preprocessing.fit(source.load())
        except BadImage as error:
            return error

    device = next(model.parameters()).device
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        rest = iter(found)
        while batch := list(islice(rest, batch_size)):
            loaded = list(pool.map(load, batch) if workers else map(load, batch))
            pairs = [
                (source, image)
                for source, image in zip(batch, loaded, strict=True)
                if isinstance(image, Tensor)
            ]
            for source, image in zip(batch, loaded, strict=True):
                if isinstance(image, BadImage):
                    if on_bad == "error":
                        raise image
                    bad.append(BadFile(source.name, image.reason, image.detail))
            if pairs:
                images = preprocessing.normalise(torch.stack([image for _, image in pairs])).to(device)
                shares = probabilities(model, images, tta=tta).cpu()
                result += [
                    _named(source.name, row, classes, topk)
                    for (source, _), row in zip(pairs, shares, strict=True)
                ]
    return Predictions(result, bad)


def _named(name: str, shares: Tensor, classes: Sequence[str], topk: int) -> Prediction:
    values, numbers = shares.sort(descending=True, stable=True)
    ranked: list[tuple[int, float]] = list(zip(numbers.tolist(), values.tolist(), strict=True))
    top = tuple((classes[number], share) for number, share in ranked[: min(topk, len(classes))])
    return Prediction(name, top[0][0], top[0][1], top)
