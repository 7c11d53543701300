"""The cache of decoded pictures: the same bits, whoever is killed, whatever lies there, however full the disk is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.data import Augment, Batches, Data, Preprocessing, open_data
from convatlas.data import cache as module
from convatlas.data.cache import cached
from convatlas.errors import ResourceError, UsageError
from corpus import encoded, photo

PREPARE = Preprocessing((80, 80), "crop", 3)
WHAT = {"kind": "numbers"}


def numbers(pixels: np.ndarray) -> None:
    pixels[:] = np.arange(len(pixels)) % 251


def never(_: np.ndarray) -> None:
    pytest.fail("the cache was made again")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("photos")
    for i in range(20):
        path = root / "ab"[i % 2] / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photo(i, 260 + i, 200)))
    return open_data(root, val_share=0, test_share=0)


def pixels(data: Data, augment: Augment | None, **options: object) -> list[torch.Tensor]:
    batches = Batches(
        data.train,
        PREPARE,
        batch_size=6,
        augment=augment,
        shuffle=True,
        drop_last=False,
        **options,  # type: ignore[arg-type]
    )
    found = [batch.images for epoch in (0, 1) for batch in batches.epoch(epoch)]
    batches.close()
    return found


@pytest.mark.parametrize("crop", ["none", "shift", "evaluation"])
def test_fitted_pictures_are_the_same_bits(data: Data, tmp_path: Path, crop: str) -> None:
    augment = None if crop == "evaluation" else Augment(crop=crop, flip=True)  # type: ignore[arg-type]
    expected = pixels(data, augment)
    for workers in (2, 0):
        for a, b in zip(expected, pixels(data, augment, cache=tmp_path, workers=workers), strict=True):
            assert torch.equal(a, b)


def test_random_parts_are_the_same_bits_where_pictures_need_not_shrink(data: Data, tmp_path: Path) -> None:
    augment = Augment(
        crop="resized", resized_scale=(0.1, 0.2), flip=True
    )  # small parts: 160 px are kept, of 200
    small = Augment(crop="resized", resized_scale=(0.9, 1.0))
    prepare = Preprocessing((180, 180), "crop", 3)  # 220 px are kept: these pictures stay whole

    def batches(**options: object) -> list[torch.Tensor]:
        made = Batches(
            data.train, prepare, batch_size=6, augment=small, shuffle=True, drop_last=False, **options
        )  # type: ignore[arg-type]
        found = [batch.images for batch in made.epoch(3)]
        made.close()
        return found

    for a, b in zip(batches(), batches(cache=tmp_path, workers=2), strict=True):
        assert torch.equal(a, b)
    near = zip(pixels(data, augment), pixels(data, augment, cache=tmp_path), strict=True)
    assert max(float((255 * (a - b)).abs().mean()) for a, b in near) < 4


def test_a_second_run_reads_no_picture(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for augment in (None, Augment(crop="resized")):
        for _ in range(2):
            made = Batches(
                data.train,
                PREPARE,
                batch_size=6,
                augment=augment,
                shuffle=True,
                drop_last=False,
                cache=tmp_path,
            )
            made.prepare(told.append)
            made.close()
    assert [line.split(" bytes")[0] for line in told] == ["cache: 384,000", f"cache: {_shrunk_bytes(data):,}"]
    monkeypatch.setattr(type(data.train), "scaled", lambda *_: pytest.fail("a picture was read"))
    assert len(pixels(data, None, cache=tmp_path)) == 8
    assert len(pixels(data, Augment(crop="resized"), cache=tmp_path)) == 8


def _shrunk_bytes(data: Data) -> int:
    from convatlas.data.reader import Shrunk
    from convatlas.data.store import kept_side

    return int(Shrunk(data.train, kept_side(PREPARE.size, Augment(crop="resized"))).bytes.sum())


def test_other_data_and_another_geometry_have_another_cache(data: Data, tmp_path: Path) -> None:
    def names(made: Batches) -> set[str]:
        made.prepare()
        made.close()
        return {path.name for path in tmp_path.glob("*.pixels")}

    def batches(split: object, prepare: Preprocessing) -> Batches:
        return Batches(split, prepare, batch_size=4, shuffle=False, drop_last=False, cache=tmp_path)  # type: ignore[arg-type]

    first = names(batches(data.train, PREPARE))
    assert names(batches(data.train, Preprocessing((80, 80), "crop", 3, (0.5,) * 3, (0.2,) * 3))) == first
    second = names(batches(data.train, Preprocessing((80, 80), "squash", 3)))
    assert len(second) == 2
    assert len(names(batches(data.train.subset(range(5, 15)), PREPARE))) == 3


def test_what_open_data_did_not_give_cannot_be_cached(tmp_path: Path) -> None:
    class Other:
        keys, labels, ids = ["a"], np.zeros(1, np.int64), np.zeros(1, np.int64)

        def __len__(self) -> int:
            return 1

        def image(self, i: int, /) -> np.ndarray:
            return np.zeros((9, 9, 3), np.uint8)

    made = Batches(Other(), PREPARE, batch_size=1, shuffle=False, drop_last=False, cache=tmp_path)
    with pytest.raises(UsageError, match="open_data"):
        made.prepare()


# ---- the file ----------------------------------------------------------------------------------------------


def test_bytes_come_back(tmp_path: Path) -> None:
    told: list[str] = []
    first = cached(tmp_path, WHAT, 10_000, numbers, told.append)
    again = cached(tmp_path, WHAT, 10_000, never, told.append)
    assert np.array_equal(first, again)
    assert np.array_equal(again, np.arange(10_000) % 251)
    again[:] = 0  # a caller's own copy
    assert np.array_equal(cached(tmp_path, WHAT, 10_000, never, told.append), first)
    assert len(told) == 1
    assert "10,000 bytes" in told[0]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path.with_suffix(".pixels"), 9_999),
    "longer": lambda path: os.truncate(path.with_suffix(".pixels"), 10_001),
    "zeroed": lambda path: path.with_suffix(".pixels").write_bytes(bytes(10_000)),
    "gone": lambda path: path.with_suffix(".pixels").unlink(),
    "no description": lambda path: path.unlink(),
    "no JSON": lambda path: path.write_text("{"),
    "other JSON": lambda path: path.write_text("[1]"),
    "another's": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "what": {}})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_not_whole_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    cached(tmp_path, WHAT, 10_000, numbers, print)
    damage(next(tmp_path.glob("*.json")))
    made: list[int] = []

    def fill(pixels: np.ndarray) -> None:
        made.append(1)
        numbers(pixels)

    again = cached(tmp_path, WHAT, 10_000, fill, print)
    assert made == [1]
    assert np.array_equal(again, np.arange(10_000) % 251)


def test_other_rules_or_another_pillow_are_another_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path, WHAT, 100, numbers, print)
    for name, value in (("RULES", 2), ("pillow_version", "0.1")):
        monkeypatch.setattr(module, name, value)
        cached(tmp_path, WHAT, 100, numbers, print)
    assert len(list(tmp_path.glob("*.pixels"))) == 3


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def broken(pixels: np.ndarray) -> None:
        pixels[:50] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, WHAT, 100, broken, print)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}
    assert np.array_equal(cached(tmp_path, WHAT, 100, numbers, print), np.arange(100))


def test_a_full_disk_is_told_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ResourceError, match=r"1,000,000,000,000,000 bytes.*No space left.*bytes are free.*--cache"
    ):
        cached(tmp_path, WHAT, 10**15, never, print)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"100 bytes.*No space left"):
        cached(tmp_path, WHAT, 100, never, print)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a file of that name is in the way"):
        cached(tmp_path / "file", WHAT, 100, never, print)


CHILD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import numpy as np
    from convatlas.data.cache import cached

    def fill(pixels):
        print("filling", flush=True)
        for i in range(len(pixels)):
            pixels[i] = i % 251
            time.sleep(float(sys.argv[2]))

    found = cached(Path(sys.argv[1]), {"kind": "numbers"}, 1000, fill, lambda line: print(line, flush=True))
    print("sum", int(found.sum()), flush=True)
    """
)


def child(folder: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(pause)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(120)
def test_kill_9_in_the_middle_leaves_no_half_cache(tmp_path: Path) -> None:
    for wait in (0.05, 0.3):
        process = child(tmp_path, 0.01)
        assert process.stdout is not None
        while process.stdout.readline().strip() != "filling":
            pass
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert list(tmp_path.glob("*.tmp-*"))
        assert not list(tmp_path.glob("*.json"))
    again = cached(tmp_path, WHAT, 1000, numbers, print)
    assert np.array_equal(again, np.arange(1000) % 251)
    assert not list(tmp_path.glob("*.tmp-*"))  # what the killed ones left is gone


@pytest.mark.timeout(120)
def test_two_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    first = child(tmp_path, 0.003)
    assert first.stdout is not None
    while first.stdout.readline().strip() != "filling":
        pass
    second = child(tmp_path, 0)
    outputs = [process.communicate(timeout=100)[0] for process in (first, second)]
    total = int((np.arange(1000) % 251).sum())
    assert f"sum {total}" in outputs[0]
    assert f"sum {total}" in outputs[1]
    assert "waiting for it" in outputs[1]
    assert "filling" not in outputs[1]


@pytest.mark.timeout(120)
def test_who_waits_for_a_killed_one_makes_it(tmp_path: Path) -> None:
    first = child(tmp_path, 1.0)
    assert first.stdout is not None
    while first.stdout.readline().strip() != "filling":
        pass
    told: list[str] = []

    def kill() -> None:
        while not told:
            time.sleep(0.01)
        first.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    found = cached(tmp_path, WHAT, 1000, numbers, told.append)
    thread.join()
    first.communicate()
    assert np.array_equal(found, np.arange(1000) % 251)
    assert "waiting" in told[0]
    assert multiprocessing.active_children() == []
