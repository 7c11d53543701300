"""What the runs in a folder say of their networks: the error on val of one set of images, by network."""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from convatlas.errors import DataError

if TYPE_CHECKING:
    from convatlas.measure.evidence import Evidence
    from convatlas.train.run import RunFolder


def own_evidence(folder: Path) -> dict[str, Evidence]:
    """The mean error on val of each network that was trained in `folder`, or in a folder right below it.

    Runs may have split the same images by different seeds. Val is what choices are made by; test stays unseen. Runs
    without an evaluation on val are passed over. Raises `DataError` if there is no run, or if the runs are of different
    images: their errors cannot be compared.
    """
    from convatlas.measure.evidence import Evidence
    from convatlas.train.run import RUN, RunFolder

    places = [each for each in (folder, *sorted(folder.glob("*"))) if each.is_dir() and (each / RUN).exists()]
    errors: defaultdict[str, list[float]] = defaultdict(list)
    sides: dict[str, int] = {}
    seen: dict[str, str] = {}
    for place in places:
        run = RunFolder.open(place)
        decided, evaluation = run.read_run(), run.evaluation("val")
        if evaluation is None:
            continue
        seen.setdefault(_images(run), place.name)
        errors[decided["model"]].append(100 * (1 - evaluation["top1"]))
        sides[decided["model"]] = max(decided["preprocessing"]["size"])
    if not errors:
        raise DataError(f"{folder} has no run with an evaluation on val; `convatlas train` makes one.")
    if len(seen) > 1:
        examples = " and ".join(list(seen.values())[:2])
        raise DataError(
            f"the runs in {folder} are of {len(seen)} different sets of images ({examples}, for example), whose errors "
            "cannot be compared; give a folder with the runs of one."
        )
    return {
        name: Evidence(
            "own",
            mean := statistics.mean(found),
            mean,
            "val of your images" + (f", mean of {len(found)} runs" if len(found) > 1 else ""),
            sides[name],
            "run",
        )
        for name, found in errors.items()
    }


def _images(run: RunFolder) -> str:
    """One text for one set of images, however it was split."""
    from convatlas.api import samples_of

    rows = csv.DictReader(io.StringIO(samples_of(run).decode()))
    return sha256("\n".join(sorted(row["hash"] for row in rows)).encode()).hexdigest()
