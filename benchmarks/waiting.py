"""For which share of its time does a network wait for JPEGs? `convatlas train` as it is, and its own count.

    pip install -e .
    python benchmarks/waiting.py [--data DATA] [--epochs 3]

resnet18 at 224 px in batches of 16 on the photographs of photos.py (2,184 JPEGs of 500 x 375), recipe `quick` with its
augmentation; DATA holds bccd.zip. Prints the share of each epoch's training time that the loop waited for the next
batch, as `timing.jsonl` and the report have it, and writes `benchmarks/results/waiting-DATE.json`. Two minutes on two
cores. Measured, never asserted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from photos import photos
from record import RESULTS, beside, dated

from convatlas.train import RunFolder

WORDS = ("--model", "resnet18", "--image-size", "224", "--set", "batch_size=16", "--accelerator", "cpu")


def main(options: argparse.Namespace) -> None:
    """One training, and the dated file."""
    if options.data is None:
        raise SystemExit("BCCD is needed: --data DATA or CONVATLAS_DATA, a folder with bccd.zip.")
    images = photos(options.data / "bccd.zip", Path(tempfile.gettempdir()) / "convatlas-bench-photos")
    ceiling = beside()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["train", str(images), *WORDS, "--epochs", str(options.epochs), "--out", str(out)]
        subprocess.run([sys.executable, "-m", "convatlas", *words], check=True, stdout=sys.stderr)
        timing = [line for line in RunFolder(out).timing() if line.get("kind") == "epoch"]
    report = {
        "command": f"convatlas train PHOTOS {' '.join(WORDS)} --epochs {options.epochs}",
        **ceiling,
        "waiting_share": [line["waiting_share"] for line in timing],
        "epochs": timing,
    }
    waited = ", ".join(f"{share:.1%}" for share in report["waiting_share"])
    print("waited for", waited, "of each epoch;", dated("waiting", report, options.results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONVATLAS_DATA"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    main(parser.parse_args())
