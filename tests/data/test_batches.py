"""Batches: the order's laws, and the same bits by every path; what dies is told, and nothing outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convatlas.data import batches as module
from convatlas.data.augment import Augment
from convatlas.data.batch import Batch
from convatlas.data.batches import Batches
from convatlas.data.transforms import Preprocessing
from convatlas.errors import BadImage, DataError, ResourceError, UsageError

SMALL = Preprocessing((12, 10), "squash", 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
LARGE = Preprocessing((70, 66), "squash", 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
EVERYTHING = Augment(crop="shift", flip=True, trivial=True, erasing=0.3, mixup=0.2, cutmix=1.0)


class Pictures:
    """A split in memory; `broken` positions raise `error`, `hook` is called before each reading."""

    def __init__(self, count: int, side: int = 20, channels: int = 3, classes: int = 3) -> None:
        random = np.random.default_rng(count)
        self.images = [
            random.integers(0, 256, (side + i % 5, side + i % 3, channels), dtype=np.uint8)
            for i in range(count)
        ]
        self.keys = [f"photo-{i}.jpg" for i in range(count)]
        self.labels = random.integers(0, classes, count)
        self.ids = np.arange(count) * 2 + 11
        self.broken: dict[int, Exception] = {}
        self.stuck: set[int] = set()
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int, /) -> np.ndarray:
        self.reads += 1
        if i in self.broken:
            raise self.broken[i]
        if i in self.stuck:
            time.sleep(600)
        return self.images[i]


def make(split: Pictures, preprocessing: Preprocessing = SMALL, **options: object) -> Batches:
    settings: dict[str, object] = {"batch_size": 8, "shuffle": True, "drop_last": True}
    return Batches(split, preprocessing, **(settings | options))  # type: ignore[arg-type]


def bits(batches: Iterator[Batch]) -> list[tuple[bytes, ...]]:
    """Every tensor of every batch, to compare."""
    return [
        tuple(
            b"" if tensor is None else tensor.contiguous().numpy().tobytes()
            for tensor in (batch.images, batch.labels, batch.ids, batch.other, batch.weight)
        )
        for batch in batches
    ]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a worker or a file descriptor behind."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    import gc

    gc.collect()
    assert multiprocessing.active_children() == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# ---- order --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 20), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1000)
)
def test_an_epoch_holds_every_sample_once(
    count: int, batch_size: int, shuffle: bool, drop_last: bool, balance: bool, seed: int
) -> None:
    split = Pictures(count, side=2)
    batches = make(
        split, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, balance=balance, seed=seed
    )
    order = batches.order(3)
    assert order.shape == (len(batches), batch_size)
    flat = order[order >= 0]
    if drop_last and count >= batch_size:
        assert len(batches) == count // batch_size
        assert (order >= 0).all()
    else:
        assert len(batches) == -(-count // batch_size)
        assert len(flat) == count
    assert (order.reshape(-1)[: len(flat)] >= 0).all()  # only the last batch is short
    if not balance:
        assert len(set(flat.tolist())) == len(flat)
        if not shuffle:
            assert flat.tolist() == list(range(len(flat)))
    np.testing.assert_array_equal(order, batches.order(3))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    split = Pictures(64, side=2)
    orders = [make(split, seed=seed).order(epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({str(order) for order in orders}) == 9
    assert make(split, workers=2, augment=EVERYTHING).order(0).tolist() == orders[0]


def test_balance_makes_classes_equally_frequent() -> None:
    split = Pictures(100, side=2)
    split.labels = np.array([0] * 80 + [1] * 15 + [2] * 5)
    batches = make(split, batch_size=10, balance=True)
    orders = [batches.order(epoch).reshape(-1) for epoch in range(3)]
    for order in orders:
        counts = np.bincount(split.labels[order])
        assert sorted(counts.tolist()) == [33, 33, 34]
        for label in range(3):  # none twice before all once
            members = order[split.labels[order] == label]
            often = np.bincount(members, minlength=100)[split.labels == label]
            assert often.max() - often.min() <= 1
    assert not (orders[0] == orders[1]).all()
    halves = split.labels[orders[0]][:50]
    assert all(8 < (halves == label).sum() < 26 for label in range(3))  # mixed, not one class after another


def test_ranks_share_each_batch() -> None:
    split = Pictures(37)
    whole = make(split, batch_size=12, drop_last=False, augment=Augment(flip=True, trivial=True))
    parts = [
        make(split, batch_size=12, drop_last=False, augment=whole.augment, rank=rank, world=3)
        for rank in range(3)
    ]
    assert [len(part) for part in parts] == [len(whole)] * 3
    for batch, *shares in zip(whole.epoch(2), *(part.epoch(2) for part in parts), strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.ids, batch.ids[rank::3])
            assert torch.equal(share.images, batch.images[rank::3])
    assert [len(share) for share in shares] == [1, 0, 0]  # the 37th sample


# ---- the same bits by every path ----------------------------------------------------------------------------


def test_batches_hold_the_split() -> None:
    split = Pictures(20)
    for batch in make(split, drop_last=False, augment=None).epoch(1):
        positions = (batch.ids.numpy() - 11) // 2
        np.testing.assert_array_equal(batch.labels.numpy(), split.labels[positions])
        fitted = torch.stack([SMALL.fit(split.images[i]) for i in positions])
        assert torch.equal(batch.images, SMALL.normalise(fitted))
        assert batch.images.dtype == torch.float32
        assert batch.labels.dtype == batch.ids.dtype == torch.int64
        assert batch.other is None
        assert batch.weight is None


@pytest.mark.parametrize("preprocessing", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("crop", ["shift", "resized", "scale-jitter"])
def test_workers_and_resumption_change_nothing(preprocessing: Preprocessing, crop: str) -> None:
    augment = Augment(
        crop=crop,
        flip=True,
        trivial=True,
        erasing=0.3,
        mixup=0.2,
        cutmix=1.0,
        sides=((1, 11),),  # type: ignore[arg-type]
    )
    expected = bits(make(Pictures(28, 80), preprocessing, augment=augment).epoch(1))
    assert len(set(expected)) == 3
    for workers in (1, 3):
        batches = make(Pictures(28, 80), preprocessing, augment=augment, workers=workers)
        assert bits(batches.epoch(1)) == expected
        assert bits(batches.epoch(1, start=2)) == expected[2:]
        assert bits(batches.epoch(1, start=3)) == []
        assert bits(batches.epoch(0)) != expected
        batches.close()


def test_pictures_are_augmented_where_they_are_read() -> None:
    class Signed(Augment):
        def __call__(self, images: torch.Tensor, *_: object) -> torch.Tensor:
            return torch.full_like(images, os.getpid() % 251)

    batches = make(Pictures(50, 80), LARGE, augment=Signed(), workers=2)
    seen = {int(LARGE.restore(batch.images).unique()) for batch in batches.epoch(0)}
    assert batches._pool is not None
    assert seen == {pid % 251 for pid in batches._pool.pids}
    batches.close()


@pytest.mark.parametrize("preprocessing", [SMALL, LARGE], ids=["small", "large"])
def test_batches_that_a_caller_keeps_stay_what_they_were(preprocessing: Preprocessing) -> None:
    """Memory is used again, but only that of batches, and of views into them, which nobody has any more."""
    batches = make(Pictures(60, 80), preprocessing, augment=Augment(flip=True), workers=2)
    expected = bits(batches.epoch(0))  # each is forgotten before the next
    kept = list(batches.epoch(0))
    first_rows = [batch.images[:1] for batch in batches.epoch(0)]  # a view alone keeps the memory
    assert len(
        {batch.images.data_ptr() for batch in kept} | {row.data_ptr() for row in first_rows}
    ) == 2 * len(kept)
    list(batches.epoch(1))
    assert bits(iter(kept)) == expected
    for batch, row in zip(kept, first_rows, strict=True):
        assert torch.equal(row, batch.images[:1])
    batches.close()
    assert bits(iter(kept)) == expected


def test_large_random_parts_are_cut_from_the_full_picture() -> None:
    full, kept = Pictures(20, 100), Pictures(20, 40)
    augment = Augment(crop="resized")
    assert not make(full, augment=augment).cached  # 100 px, of which 12 would be kept
    assert make(kept, augment=augment).cached
    assert make(full, augment=Augment(crop="shift")).cached
    assert not make(kept, LARGE, augment=augment).cached


def test_small_random_parts_have_the_same_boxes() -> None:
    """The store cuts by one warp what a worker would cut: nearly the same pixels, but for the outermost.

    There the warp sees what lies beyond the part, and a worker's filter does not.
    """
    random = np.random.default_rng(0)
    split = Pictures(24, 32)
    smooth = [np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))) for _ in range(24)]
    split.images = [image.astype(np.uint8) for image in smooth]
    prepare = Preprocessing((32, 32), "squash", 3)
    stored = make(split, prepare, augment=Augment(crop="resized"), drop_last=False)
    read = make(split, prepare, augment=Augment(crop="resized"), drop_last=False)
    read.cached = False
    for a, b in zip(stored.epoch(0), read.epoch(0), strict=True):
        assert (255 * (a.images - b.images)[..., 1:-1, 1:-1]).abs().max() <= 2
    assert stored.cached


def test_a_kept_picture_is_read_once() -> None:
    split = Pictures(30)
    batches = make(split, augment=EVERYTHING)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert split.reads == 30


def test_the_memory_mapped_store_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = bits(make(Pictures(40), augment=EVERYTHING).epoch(0))
    monkeypatch.setattr(module, "free_memory", lambda: 4 * 40 * 12 * 10 * 3 - 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for workers in (0, 2):
        batches = make(Pictures(40), augment=EVERYTHING, workers=workers)
        assert not batches.in_memory
        assert batches.cached
        assert bits(batches.epoch(0)) == expected
        assert list(tmp_path.iterdir()) == []  # the file has no name: nothing to clean up after a crash
        batches.close()


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "free_memory", lambda: 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ResourceError, match=r"14,400 bytes.*No space left.*TMPDIR"):
        list(make(Pictures(40)).epoch(0))


def test_free_memory_is_a_sane_number() -> None:
    assert 10e6 < module.free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_format() -> None:
    for channels, wanted, expected in ((3, True, True), (3, False, False), (1, True, False)):
        prepare = Preprocessing((12, 10), "squash", channels)
        batch = next(make(Pictures(9, channels=channels), prepare, channels_last=wanted).epoch(0))
        assert batch.images.is_contiguous(memory_format=torch.channels_last) == (expected or channels == 1)
        assert batch.images.is_contiguous() == (not expected)


def test_a_batch_moves_as_a_whole() -> None:
    batch = next(make(Pictures(9), augment=Augment(mixup=1.0)).epoch(0)).to("meta")
    tensors = (batch.images, batch.labels, batch.ids, batch.other, batch.weight)
    assert all(tensor is not None and tensor.is_meta for tensor in tensors)
    assert len(batch) == 8


def test_an_iteration_given_up_leaves_nothing_for_the_next() -> None:
    expected = bits(make(Pictures(50, 80), LARGE).epoch(2))
    batches = make(Pictures(50, 80), LARGE, workers=2)
    abandoned = batches.epoch(1)
    next(abandoned)
    assert bits(batches.epoch(2)) == expected
    batches.close()


def test_workers_stay_between_epochs() -> None:
    batches = make(Pictures(50, 80), LARGE, workers=2)
    list(batches.epoch(0))
    first = batches._pool.pids  # type: ignore[union-attr]
    list(batches.epoch(1))
    assert len(first) == 2
    assert batches._pool.pids == first  # type: ignore[union-attr]
    batches.close()


def test_batches_can_be_used_in_a_thread() -> None:
    expected = bits(make(Pictures(50, 80), LARGE).epoch(0))
    results: list[object] = []

    def work() -> None:
        batches = make(Pictures(50, 80), LARGE, workers=2)
        results.append(bits(batches.epoch(0)))
        batches.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [expected]


def test_an_empty_split_has_no_batches() -> None:
    for workers in (0, 2):
        batches = make(Pictures(0), workers=workers)
        assert len(batches) == 0
        assert list(batches.epoch(0)) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 10, "world": 4}, "8 or 12"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"workers": -1}, "-1 workers"),
    ],
)
def test_nonsense_is_a_usage_error(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make(Pictures(10), **options)


def test_a_step_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="step 7"):
        list(make(Pictures(50)).epoch(0, start=7))


# ---- what breaks is told, at once and by name ---------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("preprocessing", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "error", [BadImage("the file ends too early"), FileNotFoundError(2, "No such file"), KeyError("gone")]
)
def test_a_picture_that_cannot_be_read_any_more(
    preprocessing: Preprocessing, workers: int, error: Exception
) -> None:
    split = Pictures(50, 80)
    split.broken[33] = error
    batches = make(split, preprocessing, workers=workers, drop_last=False)
    with pytest.raises(DataError, match=r"photo-33\.jpg could be read when the data were opened"):
        list(batches.epoch(0))
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
def test_a_fault_in_a_worker_is_told_too() -> None:
    split = Pictures(50, 80)
    split.broken[33] = ZeroDivisionError("by accident")
    with pytest.raises(DataError, match="ZeroDivisionError: by accident"):
        list(make(split, LARGE, workers=2).epoch(0))


@pytest.mark.reliability
@pytest.mark.timeout(60)
@pytest.mark.parametrize("preprocessing", [SMALL, LARGE], ids=["small", "large"])
def test_a_killed_worker_is_an_error_with_the_files_name(preprocessing: Preprocessing) -> None:
    split = Pictures(50, 80)
    split.stuck.add(33)
    batches = make(split, preprocessing, workers=2, shuffle=False)

    def children() -> set[int]:
        listed = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        return {int(pid) for pids in listed for pid in pids}

    others = children()  # of other tests of this session

    def kill() -> None:
        while len(children() - others) < 2:
            time.sleep(0.01)
        time.sleep(1.0)  # by then one sleeps over photo 33, the other waits for work
        for pid in children() - others:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DataError, match=r"killed by SIGKILL while it read photo-33\.jpg"):
        list(batches.epoch(0))
    thread.join()
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
def test_workers_leave_signals_to_their_parent() -> None:
    batches = make(Pictures(200, 80), LARGE, workers=2)
    epoch = batches.epoch(0)
    next(epoch)
    for pid in batches._pool.pids:  # type: ignore[union-attr]
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert len(list(epoch)) == 24
    batches.close()


def test_the_parents_signal_mask_comes_back() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    batches = make(Pictures(20, 80), LARGE, workers=1)
    list(batches.epoch(0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    batches.close()


PARENT = textwrap.dedent(
    """
    import sys, time
    import numpy as np
    from convatlas.data.batches import Batches
    from convatlas.data.transforms import Preprocessing

    class Slow:
        keys, labels, ids = list("abcdefgh"), np.zeros(8, dtype=np.int64), np.arange(8)
        def __len__(self): return 8
        def image(self, i, /):
            if i > 3:
                time.sleep(float(sys.argv[1]))
            return np.zeros((80, 80, 3), dtype=np.uint8)

    prepare = Preprocessing((70, 70), "squash", 3)
    batches = Batches(Slow(), prepare, batch_size=2, shuffle=False, drop_last=True, workers=3)
    epoch = batches.epoch(0)
    next(epoch)
    print(*batches._pool.pids, flush=True)
    if sys.argv[2] == "exit":
        sys.exit(0)
    list(epoch)
    """
)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.reliability
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill -9", "exit"])
@pytest.mark.parametrize("busy_seconds", [300, 0])
def test_no_worker_outlives_its_parent(how: str, busy_seconds: int) -> None:
    """Also workers in the middle of a picture: the parent is killed, or leaves without closing."""
    if how == "kill -9" and busy_seconds == 0:
        busy_seconds = 1
    command = [sys.executable, "-c", PARENT, str(busy_seconds), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        if how == "kill -9":
            assert all(alive(pid) for pid in pids)
            parent.kill()
        assert parent.wait(timeout=30) == (-9 if how == "kill -9" else 0)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
