"""Data of which each machine has a part: what is known of the rest, who reads what, and what a step is made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from convatlas.data import Batches, Data, Preprocessing, open_data
from convatlas.data.sharding import write_shards
from convatlas.data.shares import homes, share_out, taken, whole_steps
from convatlas.errors import BadCheckpoint, BadImage, DataError, UsageError
from corpus import encoded, photo

IMAGES = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of train and one of val, each with its index."""
    root = tmp_path_factory.mktemp("parts")
    for i in range(IMAGES + 8):
        path = root / "photos" / ("val" if i >= IMAGES else "train") / "ab"[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(i, 90 + i, 80)))
    write_shards(root / "photos", root / "shards", size=25_000)
    open_data(root / "shards", workers=0)  # makes the indexes
    return root / "shards"


def shards_of(whole: Path) -> list[str]:
    return sorted(path.name for path in whole.glob("train-*.tar"))


def machine(whole: Path, folder: Path, lacks: list[str]) -> Path:
    """The folder as another machine has it: all indexes, and not these shards."""
    shutil.copytree(whole, folder)  # with their times
    for name in lacks:
        (folder / name).unlink()
    return folder


def both(whole: Path, folder: Path) -> list[Data]:
    """Two machines: one has every other shard of train, the other the rest and the first."""
    names = shards_of(whole)
    assert len(names) > 4
    lacking = [names[1::2], names[2::2]]
    return [
        open_data(machine(whole, folder / f"{i}", lacks), workers=0, apart=True)
        for i, lacks in enumerate(lacking)
    ]


def test_all_is_known_of_shards_that_are_elsewhere(whole: Path, tmp_path: Path) -> None:
    every, (one, other) = open_data(whole, workers=0), both(whole, tmp_path)
    assert one.fingerprint == other.fingerprint == every.fingerprint
    assert one.train.keys == every.train.keys
    assert np.array_equal(one.train.sizes, every.train.sizes)
    assert np.array_equal(one.train.parts(), every.train.parts())
    assert every.train.here() is every.train
    assert one.train.absent
    assert not every.train.absent
    assert set(one.train.here().keys) | set(other.train.here().keys) == set(every.train.keys)
    assert set(one.train.here().keys) & set(other.train.here().keys)  # the first shard
    for i, key in enumerate(one.train.keys):
        if key in one.here().train.keys:
            assert np.array_equal(one.train.image(i), every.train.image(i))
        else:
            with pytest.raises(BadImage, match="No such file"):
                one.train.image(i)


def test_one_machine_needs_all_shards(whole: Path, tmp_path: Path) -> None:
    name = shards_of(whole)[1]
    folder = machine(whole, tmp_path / "one", [name])
    told = rf"1 of \d+ shards is missing: .*{name}\. 1 index is here: only a training on several machines"
    with pytest.raises(DataError, match=told):
        open_data(folder, workers=0)
    (folder / f"{name}.index").unlink()  # the shard is to be left out
    assert len(open_data(folder, workers=0).train) < IMAGES


@pytest.mark.parametrize("spoilt", [b"", b"not an index"])
def test_what_is_elsewhere_needs_its_index(whole: Path, tmp_path: Path, spoilt: bytes) -> None:
    name = shards_of(whole)[0]
    folder = machine(whole, tmp_path / "one", [name])
    (folder / f"{name}.index").write_bytes(spoilt)
    with pytest.raises(DataError, match=rf"{name}\. What lies on another machine needs its index here"):
        open_data(folder, workers=0, apart=True)


def test_an_index_made_before_all_was_seen_is_none(whole: Path, tmp_path: Path) -> None:
    from convatlas.data.sources.index import Index

    folder = machine(whole, tmp_path / "one", [])
    path = folder / shards_of(whole)[0]
    index = Index.read(str(path))
    assert index is not None
    assert index.whole
    index.seen.popitem()
    index.write()
    path.unlink()
    with pytest.raises(DataError, match="needs its index here"):
        open_data(folder, workers=0, apart=True)


def test_every_machine_needs_val(whole: Path, tmp_path: Path) -> None:
    folder = machine(whole, tmp_path / "one", ["val-0000.tar"])
    with pytest.raises(DataError, match="images of val are on other machines alone"):
        open_data(folder, workers=0, apart=True)


# ---- who reads what ----------------------------------------------------------------------------------------


def test_shares_are_even_and_read_where_they_lie() -> None:
    random = np.random.default_rng(0)
    for _ in range(80):
        machines = int(random.integers(1, 5))
        count = int(random.integers(machines, 30))
        parts = random.permutation(np.repeat(np.arange(count), random.integers(1, 9, count)))
        held = random.random((machines, count)) < 0.5
        held[random.integers(0, machines, count), np.arange(count)] = True
        held[:, :machines] = np.eye(machines, dtype=bool)  # each has one of its own
        absent = [set(np.flatnonzero(~row).tolist()) for row in held]
        shares = share_out(parts, absent)
        assert sorted(part for share in shares for part in share) == list(range(count))
        assert all(held[machine, part] for machine, share in enumerate(shares) for part in share)
        assert taken(shares, absent) == list(range(machines))
        order = random.permutation(machines)
        renumbered = [absent[machine] for machine in order]
        chosen = taken(shares, renumbered)
        assert chosen is not None
        assert sorted(chosen) == list(range(machines))
        assert not any(set(shares[s]) & renumbered[m] for m, s in enumerate(chosen))
    alike = share_out(np.repeat(np.arange(12), 5), [{99}, {99}, {99}])  # all hold all twelve
    assert [len(share) for share in alike] == [4, 4, 4]


def test_a_machine_with_nothing_to_itself() -> None:
    with pytest.raises(DataError, match=r"machine 1 of 2 has no part .* to itself: there are 2 parts"):
        share_out(np.array([0, 1]), [set(), {0, 1}])


def test_a_part_that_no_machine_has() -> None:
    with pytest.raises(DataError, match=r"1 of 3 parts .* none of the 2 machines; the first is number 2"):
        share_out(np.array([0, 1, 2]), [{1, 2}, {0, 2}])


def test_other_machines_than_before() -> None:
    for absent in ([{1}, {1}], [{1}], [{0}, {1}, set()]):
        with pytest.raises(
            BadCheckpoint, match=rf"2 machines, and the {len(absent)} that there are now do not hold"
        ):
            taken([[0], [1]], absent)
    assert taken([[0], [1]], [set(), set(), set()]) is None  # any of them can read anything
    with pytest.raises(BadCheckpoint, match="other shards than these data have"):
        homes(np.array([0, 1, 2]), [[0], [1]])


# ---- steps -------------------------------------------------------------------------------------------------


def batches(data: Data, rank: int, world: int, shares: list[list[int]], **wishes: object) -> Batches:
    settings = {"batch_size": 8, "shuffle": True, "drop_last": True, "workers": 0, "seed": 3} | wishes
    return Batches(
        data.train,
        Preprocessing((70, 70), "crop", data.channels),
        rank=rank,
        world=world,
        homes=homes(data.train.parts(), shares),
        **settings,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("wishes", [{}, {"balance": True}, {"workers": 2}])
@pytest.mark.parametrize("local", [1, 2])
def test_each_reads_its_share_and_all_make_a_batch(
    whole: Path, tmp_path: Path, local: int, wishes: dict[str, object]
) -> None:
    machines, every = both(whole, tmp_path), open_data(whole, workers=0)
    shares = share_out(every.train.parts(), [machine.train.absent for machine in machines])
    world, home = 2 * local, homes(every.train.parts(), shares)
    ranks = [batches(machines[rank % 2], rank, world, shares, **wishes) for rank in range(world)]
    alone = [
        batches(every, rank, world, shares, **wishes) for rank in range(world)
    ]  # who has all reads the same
    least = min(np.bincount(home).tolist())
    assert [each.steps for each in ranks] == [least // 4] * world
    for epoch in (0, 1):
        table = ranks[0].order(epoch)
        assert table.shape == (least // 4, 8)
        assert ("balance" in wishes) or len(np.unique(table)) == table.size
        for rank, (own, same) in enumerate(zip(ranks, alone, strict=True)):
            assert np.array_equal(own.order(epoch), table)
            for step, (batch, twin) in enumerate(
                zip(own.epoch(epoch, 1), same.epoch(epoch, 1), strict=True), 1
            ):
                rows = table[step, rank::world]
                assert batch.ids.tolist() == twin.ids.tolist() == every.train.ids[rows].tolist()
                assert batch.labels.tolist() == every.train.labels[rows].tolist()
                assert set(home[rows].tolist()) == {rank % 2}
                assert batch.images.equal(twin.images)
    whole_batches = batches(every, 0, 1, shares, **wishes)  # a single process that has everything
    for step, batch in enumerate(whole_batches.epoch(1)):
        assert batch.ids.tolist() == every.train.ids[ranks[0].order(1)[step]].tolist()
    whole_batches.close()
    assert not np.array_equal(ranks[0].order(0), ranks[0].order(1))
    for each in (*ranks, *alone):
        each.close()


def test_pictures_that_are_kept_are_those_of_the_share(whole: Path, tmp_path: Path) -> None:
    (one, _), every = both(whole, tmp_path), open_data(whole, workers=0)
    shares = share_out(every.train.parts(), [one.train.absent, frozenset()])
    settings = {"batch_size": 4, "shuffle": True, "drop_last": True}
    small, home = Preprocessing((16, 16), "crop", 3), homes(every.train.parts(), shares)
    kept = Batches(one.train, small, rank=0, world=2, homes=home, **settings)  # pyright: ignore[reportArgumentType]
    plain = Batches(every.train, small, **settings)  # pyright: ignore[reportArgumentType]
    assert kept.cached
    pixels = {
        int(i): image for batch in plain.epoch(0) for i, image in zip(batch.ids, batch.images, strict=True)
    }
    for batch in kept.epoch(0):
        for i, image in zip(batch.ids, batch.images, strict=True):
            assert image.equal(pixels[int(i)])
    kept.close()
    plain.close()


def test_a_share_that_is_too_small(whole: Path) -> None:
    data = open_data(whole, workers=0)
    parts = np.unique(data.train.parts()).tolist()
    shares = [parts[:1], parts[1:]]
    with pytest.raises(
        UsageError, match=r"a machine has \d+ training images to itself, and each gives 16 to a batch"
    ):
        batches(data, 0, 2, shares, batch_size=32)
    with pytest.raises(
        UsageError, match="a batch of 9 cannot be taken equally from 2 machines; use --batch-size 8"
    ):
        whole_steps(homes(data.train.parts(), shares), 2, 9)
