"""A folder of JPEG photographs for benchmarks: 500 x 375 pixels, the size of a typical picture of ImageNet.

    PYTHONPATH=src python benchmarks/photos.py BCCD.ZIP FOLDER

The pictures are cut from the 364 microscope pictures (640 x 480) of BCCD, six from each, and written anew with quality
90; `few` and `many` are those of pictures with at most, and with more than, the median number of red cells. Which
parts are cut is a function of the picture's number, so the folder is the same everywhere. A folder that is whole is
left as it is.
"""

from __future__ import annotations

import io
import statistics
import sys
import xml.etree.ElementTree as Xml
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
EACH = 6
QUALITY = 90
WHOLE = "whole"  # an empty file that is written last


def photos(archive: Path, folder: Path, each: int = EACH) -> Path:
    """Write the folder, unless it is whole; give it."""
    if (folder / WHOLE).exists():
        return folder / "train"
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        cells = {Path(name).stem: _cells(source, name) for name in source.namelist() if name.endswith(".xml")}
        middle = statistics.median(cells[Path(name).stem] for name in names)
        for number, name in enumerate(names):
            picture = Image.open(io.BytesIO(source.read(name))).convert("RGB")
            place = folder / "train" / ("many" if cells[Path(name).stem] > middle else "few")
            place.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng(number)
            for part in range(each):
                x = int(random.integers(max(picture.width - SIZE[0], 0) + 1))
                y = int(random.integers(max(picture.height - SIZE[1], 0) + 1))
                cut = picture.crop((x, y, x + SIZE[0], y + SIZE[1]))
                cut.save(place / f"{Path(name).stem}-{part}.jpg", quality=QUALITY)
    (folder / WHOLE).touch()
    return folder / "train"


def _cells(source: zipfile.ZipFile, name: str) -> int:
    """How many red cells an annotation has."""
    return sum(thing.findtext("name") == "RBC" for thing in Xml.fromstring(source.read(name)).iter("object"))


if __name__ == "__main__":
    print(photos(Path(sys.argv[1]), Path(sys.argv[2])))
