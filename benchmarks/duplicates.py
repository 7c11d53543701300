"""Which copies of a picture are known as its near-duplicates, and which different pictures are taken for the same.

    python benchmarks/duplicates.py [--data DATA] [--pictures N]

DATA holds `bccd.zip`, `mnist/` and `cifar10.zip`. Of each, N pictures drawn by a seed are written once as PNG, and once
again as a JPEG of each quality or shrunk to a part of their side (JPEG, quality 90); a copy is found where it and its
original are kept together. Then all pictures of the source are compared with each other: pairs of different files. They
are looked at as `convatlas data check` does. Writes `benchmarks/results/duplicates-DATE.json`; two minutes on two
cores. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import RESULTS, beside, dated

from convatlas.data.similar import components, near_duplicates
from convatlas.data.sources import open_source
from convatlas.data.survey import Survey, survey

QUALITIES = (95, 75, 50)
NEEDED = ("bccd.zip", "mnist", "cifar10.zip")
SHRUNK = (0.75, 0.5)  # of the side
SMALL = 64  # px: what is smaller is not shrunk further


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """The picture encoded."""
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=quality)
    return file.getvalue()


def shrunk(picture: Image.Image, part: float) -> bytes:
    """A smaller one, encoded."""
    return jpeg(picture.resize([round(part * side) for side in picture.size]), 90)


def changes(side: int) -> dict[str, Callable[[Image.Image], bytes]]:
    """The ways in which a picture of this side is copied."""
    ways: dict[str, Callable[[Image.Image], bytes]] = {
        f"JPEG {quality}": lambda picture, quality=quality: jpeg(picture, quality) for quality in QUALITIES
    }
    if side > SMALL:
        ways |= {
            f"{part:.0%} of the side": lambda picture, part=part: shrunk(picture, part) for part in SHRUNK
        }
    return ways


def found(pictures: list[Image.Image]) -> dict[str, float]:
    """For each change the share of these pictures that are kept together with their copy."""
    shares: dict[str, float] = {}
    for name, change in changes(max(pictures[0].size)).items():
        with tempfile.TemporaryDirectory() as folder:
            for number, picture in enumerate(pictures):
                (Path(folder) / f"{number:06}").mkdir()
                picture.save(Path(folder) / f"{number:06}" / "a.png")
                (Path(folder) / f"{number:06}" / "b.jpg").write_bytes(change(picture))
            seen = survey(open_source(folder))
        units = components(len(seen.items), near_duplicates(seen.thumbs, seen.sizes)).reshape(-1, 2)
        shares[name] = round(float((units[:, 0] == units[:, 1]).mean()), 4)
    return shares


def photographs(data: Path, folder: Path) -> Path:
    """The pictures of BCCD as a folder of one class."""
    (folder / "photographs").mkdir()
    with zipfile.ZipFile(data / "bccd.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.lower().endswith(".jpg")):
            (folder / "photographs" / Path(name).name).write_bytes(archive.read(name))
    return folder


def of_source(where: Path, count: int) -> dict[str, Any]:
    """What is found of `count` of its pictures, and what is taken for the same of all."""
    seen = survey(open_source(where))
    rows = np.sort(np.random.default_rng(0).permutation(len(seen.items))[:count])
    pictures = [picture(seen, row) for row in rows.tolist()]
    keys = [item.key for item in seen.items]
    alike = [(keys[a], keys[b]) for a, b in near_duplicates(seen.thumbs, seen.sizes).tolist()]
    told = {"width": int(np.median(seen.sizes[:, 0])), "height": int(np.median(seen.sizes[:, 1]))}
    told |= {"copied": len(pictures), "found": found(pictures)}
    return told | {"pictures": len(seen.items), "taken_for_the_same": len(alike), "pairs": alike[:100]}


def picture(seen: Survey, row: int) -> Image.Image:
    """One picture of a survey."""
    channels = 1 if seen.grey[row] else 3
    pixels = seen.source.scaled(seen.items[row].place, channels, seen.items[row].key).pixels
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def measured(data: Path, count: int) -> dict[str, Mapping[str, Any]]:
    """All three sources."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "photographs": of_source(photographs(data, Path(folder)), count),
            "MNIST": of_source(data / "mnist", count),
            "CIFAR-10": of_source(data / "cifar10.zip", count),
        }


def main(options: argparse.Namespace) -> None:
    """Measure, and write the dated file."""
    if options.data is None or not all((options.data / name).exists() for name in NEEDED):
        raise SystemExit(
            f"pictures are needed: --data DATA or CONVATLAS_DATA, a folder with {', '.join(NEEDED)}."
        )
    report = {"command": f"python benchmarks/duplicates.py --pictures {options.pictures}", **beside()}
    report |= {"sources": measured(options.data, options.pictures)}
    print(dated("duplicates", report, options.results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    main(parser.parse_args())
