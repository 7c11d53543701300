"""What a comparison found, as JSON: the cell, the sides with all their blocks, ratios, and the machine beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from convatlas.bench.cell import OURS, Cell
from convatlas.bench.pool import QUIET
from convatlas.bench.race import Laps, Rate, Ratio, fastest
from convatlas.measure.machine import machine, versions
from convatlas.measure.roof import Roof
from convatlas.measure.roofline import Roofline

FORMAT = 1
PACKAGES = ("timm", "lightning")  # of peers, beside those that `versions` names


@dataclass(frozen=True)
class Result:
    """One cell, run. `bound` is what the machine's measured roof leaves to our side; None without one."""

    cell: Cell
    laps: Laps
    roof: Roof | None
    bound: Roofline | None

    @property
    def rates(self) -> dict[str, Rate]:
        """Images a second of each side."""
        return self.laps.rates()

    @property
    def ratios(self) -> dict[str, Ratio]:
        """Ours over each peer's."""
        return self.laps.ratios()

    @property
    def fastest_peer(self) -> str | None:
        """The quickest peer; None without any."""
        return fastest(self.rates)

    @property
    def step_seconds(self) -> float:
        """Of our side: a batch over the median rate."""
        return self.cell.batch / self.rates[OURS].median

    @property
    def reached(self) -> float | None:
        """Our share of the roofline: the least time of a step over the time that it took."""
        return self.bound.seconds / self.step_seconds if self.bound else None

    @property
    def arithmetic_reached(self) -> float | None:
        """The same of the arithmetic alone: multiply-adds a second over the machine's peak."""
        return self.bound.arithmetic_seconds / self.step_seconds if self.bound else None

    def peak_bytes(self, side: str) -> int | None:
        """The largest resident memory of a side's main process in its counted blocks."""
        peaks = [block.peak_bytes for block in self.laps.blocks[side] if block.peak_bytes is not None]
        return max(peaks, default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = self.rates
        return {
            "format": FORMAT,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "cell": self.cell.to_json(),
            "quiet": self.laps.quiet,
            "quiet_below_cores": QUIET,
            "starts": self.laps.starts,
            "sides": {
                name: {
                    "images_per_second": asdict(rates[name]),
                    "latency_seconds": self.cell.batch / rates[name].median,
                    "peak_bytes": self.peak_bytes(name),
                    "facts": self.laps.facts.get(name, {}),
                    "blocks": [block.to_json() for block in blocks],
                }
                for name, blocks in self.laps.blocks.items()
            },
            "ratios": {name: asdict(each) for name, each in self.ratios.items()},
            "fastest_peer": self.fastest_peer,
            "roofline": self._roofline(),
            "ceiling": self.roof.to_json() if self.roof else None,
            "machine": machine(),
            "versions": _versions(),
        }

    def _roofline(self) -> Mapping[str, Any] | None:
        if self.bound is None:
            return None
        return {
            "dtype": self.bound.dtype,
            "seconds": self.bound.seconds,
            "arithmetic_seconds": self.bound.arithmetic_seconds,
            "memory_bound_share": self.bound.memory_bound_share,
            "reached": self.reached,
            "arithmetic_reached": self.arithmetic_reached,
        }


def _versions() -> dict[str, str]:
    found = versions()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
