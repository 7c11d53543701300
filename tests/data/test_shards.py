"""Shards: the same batches as from a folder, at every step and for every rank; an index made once; hostile tars."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.data import Augment, Batches, Data, Preprocessing, open_data
from convatlas.data import sharding as writing
from convatlas.data.batch import Batch
from convatlas.data.sharding import write_shards
from convatlas.data.sources import open_source
from convatlas.data.sources import shards as module
from convatlas.data.sources.index import Index
from convatlas.data.sources.shards import Shards, expand
from convatlas.errors import DataError, ResourceError, UsageError
from corpus import encoded, photo

PICTURE = encoded(photo(0, 40, 30))
Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "of the user"))


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for i in range(start, start + count):
        found += [(f"{i:05d}.jpg", encoded(photo(i, 40, 30))), (f"{i:05d}.cls", str(i % 3).encode())]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val of three classes, with names that are not easy."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for i in range(36):
        path = (
            root / ("val" if i % 6 == 0 else "train") / ("ant", "bee", "caf\xe9")[i % 3] / f"{i}.v2 \\x.jpg"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(i, 90 + i, 80)))
    return root


@pytest.fixture(scope="module")
def sharded(folder: Path) -> Path:
    out = folder.parent / "shards"
    write_shards(folder, out, size=30_000)
    return out


# ---- names -------------------------------------------------------------------------------------------------


def test_braces() -> None:
    assert expand("a.tar") == ["a.tar"]
    assert expand("/d/{0007..0011}.tar") == [f"/d/{i:04d}.tar" for i in range(7, 12)]
    assert expand("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand("{,x}-{10..10}") == ["-10", "x-10"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{0..999999}.tar", "more than 100,000"),
        ("{0..999}{0..999}.tar", "more than 100,000"),
        ("{3..1}.tar", "neither a range"),
        ("{a..b}.tar", "neither a range"),
        ("{}.tar", "neither a range"),
        ("{0..99999999999999999999}.tar", "neither a range"),
        ("{a,{b,c}}.tar", "in one another"),
        ("{a,b}}.tar", "must be closed"),
    ],
)
def test_braces_that_make_no_sense(pattern: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        expand(pattern)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", samples(3))
    with pytest.raises(DataError, match=r"2 of 3 shards are missing: .*1\.tar, .*2\.tar"):
        open_data(str(tmp_path / "{0..2}.tar"))


def test_a_file_with_braces_in_its_name_is_that_file(tmp_path: Path) -> None:
    tar(tmp_path / "{0..2}.tar", samples(6))
    assert len(open_data(tmp_path / "{0..2}.tar", val_share=0, test_share=0).train) == 6


# ---- what a shard holds ------------------------------------------------------------------------------------


def test_a_pattern_a_folder_and_a_single_shard(tmp_path: Path) -> None:
    for i in range(3):
        tar(tmp_path / "in" / f"{i}.tar", samples(4, 4 * i))
    for where, count in ((tmp_path / "in", 12), (tmp_path / "in/{0..2}.tar", 12), (tmp_path / "in/1.tar", 4)):
        data = open_data(where, val_share=0, test_share=0)
        assert (data.kind, len(data.train), data.classes) == ("shards", count, ("0", "1", "2"))
    data = open_data(tmp_path / "in", val_share=0, test_share=0)
    for i in range(12):
        assert data.train.keys[i] == f"{i // 4}/{i:05d}.jpg"
        assert data.train.labels[i] == i % 3
        assert np.array_equal(data.train.image(i), np.asarray(_decoded(i)))


def _decoded(i: int) -> np.ndarray:
    from convatlas.data import decode

    return decode(encoded(photo(i, 40, 30)))


def test_a_tar_of_class_folders_is_still_one(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "x.tar", [(f"{name}/{i}.jpg", encoded(photo(i))) for name in "ab" for i in range(2)]
    )
    assert open_data(path, on_bad="error").kind == "tar"


def test_json_names_the_sample(tmp_path: Path) -> None:
    told = {"label": "cat", "key": "cat/tom.jpg", "group": "house 1"}
    members = [("0.jpg", PICTURE), ("0.json", json.dumps(told).encode()), ("0.cls", b"7")]
    members += [("1.jpg", encoded(photo(1))), ("1.json", b'{"label": 3}')]
    members += [("2.jpg", encoded(photo(2))), ("2.json", b'{"caption": "no label"}'), ("2.cls", b" dog\n")]
    items = open_source(str(tar(tmp_path / "0.tar", members))).listing().items
    found = {item.key: (item.label, item.group) for item in items}
    assert found == {"cat/tom.jpg": ("cat", "house 1"), "0/1.jpg": ("3", ""), "0/2.jpg": ("dog", "")}


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("train-0000.tar", "val-0000.tar"), {"train", "val"}),
        (("imagenet_validation_00.tar", "imagenet_train_00.tar"), {"train", "val"}),
        (("test/0.tar", "training/0.tar"), {"train", "test"}),
        (("retrain-0.tar", "valley-1.tar"), {""}),
    ],
)
def test_shards_named_after_splits(tmp_path: Path, names: tuple[str, str], roles: set[str]) -> None:
    paths = [str(tar(tmp_path / name, samples(2, 2 * i))) for i, name in enumerate(names)]
    assert {item.split for item in Shards("x", paths).listing().items} == roles


def test_some_named_after_splits_and_some_not(tmp_path: Path) -> None:
    paths = [str(tar(tmp_path / name, samples(2))) for name in ("train-0.tar", "more-0.tar")]
    with pytest.raises(DataError, match=r"more-0\.tar is named after no split, and .*train-0\.tar is"):
        Shards("x", paths).listing()


# ---- hostile -----------------------------------------------------------------------------------------------


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def test_pickles_are_counted_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("something was unpickled"))
    kinds = ("pickle", "pkl", "pyd", "pth", "pt", "npy", "npz", "ten")
    evil = [(f"0.{kind}", pickle.dumps(Evil())) for kind in kinds]
    path = tar(tmp_path / "0.tar", [*samples(3), *evil])
    data = open_data(path, val_share=0, test_share=0, workers=0)
    assert len(data.train) == 3
    assert "neither image nor class were not opened: 1 .npy, 1 .npz" in data.notes[0]
    assert not (tmp_path / "owned").exists()


BAD: dict[str, tuple[list[tuple[str | tarfile.TarInfo, bytes]], str, str]] = {
    "climbs": ([("../../evil.jpg", PICTURE), ("../../evil.cls", b"0")], "unsafe name", "climbs"),
    "absolute": ([("/evil.jpg", PICTURE)], "unsafe name", "absolute"),
    "link": ([(special("a.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], "link", "not followed"),
    "hard link": ([(special("a.jpg", tarfile.LNKTYPE, "00000.jpg"), b"")], "link", "not followed"),
    "device": ([(special("a.jpg", tarfile.CHRTYPE), b"")], "not a file", "device"),
    "no class": ([("a.jpg", PICTURE)], "no class", "neither .cls nor .json"),
    "empty class": ([("a.jpg", PICTURE), ("a.cls", b" \n")], "no class", "neither"),
    "class of bytes": ([("a.jpg", PICTURE), ("a.cls", b"\xff\xfe")], "no class", "utf-8"),
    "huge class": ([("a.jpg", PICTURE), ("a.cls", b"1" * 70_000)], "no class", "70,000 bytes"),
    "no JSON": ([("a.jpg", PICTURE), ("a.json", b"{")], "no class", "Expecting"),
    "JSON list": ([("a.jpg", PICTURE), ("a.json", b"[]")], "no class", "no object"),
    "label list": ([("a.jpg", PICTURE), ("a.json", b'{"label": [1]}')], "no class", "is list"),
    "label true": ([("a.jpg", PICTURE), ("a.json", b'{"label": true}')], "no class", "is bool"),
    "key a number of no size": ([("a.jpg", PICTURE), ("a.json", b'{"label": NaN}')], "no class", "NaN"),
    "nested": ([("a.jpg", PICTURE), ("a.json", b"[" * 60_000)], "no class", ""),
    "two images": ([("a.jpg", PICTURE), ("a.png", PICTURE), ("a.cls", b"1")], "listed twice", "one image"),
    "twice": ([("00000.jpg", PICTURE)], "listed twice", "the first member"),
    "no image": ([("a.jpg", b"MZ\x90"), ("a.cls", b"1")], "not an image", ""),
    "cut image": ([("a.jpg", PICTURE[:500]), ("a.cls", b"1")], "truncated", ""),
}


@pytest.mark.parametrize(("members", "reason", "detail"), BAD.values(), ids=BAD.keys())
def test_a_bad_member_is_listed_once(
    tmp_path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], reason: str, detail: str
) -> None:
    path = tar(tmp_path / "in" / "0.tar", [*samples(4), *members])
    data = open_data(path, on_bad="skip", val_share=0, test_share=0, workers=0)
    assert len(data.train) == 4
    assert [bad.reason for bad in data.bad][:1] == [reason]
    assert detail in data.bad[0].detail
    again = open_data(path, on_bad="skip", val_share=0, test_share=0, workers=0)  # from the index
    assert again.bad == data.bad
    assert again.fingerprint == data.fingerprint
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.tar", "0.tar.index"]


def test_shards_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="no plain tar"):
        open_data(tmp_path / "{0..0}.tar")
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        archive.add(__file__, "0.jpg")
    with pytest.raises(DataError, match="must not be compressed"):
        open_data(tmp_path / "{0..0}.tar")
    whole = tar(tmp_path / "0.tar", samples(5)).read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:9_000])
    with pytest.raises(DataError, match=r"ends too early|damaged"):
        open_data(tmp_path / "{0..0}.tar")
    tar(tmp_path / "0.tar", [("0.txt", b"words")])
    with pytest.raises(DataError, match="has no sample: an image and its class"):
        open_data(tmp_path / "{0..0}.tar")


# ---- the index ---------------------------------------------------------------------------------------------


def opened(where: Path) -> Data:
    return open_data(where, val_share=0, test_share=0, workers=0)


def test_images_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        tar(tmp_path / "in" / f"{i}.tar", samples(4, 4 * i))
    first = opened(tmp_path / "in")
    monkeypatch.setattr(Shards, "content", lambda *_: pytest.fail("an image was read again"))
    monkeypatch.setattr(module, "contents", lambda *_: pytest.fail("a shard was walked again"))
    again = opened(tmp_path / "in")
    assert again.fingerprint == first.fingerprint
    assert again.train.keys == first.train.keys
    assert np.array_equal(again.train.sizes, first.train.sizes)


def test_a_changed_shard_is_looked_at_again(tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", samples(4))
    first = opened(path)
    before = path.stat()
    tar(path, samples(4, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert opened(path).fingerprint != first.fingerprint


@pytest.mark.parametrize("keep", [0, 8, 100, 0.5, 0.99])
def test_a_damaged_index_is_as_good_as_none(tmp_path: Path, keep: float) -> None:
    path = tar(tmp_path / "0.tar", samples(4))
    first, index = opened(path), tmp_path / "0.tar.index"
    whole = index.read_bytes()
    index.write_bytes(whole[: int(keep if keep > 1 or keep == 0 else keep * len(whole))])
    assert opened(path).fingerprint == first.fingerprint
    assert index.read_bytes() == whole


def test_an_index_that_lies_is_as_good_as_none(tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    path = tar(tmp_path / "0.tar", samples(4))
    first, index = opened(path), tmp_path / "0.tar.index"
    parts = load(index.read_bytes())
    told = json.loads(parts["text"].tobytes())

    def text(**changes: object) -> dict[str, np.ndarray]:
        return {"text": np.frombuffer(json.dumps(told | changes).encode(), np.uint8)}

    sample = told["samples"][0]
    lies = [
        {"side": parts["side"][:2]},
        {"thumb": parts["thumb"][:, :4]},
        {"text": parts["text"][:9]},
        {"side": parts["side"] * 0},
        {"side": parts["side"] * 1000},
        text(rules=0),
        text(samples=[["a\x1b[31m.jpg", *sample[1:]]]),
        text(samples=[[*sample[:2], -512, *sample[3:]]]),
        text(samples=[[*sample[:3], 10**12, sample[4]]]),
        text(samples=[sample[:4]]),
        text(bad=[[1, 2, 3]]),
        text(others=[]),
    ]
    for lie in lies:
        index.write_bytes(save({**parts, **{name: np.ascontiguousarray(part) for name, part in lie.items()}}))
        assert Index.read(str(path)) is None, lie
    assert opened(path).fingerprint == first.fingerprint


def test_where_nothing_can_be_written_beside_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convatlas.data.sources import index as indexes

    path = tar(tmp_path / "in" / "0.tar", samples(4))
    write = indexes.write_durable

    def refusing(target: Path, content: bytes) -> str:
        if target.parent == path.parent:
            raise ResourceError("read-only")
        return write(target, content)

    monkeypatch.setattr(indexes, "write_durable", refusing)
    first = opened(path)
    assert [one.name for one in path.parent.iterdir()] == ["0.tar"]
    monkeypatch.setattr(Shards, "content", lambda *_: pytest.fail("an image was read again"))
    assert opened(path).fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setattr(indexes, "write_durable", lambda *_: (_ for _ in ()).throw(ResourceError("full")))
    (tmp_path / "of the user").mkdir(exist_ok=True)
    assert opened(path).fingerprint == first.fingerprint


def test_a_survey_that_is_killed_keeps_the_shards_it_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        tar(tmp_path / "in" / f"{i}.tar", samples(4, 4 * i))
    reads: list[object] = []
    content = Shards.content

    def stopping(self: Shards, place: object) -> bytes:
        reads.append(place)
        if len(reads) == 7:
            raise KeyboardInterrupt
        return content(self, place)

    monkeypatch.setattr(Shards, "content", stopping)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "in")
    assert [one.name for one in sorted((tmp_path / "in").glob("*.index"))] == ["0.tar.index"]
    reads.clear()
    reads += [None] * 10
    opened(tmp_path / "in")
    assert len(reads) == 10 + 8  # the first shard's four are known


def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN", 2)
    for i in range(5):
        tar(tmp_path / "in" / f"{i}.tar", samples(2, 2 * i))
    data, before = opened(tmp_path / "in"), len(os.listdir("/proc/self/fd"))
    for i in (9, 0, 5, 3, 9, 1, 7):
        assert np.array_equal(data.train.image(i), _decoded(i))
        assert len(os.listdir("/proc/self/fd")) <= before + 2


# ---- writing -----------------------------------------------------------------------------------------------


def test_shards_are_the_folder(folder: Path, sharded: Path) -> None:
    ours, theirs = open_data(folder), open_data(sharded)
    assert theirs.kind == "shards"
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.classes == ours.classes
    assert theirs.samples_csv() == ours.samples_csv()
    assert {one.name for one in sharded.glob("*.tar")} >= {"train-0000.tar", "train-0001.tar", "val-0000.tar"}
    for shard in sharded.glob("*.tar"):
        assert shard.stat().st_size < 2 * 30_000


def test_webdatasets_own_reading_rule_finds_every_sample(sharded: Path) -> None:
    """Members of a sample stand together, with equal names up to the first dot; the class is a number."""
    count = 0
    for shard in sorted(sharded.glob("*.tar")):
        with tarfile.open(shard) as archive:
            names = archive.getnames()
            for image, label, told in zip(names[::3], names[1::3], names[2::3], strict=True):
                assert len({name.split(".")[0] for name in (image, label, told)}) == 1
                assert [name.split(".")[1] for name in (image, label, told)] == ["jpg", "cls", "json"]
                number = int(archive.extractfile(label).read())  # type: ignore[union-attr]
                described = json.load(archive.extractfile(told))  # type: ignore[arg-type]
                assert sorted(("ant", "bee", "caf\xe9"))[number] == described["label"]
                count += 1
    assert count == 36


def test_writing_is_a_function_of_the_seed(folder: Path, sharded: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_shards(folder, tmp_path / str(seed), size=30_000, seed=seed)
    same = [(tmp_path / "0" / one.name).read_bytes() == one.read_bytes() for one in sharded.glob("*.tar")]
    assert all(same)
    assert (tmp_path / "1" / "train-0000.tar").read_bytes() != (sharded / "train-0000.tar").read_bytes()


def test_arrays_become_png(tmp_path: Path) -> None:
    done = write_shards("digits", tmp_path / "out", size=500_000)
    assert done.samples == 1797
    data = open_data(tmp_path / "out", val_share=0, test_share=0, workers=0)
    digits = open_data("digits", val_share=0, test_share=0)
    assert data.channels == 1
    assert np.array_equal(data.train.image(0), digits.train.image(0))
    assert np.array_equal(data.train.labels, digits.train.labels)


def test_what_goes_wrong_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    with pytest.raises(UsageError, match="is there already"):
        write_shards(folder, out)
    (tmp_path / "new.tmp-999999999").mkdir()  # of a process that was killed

    def full(path: Path, content: object) -> str:
        raise ResourceError("no room")

    monkeypatch.setattr(writing, "write_durable", full)
    with pytest.raises(ResourceError):
        write_shards(folder, tmp_path / "new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "in" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(i)) if i else b"no image")
    with pytest.raises(DataError, match=r"a/0\.jpg cannot be read.*--on-bad skip"):
        write_shards(tmp_path / "in", tmp_path / "out")
    done = write_shards(tmp_path / "in", tmp_path / "out", on_bad="skip")
    assert (done.samples, done.left_out) == (3, 1)


# ---- batches -----------------------------------------------------------------------------------------------

PREPARE = Preprocessing((72, 70), "crop", 3)


def batches(data: Data, **options: object) -> Batches:
    settings: dict[str, object] = {"batch_size": 8, "shuffle": True, "drop_last": False, "seed": 3}
    augment = Augment(crop="resized", flip=True)
    return Batches(data.train, PREPARE, augment=augment, **(settings | options))  # type: ignore[arg-type]


def bits(found: Iterable[Batch]) -> list[tuple[bytes, bytes, bytes]]:
    return [
        (one.images.contiguous().numpy().tobytes(), one.labels.numpy().tobytes(), one.ids.numpy().tobytes())
        for one in found
    ]


def test_batches_do_not_depend_on_where_the_images_lie_nor_on_workers(folder: Path, sharded: Path) -> None:
    expected = bits(batches(open_data(folder)).epoch(1))
    assert len(expected) == 4
    for workers in (0, 1, 3):
        made = batches(open_data(sharded), workers=workers)
        assert bits(made.epoch(1)) == expected
        for step in range(len(expected) + 1):  # gone on with at every step
            assert bits(made.epoch(1, step)) == expected[step:]
        made.close()


def test_two_ranks_of_two_workers_read_every_sample_once(sharded: Path) -> None:
    data = open_data(sharded)
    whole = batches(data)
    ranks = [batches(data, rank=rank, world=2, workers=2) for rank in (0, 1)]
    for epoch in (0, 1):
        ids = [torch.cat([one.ids for one in rank.epoch(epoch)]) for rank in ranks]
        assert sorted(torch.cat(ids).tolist()) == sorted(data.train.ids.tolist())
        for step in range(len(whole)):
            shares = [next(rank.epoch(epoch, step)) for rank in ranks]
            batch = next(whole.epoch(epoch, step))
            for number, share in enumerate(shares):
                assert torch.equal(share.ids, batch.ids[number::2])
                assert torch.equal(share.images, batch.images[number::2])
    for rank in ranks:
        rank.close()


def test_a_shard_that_goes_away_is_told_with_the_sample(sharded: Path, tmp_path: Path) -> None:
    pictures = [
        (f"{i:05d}.jpg", encoded(photo(i, 90, 80))) for i in range(12)
    ]  # too large to be kept decoded
    path = tar(tmp_path / "0.tar", [*pictures, *((f"{i:05d}.cls", b"1") for i in range(12))])
    data = opened(tmp_path / "{0..0}.tar")
    path.write_bytes(path.read_bytes()[:10_240])
    made = Batches(
        data.train, Preprocessing((70, 70), "squash", 3), batch_size=4, shuffle=False, drop_last=False
    )
    with pytest.raises(
        DataError, match=r"0/000\d\d\.jpg could be read when the data were opened, but not now"
    ):
        list(made.epoch(0))
