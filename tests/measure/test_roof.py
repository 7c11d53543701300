"""What is kept of a machine, and read again only on the same one. How fast it is, no test says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convatlas.errors import BadCheckpoint, ResourceError, UsageError
from convatlas.measure import roof as module
from convatlas.measure.machine import machine
from convatlas.measure.roof import (
    KERNELS,
    Kernel,
    Rate,
    Roof,
    keep_roof,
    kept_roof,
    measure_roof,
    roof_file,
    roof_here,
)
from convatlas.measure.timing import Timing, threads_set


@pytest.fixture(scope="module")
def measured() -> Roof:
    said: list[str] = []
    roof = measure_roof(0.5, said.append)
    assert said
    return roof


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_kernel_is_measured(measured: Roof) -> None:
    assert set(measured.rates) == KERNELS
    for rate in measured.rates.values():
        assert rate.runs >= 1
        assert rate.low <= rate.per_second <= rate.high
    assert measured.bandwidth == max(measured.rates[name].per_second for name in ("copy", "triad"))
    assert measured.machine == machine()
    assert measured.versions["torch"] == torch.__version__


def test_the_work_of_a_rate() -> None:
    rate = Rate.of(100, Timing(median=2.0, low=1.0, high=4.0, runs=5))
    assert rate == Rate(work=100, per_second=50.0, low=25.0, high=100.0, runs=5)


def test_the_kernels_do_what_they_are_credited_for() -> None:
    for kernel in (module._matmul(64, torch.float32), module._conv(1, torch.float32)):
        with FlopCounterMode(display=False) as counter:
            kernel.run()
        assert counter.get_total_flops() == 2 * kernel.work
    streams = module._streams(4000)
    assert streams["copy"].work == 2 * 4000
    assert streams["triad"].work == 3 * 4000
    assert torch.equal(streams["triad"].run(), torch.full((1000,), 4.0))  # pyright: ignore[reportArgumentType]


def test_a_kernel_grows_until_it_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "alternate", lambda calls, **_: {"": [calls[""](), 9.0, 9.0]})
    assert module._grown(lambda size: Kernel(size, lambda: 10.0 ** (size - 4)), range(5)).work == 2  # 0.01 s
    assert module._grown(lambda size: Kernel(size, lambda: 0.0), range(5)).work == 4  # none is: the largest


def test_kept_and_found_again(measured: Roof, cache: Path) -> None:
    path = keep_roof(measured)
    assert path == roof_file()
    assert path.parent == cache / "roofline"
    assert kept_roof() == measured
    assert Roof.from_json(json.loads(path.read_text())) == measured


def test_a_place_of_ones_own(measured: Roof, tmp_path: Path) -> None:
    assert kept_roof(keep_roof(measured, tmp_path / "deep" / "mine.json")) == measured
    with pytest.raises(UsageError, match="nothing is known"):
        kept_roof()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        keep_roof(measured, tmp_path / "file" / "mine.json")


def test_other_threads_are_another_machine(measured: Roof) -> None:
    keep_roof(measured)
    with threads_set(torch.get_num_threads() + 1), pytest.raises(UsageError, match="bench --roofline"):
        kept_roof()


def test_a_processor_is_told_by_its_instructions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual machines call very different ones alike."""
    kind = torch.backends.cpu.get_cpu_capability()
    for bf16, words in ((True, f"({kind} with bf16)"), (False, f"({kind})")):
        monkeypatch.setattr("convatlas.measure.machine.has_bf16", lambda bf16=bf16: bf16)
        assert machine()["processor"].endswith(f" {words}")


@pytest.mark.parametrize("field", ["processor", "cores", "threads", "accelerator", "system"])
def test_another_machine_is_refused(measured: Roof, tmp_path: Path, field: str) -> None:
    other = Roof(measured.rates, {**measured.machine, field: "other"}, measured.versions, "")
    with pytest.raises(UsageError, match=f"elsewhere .*{field} other, here"):
        kept_roof(keep_roof(other, tmp_path / "other.json"))
    old = Roof(measured.rates, measured.machine, {**measured.versions, "torch": "1.0"}, "")
    with pytest.raises(UsageError, match=r"torch 1\.0, here"):
        kept_roof(keep_roof(old, tmp_path / "old.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.update(format=2),
        lambda value: value.pop("rates"),
        lambda value: value.pop("machine"),
        lambda value: value["rates"].pop("copy"),
        lambda value: value["rates"]["copy"].pop("runs"),
        lambda value: value["rates"]["copy"].update(more=1),
        lambda value: value["rates"]["copy"].update(per_second=0),
        lambda value: value["rates"]["copy"].update(per_second="fast"),
        lambda value: value["rates"]["copy"].update(per_second=True),
        lambda value: value.update(rates=[]),
        lambda value: value.update(rates=None),
    ],
)
def test_damage_is_said(measured: Roof, tmp_path: Path, damage: Any) -> None:
    value = measured.to_json()
    damage(value)
    (tmp_path / "roof.json").write_text(json.dumps(value))
    with pytest.raises(BadCheckpoint, match="is not the roofline that was expected"):
        kept_roof(tmp_path / "roof.json")


def test_half_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "roof.json").write_text("{")
    with pytest.raises(BadCheckpoint):
        kept_roof(tmp_path / "roof.json")


def test_caches_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    for text, size in (("32768K\n", 2**25), ("4M", 2**22), ("512", 512), ("", 0), ("many", 0)):
        (tmp_path / "size").write_text(text)
        assert module._cache_bytes(tmp_path / "size") == size
    assert module._cache_bytes(tmp_path / "gone") == 0
    assert module._stream_bytes() % 4 == 0


def test_no_time_is_no_measurement() -> None:
    with pytest.raises(UsageError, match="more than no time"):
        measure_roof(0)


def with_rates(roof: Roof, low: float = 0.95, high: float = 1.05, runs: int = 5) -> Roof:
    rates = {name: Rate(1, 1e9, low * 1e9, high * 1e9, runs) for name in roof.rates}
    return Roof(rates, roof.machine, roof.versions, roof.measured)


def test_a_roof_at_hand_is_measured_once(
    measured: Roof, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    found = [with_rates(measured)]
    monkeypatch.setattr(module, "measure_roof", lambda seconds: asked.append(seconds) or found[0])
    assert roof_here() == roof_here() == kept_roof() == found[0]
    assert asked == [module.GLANCE]
    roof_file().write_text("{}")
    assert roof_here() == found[0]
    assert len(asked) == 2
    roof_file().unlink()
    cache.joinpath("roofline").rmdir()
    cache.joinpath("roofline").write_text("")  # nothing can be kept
    assert roof_here() == found[0]
    assert len(asked) == 3


@pytest.mark.parametrize("wavering", [{"low": 0.8}, {"high": 1.2}, {"runs": 4}])
def test_a_machine_that_is_busy_is_not_kept(
    measured: Roof, monkeypatch: pytest.MonkeyPatch, wavering: dict[str, Any]
) -> None:
    found = [with_rates(measured, **wavering)]
    monkeypatch.setattr(module, "measure_roof", lambda _: found[0])
    assert roof_here() is None
    assert not roof_file().exists()
    found[0] = with_rates(measured)
    assert roof_here() == found[0]


def test_too_little_memory_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that is known before anything is taken."""
    monkeypatch.setattr(module, "free_memory", lambda: module.LEAST_FREE - 1)
    monkeypatch.setattr(module, "_grown", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(ResourceError, match="have to be free, not 1,073,741,823"):
        measure_roof(0.1)
    assert roof_here() is None
