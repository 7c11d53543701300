"""What this machine can do: multiply-adds a second and bytes a second, measured once and kept.

`measure_roof` times six kernels in turn: matrix products and 3x3 convolutions of 512 channels in fp32 and in bf16, a
copy (one read, one write) and a triad (two reads, one write) of tensors that fit in no cache. The peak of a dtype is
the better of product and convolution, since a library can be slow at one of them; the bandwidth is the better of copy
and triad.

Bytes are those that the program asks for. Some processors also read what is about to be overwritten; then the memory
moves more than is counted, here and in a network alike.

The result lies in the cache of the user as JSON, under a name made of the machine: a home folder that
several machines share holds one file for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name

from convatlas.errors import BadCheckpoint, ResourceError, UsageError
from convatlas.files import make_folder, read_json, write_json
from convatlas.measure.machine import machine, versions
from convatlas.measure.timing import DTYPES, Timing, alternate
from convatlas.memory import free_memory
from convatlas.weights.official import cache_folder

FORMAT = 1
SECONDS = 20.0  # of `measure_roof`
GLANCE = 2.0  # of `roof_here`: on a quiet machine its medians are within 5 % of the longer measurement's
STEADY = 0.15  # distance of the quartiles over the median, at most, of what `roof_here` keeps
STEADY_RUNS = 5  # runs of it, at least
LEAST_FREE = 2**30  # bytes of memory that have to be free for it
ROUNDS = 25
LEAST = 0.01  # seconds that one call of a kernel should take: below, the clock and the call itself count
CACHES = 4  # times the largest cache: the size of a tensor that fits in none
SAME = ("processor", "cores", "threads", "accelerator", "system")  # of `machine()`: what makes it this one


@dataclass(frozen=True, slots=True)
class Rate:
    """What one kernel reached: work a second (median, quartiles), of `work` in each of `runs` runs."""

    work: int
    per_second: float
    low: float
    high: float
    runs: int

    @staticmethod
    def of(work: int, timing: Timing) -> Rate:
        """The rate of a kernel that does `work` in that time."""
        return Rate(work, work / timing.median, work / timing.high, work / timing.low, timing.runs)


@dataclass(frozen=True, slots=True)
class Roof:
    """Rates by kernel: "matmul fp32", "conv bf16" in multiply-adds, "copy" and "triad" in bytes; and where and when."""

    rates: Mapping[str, Rate]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    measured: str

    def peak_macs(self, dtype: str) -> float:
        """Multiply-adds a second of the better kernel of that dtype."""
        return max(self.rates[f"{kernel} {dtype}"].per_second for kernel in ("matmul", "conv"))

    @property
    def bandwidth(self) -> float:
        """Bytes a second, read and written together."""
        return max(self.rates[kernel].per_second for kernel in ("copy", "triad"))

    @property
    def steady(self) -> bool:
        """Whether every kernel ran often enough, and its quartiles lie close together: nothing came and went."""
        return all(
            rate.runs >= STEADY_RUNS and rate.high - rate.low <= STEADY * rate.per_second
            for rate in self.rates.values()
        )

    def ridge(self, dtype: str) -> float:
        """Floating-point operations per byte above which arithmetic is what bounds a row."""
        return 2 * self.peak_macs(dtype) / self.bandwidth

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        return {
            "format": FORMAT,
            "measured": self.measured,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "rates": {name: asdict(rate) for name, rate in self.rates.items()},
        }

    @staticmethod
    def from_json(value: Any) -> Roof:
        """What `to_json` gave. Raises `ValueError` for anything else."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"format {FORMAT} is expected")
        try:
            rates = {name: Rate(**rate) for name, rate in value["rates"].items()}
            missing = KERNELS - rates.keys()
            if missing:
                raise ValueError(f"no rate of {', '.join(sorted(missing))}")
            for name, rate in rates.items():
                numbers: tuple[Any, ...] = (rate.work, rate.per_second, rate.low, rate.high, rate.runs)
                if not all(type(number) in (int, float) and number > 0 for number in numbers):
                    raise ValueError(f"the rate of {name} is not made of positive numbers")
            return Roof(rates, dict(value["machine"]), dict(value["versions"]), str(value["measured"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


KERNELS = {f"{kernel} {dtype}" for kernel in ("matmul", "conv") for dtype in DTYPES} | {"copy", "triad"}


# --- measuring ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kernel:
    """A call and the work that it does."""

    work: int
    run: Callable[[], object]


def measure_roof(seconds: float = SECONDS, say: Callable[[str], object] = lambda _: None) -> Roof:
    """Measure this machine with PyTorch's present number of threads, in about so many seconds.

    `say` is told what is done. The kernels run in turn, so that a disturbance meets all of them.
    """
    if not seconds > 0:
        raise UsageError(f"a machine is measured in more than no time, not in {seconds} s.")
    begin = time.perf_counter()
    size = _stream_bytes()
    with torch.no_grad():
        kernels: dict[str, Kernel] = {}
        for dtype in DTYPES:
            say(f"finding the size of the kernels in {dtype}")
            kernels[f"matmul {dtype}"] = _grown(
                lambda n, dtype=dtype: _matmul(2**n, DTYPES[dtype]), range(8, 13)
            )
            kernels[f"conv {dtype}"] = _grown(lambda n, dtype=dtype: _conv(2**n, DTYPES[dtype]), range(6))
        say("filling the memory")
        kernels |= _streams(size)
        for kernel in kernels.values():
            kernel.run()
        say("timing all of them in turn")
        left = seconds - (time.perf_counter() - begin)
        taken = alternate({name: kernel.run for name, kernel in kernels.items()}, seconds=left, rounds=ROUNDS)
    rates = {name: Rate.of(kernel.work, Timing.of(taken[name])) for name, kernel in kernels.items()}
    return Roof(rates, machine(), versions(), datetime.now(UTC).isoformat(timespec="seconds"))


def _grown(make: Callable[[int], Kernel], sizes: range) -> Kernel:
    """The first kernel of growing size that takes `LEAST` seconds in the quickest of three calls, or the largest."""
    kernel = make(sizes[0])
    for size in sizes[1:]:
        kernel.run()  # the first call of a size chooses how it is done
        taken = alternate({"": kernel.run}, seconds=10 * LEAST, rounds=3)[""]
        if min(taken) >= LEAST:
            break
        kernel = make(size)
    return kernel


def _matmul(n: int, dtype: torch.dtype) -> Kernel:
    """The product of two square matrices of side n: n^3 multiply-adds."""
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    out = torch.empty(n, n, dtype=dtype)
    return Kernel(n**3, lambda: torch.mm(a, b, out=out))


def _conv(batch: int, dtype: torch.dtype) -> Kernel:
    """A 3x3 convolution of 512 maps of 28 x 28 to 512, channels last, as in the middle of VGG."""
    c, side = 512, 28
    layout = torch.channels_last
    images = torch.ones(batch, c, side, side, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.ones(c, c, 3, 3, dtype=dtype).contiguous(memory_format=layout)
    # the border's products with padding are made like all others
    return Kernel(batch * c * c * 9 * side * side, lambda: F.conv2d(images, weight, padding=1))


def _streams(size: int) -> dict[str, Kernel]:
    """Copy and triad over fp32 tensors of `size` bytes."""
    a, b, c = (torch.ones(size // 4) for _ in range(3))
    return {
        "copy": Kernel(2 * size, lambda: a.copy_(b)),
        "triad": Kernel(3 * size, lambda: torch.add(b, c, alpha=3.0, out=a)),
    }


def _stream_bytes() -> int:
    """Bytes of a tensor that fits in no cache of this machine, at most an eighth of the memory that is free."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    largest = max(map(_cache_bytes, caches), default=0)
    if (free := free_memory()) < LEAST_FREE:
        raise ResourceError(
            f"to measure a machine {LEAST_FREE:,} bytes of memory have to be free, not {free:,}."
        )
    return min(max(2**28, CACHES * largest), free // 8) // 4 * 4


def _cache_bytes(file: Path) -> int:
    """The size that Linux writes as "32768K"; 0 where it cannot be read."""
    try:
        text = file.read_text().strip()
        return int(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
    except (OSError, ValueError, IndexError):
        return 0


# --- keeping --------------------------------------------------------------------------------------------


def roof_file() -> Path:
    """Where the roof of this machine is kept, with PyTorch's present number of threads and version."""
    here = machine()
    words = "\n".join([*(f"{name}={here[name]}" for name in SAME), torch.__version__])
    return cache_folder() / "roofline" / f"{sha256(words.encode()).hexdigest()[:16]}.json"


def keep_roof(roof: Roof, path: Path | None = None) -> Path:
    """Write it durably to `path`, or where `kept_roof` looks. Raises `ResourceError` if that cannot be."""
    path = path or roof_file()
    make_folder(path.parent)
    write_json(path, roof.to_json())
    return path


def kept_roof(path: Path | None = None) -> Roof:
    """The roof of this machine: from `path`, or as `keep_roof` left it.

    Raises:
        UsageError: this machine was not measured with this number of threads and this PyTorch, or the file is of
            another machine.
        BadCheckpoint: the file is damaged.
    """
    again = "measure this machine with `convatlas bench --roofline`"
    path = path or roof_file()
    if not os.path.lexists(path):
        here = machine()
        raise UsageError(
            f"nothing is known of what this machine can do with {here['threads']} threads and PyTorch "
            f"{torch.__version__}: {again}; it takes about {SECONDS:.0f} s."
        )
    try:
        roof = Roof.from_json(read_json(path, max_bytes=2**20))
    except ValueError as error:
        raise BadCheckpoint(f"{path} is not the roofline that was expected ({error}): {again}.") from error
    here = {**machine(), "torch": torch.__version__}
    there = {**roof.machine, "torch": roof.versions.get("torch")}
    other = [
        f"{name} {there.get(name)}, here {here[name]}"
        for name in (*SAME, "torch")
        if there.get(name) != here[name]
    ]
    if other:
        raise UsageError(f"{path} was measured elsewhere ({'; '.join(other)}): {again}.")
    return roof


def roof_here() -> Roof | None:
    """The roof of this machine as it was kept; else it is measured in two seconds, and kept where that can be.

    None where the measurement wavers, as it mostly does beside other programs, and where there is no memory for it: it
    is not kept then, and the next call tries again. `keep_roof(measure_roof())` takes its time and whatever it finds.
    """
    try:
        return kept_roof()
    except (UsageError, BadCheckpoint):
        pass
    try:
        roof = measure_roof(GLANCE)
    except (ResourceError, MemoryError, RuntimeError):  # PyTorch's allocator says RuntimeError
        return None
    if not roof.steady:
        return None
    with suppress(ResourceError):
        keep_roof(roof)
    return roof
