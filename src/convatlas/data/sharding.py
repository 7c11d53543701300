"""Write a data set as shards: plain tars of a few hundred MB each, for `open_data` and for WebDataset.

A sample becomes three members: the image's own bytes (`000000042.jpg`), its class as a number (`.cls`), and what
convatlas wants to know beside it (`.json`: class, key, group). So a data set in shards has the same keys, splits and
fingerprint as the folder that it was made from. Inside a split the order is drawn by the seed: whoever reads a
shard from its beginning meets all classes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image

from convatlas.data.containers import sniff
from convatlas.data.dataset import class_order
from convatlas.data.groups import group_column, group_names, group_pattern
from convatlas.data.sources import SPLITS, Item, Source, open_source
from convatlas.data.sources.source import ArraySource, counted
from convatlas.errors import BadImage, DataError, UsageError
from convatlas.files import make_folder, write_durable
from convatlas.randomness import generator

SIZE = 256 * 2**20  # bytes of a shard
_BLOCK = 512
_SUFFIX = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
}


@dataclass(frozen=True)
class Written:
    """What `write_shards` has made: the shards in their order, and how many samples and bytes are in them."""

    shards: tuple[Path, ...]
    samples: int
    bytes: int
    left_out: int


def write_shards(
    where: str | Path,
    out: str | Path,
    *,
    size: int = SIZE,
    seed: int = 0,
    on_bad: Literal["error", "skip"] = "error",
    group_by: str | None = None,
    told: Callable[[Path, int], object] | None = None,
) -> Written:
    """Write the images at `where` into the new folder `out`, as shards of about `size` bytes.

    `where`: what `open_data` takes. `group_by`: as there; the groups are written along. `told` is given each shard and
    its number of samples. The folder appears when all of it is written, and not before. Images are copied as they
    are, and not decoded: `data check OUT` looks at them.

    Raises `UsageError` if `out` is there already, `DataError` for a file that cannot be read unless `on_bad` is
    "skip", `ResourceError` where the disk refuses.
    """
    out = Path(out)
    if size < _BLOCK:
        raise UsageError(f"a shard of {size} bytes holds nothing; give some megabytes, as --size 256MB.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already; shards are written into a new folder.")
    source = open_source(where, group_column(group_by))
    group_pattern(source, group_by)
    listing = source.listing()
    if listing.bad and on_bad == "error":
        first = listing.bad[0]
        raise DataError(
            f"{source.name} has {counted(len(listing.bad), 'bad file')} ({first.key}: {first.reason}). "
            f"`convatlas data check {source.name}` lists them; `--on-bad skip` leaves them out."
        )
    groups = group_names(source, listing.items, group_by)
    items = [item._replace(group=group) for item, group in zip(listing.items, groups, strict=True)]
    numbers = {name: number for number, name in enumerate(class_order({item.label for item in items}))}
    _sweep(out)
    folder = make_folder(out.with_name(f"{out.name}.tmp-{os.getpid()}"))
    writer = _Writer(source, numbers, size, on_bad == "skip")
    shards: list[Path] = []
    try:
        for role in ("", *SPLITS):
            members = [item for item in items if item.split == role]
            order = generator(seed, role, "shards").permutation(len(members))
            waiting = writer.samples(members[position] for position in order)
            shards += writer.write(waiting, folder, role or "all", told)
        if not writer.count:
            raise DataError(f"{source.name} has no image that can be read.")
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    left = len(listing.bad) + writer.left_out
    return Written(tuple(out / shard.name for shard in shards), writer.count, writer.bytes, left)


Sample = list[tuple[str, bytes]]  # (suffix, content) of its members


class _Writer:
    """Counts what goes into the shards."""

    def __init__(self, source: Source, numbers: dict[str, int], size: int, skip: bool) -> None:
        self.source, self.numbers, self.size, self.skip = source, numbers, size, skip
        self.count = self.bytes = self.left_out = 0

    def samples(self, items: Iterator[Item]) -> Iterator[Sample]:
        """The members of each sample."""
        for item in items:
            try:
                content, suffix = _image(self.source, item)
            except BadImage as error:
                if not self.skip:
                    raise DataError(
                        f"{item.key} cannot be read: {error}. `--on-bad skip` leaves such files out."
                    ) from error
                self.left_out += 1
                continue
            described = {"key": item.key, "label": item.label} | ({"group": item.group} if item.group else {})
            yield [
                (suffix, content),
                ("cls", str(self.numbers[item.label]).encode()),
                ("json", json.dumps(described, sort_keys=True).encode()),
            ]

    def write(
        self, samples: Iterator[Sample], folder: Path, role: str, told: Callable[[Path, int], object] | None
    ) -> list[Path]:
        """Shards named after the role, each closed by the sample that would make it larger than `size`."""
        shards, following = list[Path](), next(samples, None)
        while following is not None:
            path, before = folder / f"{role}-{len(shards):04d}.tar", self.count

            def fill(out: BinaryIO, first: Sample = following) -> None:
                nonlocal following
                following = self._fill(out, first, samples)

            write_durable(path, fill)
            self.bytes += path.stat().st_size
            shards.append(path)
            if told is not None:
                told(path, self.count - before)
        return shards

    def _fill(self, out: BinaryIO, first: Sample, samples: Iterator[Sample]) -> Sample | None:
        """Write samples until the shard is full; give the one that did not go in."""
        sample: Sample | None = first
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while sample is not None:
                needed = sum(_BLOCK + -(-len(content) // _BLOCK) * _BLOCK for _, content in sample)
                if sample is not first and out.tell() + needed > self.size:
                    return sample
                for suffix, content in sample:
                    info = tarfile.TarInfo(f"{self.count:09d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                self.count += 1
                sample = next(samples, None)
        return None


def _image(source: Source, item: Item) -> tuple[bytes, str]:
    """An image file's content and suffix; arrays become PNG. Raises `BadImage`."""
    if isinstance(source, ArraySource):
        out = io.BytesIO()
        Image.fromarray(source.array(item.place)).save(out, "PNG")
        return out.getvalue(), "png"
    content = source.content(item.place)
    return content, _SUFFIX.get(sniff(content[:32]), "ppm")


def _sweep(out: Path) -> None:
    """Remove what processes that are no more have left beside `out`."""
    for left in out.absolute().parent.glob(f"{out.name}.tmp-*"):
        process = left.name.rpartition("-")[2]
        if left.is_dir() and process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(left, ignore_errors=True)
