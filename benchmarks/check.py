"""`data check` of photographs: files per second of wall and of processor time, and the memory of all its processes.

    PYTHONPATH=src python benchmarks/check.py [FILES]

Pictures of 500x375 made by a seed (JPEG of quality 90), every one decoded whole by two processes; three rounds, the
files in the system's cache. The result goes to `benchmarks/results/check-DATE.json`. Measured, never asserted.
"""

from __future__ import annotations

import glob
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from convatlas.data.check import check

WORKERS = 2
ROUNDS = 3


def photo(seed: int) -> Image.Image:
    """Smooth colours under noise, 500x375."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-12, 13, (375, 500, 1), dtype=np.int16)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def peak_of(process: str) -> int:
    """The largest resident memory that a process had, in bytes; 0 where /proc does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def watch(peaks: dict[str, int]) -> None:
    """Keep the peaks of this process's children."""
    while True:
        for listed in glob.glob("/proc/self/task/*/children"):
            for process in Path(listed).read_text().split():
                peaks[process] = max(peaks.get(process, 0), peak_of(process))
        time.sleep(0.02)


def main(files: int) -> None:
    """Make the pictures, check them, write the result."""
    speeds, per_processor, bytes_at_peak = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for i in range(files):
            path = Path(folder) / f"class {i % 10}" / f"{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            photo(i).save(path, quality=90)
            sizes.append(path.stat().st_size)
        peaks: dict[str, int] = {}
        threading.Thread(target=watch, args=(peaks,), daemon=True).start()
        for _ in range(ROUNDS):
            peaks.clear()
            begin, before = time.perf_counter(), sum(os.times()[:4])
            found = check(folder, workers=WORKERS)
            speeds.append(found.images / (time.perf_counter() - begin))
            per_processor.append(found.images / (sum(os.times()[:4]) - before))
            assert found.images == files
            bytes_at_peak.append(peak_of("self") + sum(peaks.values()))
    from record import beside, dated  # load torch, which `data check` does without

    result = {
        "command": f"python benchmarks/check.py {files}",
        "unit": "files per second, JPEG of 500x375, decoded whole; bytes of all processes",
        "files": files,
        "bytes_per_file": round(statistics.mean(sizes)),
        "workers": WORKERS,
        **beside(),
        "files_per_second": {
            "median": round(statistics.median(speeds)),
            "slowest": round(min(speeds)),
            "fastest": round(max(speeds)),
        },
        "files_per_processor_second": round(statistics.median(per_processor)),
        "peak_resident_bytes": max(bytes_at_peak),
    }
    print(*(f"{name}: {value}" for name, value in list(result.items())[-3:]), sep="\n")
    print(dated("check", result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
