"""Every kind of source: layouts, keys, what is refused, and what an error says."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.sources import open_source
from convatlas.data.sources.idx import read_idx
from convatlas.data.sources.layout import arrange
from convatlas.data.sources.source import alike, printable
from convatlas.errors import BadImage, DataError
from corpus import encoded, photo

PICTURE = encoded(photo(1))


def listed(*paths, folders=()):
    files = [(tuple(path.split("/")), path) for path in paths]
    return arrange(files, [tuple(folder.split("/")) for folder in folders], "here")


def rows(listing):
    return [(item.key, item.label, item.split) for item in listing.items]


# --- layouts -------------------------------------------------------------------------------------------


def test_one_level():
    assert rows(listed("dog/b.jpg", "cat/a.jpg")) == [("cat/a.jpg", "cat", ""), ("dog/b.jpg", "dog", "")]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_splits_and_their_names(name):
    found = rows(listed("train/cat/a.jpg", f"{name}/cat/b.jpg", "test/dog/c.jpg"))
    assert {(label, split) for _, label, split in found} == {
        ("cat", "train"),
        ("cat", "val"),
        ("dog", "test"),
    }


def test_files_may_lie_deeper_than_their_class():
    assert rows(listed("train/cat/2020/may/a.jpg", "train/dog/b.jpg"))[0][1:] == ("cat", "train")


@pytest.mark.parametrize("wrap", ["photos/", "a/b/c/"])
def test_wrapping_folders_are_passed_through_and_stay_in_keys(wrap):
    found = listed(f"{wrap}train/cat/a.jpg", f"{wrap}val/cat/b.jpg", "README.md")
    assert rows(found) == [(f"{wrap}train/cat/a.jpg", "cat", "train"), (f"{wrap}val/cat/b.jpg", "cat", "val")]
    assert found.notes == ["1 file outside class folders was not looked at (README.md)"]
    one_level = listed(f"{wrap}cat/a.jpg", f"{wrap}dog/b.jpg")
    assert [item.label for item in one_level.items] == ["cat", "dog"]


def test_a_class_may_be_named_like_a_split():
    assert [item.label for item in listed("train/a.jpg", "bus/b.jpg").items] == ["bus", "train"]


def test_one_class_alone_is_no_wrapper():
    assert rows(listed("cats/a.jpg", "cats/b.jpg")) == [
        ("cats/a.jpg", "cats", ""),
        ("cats/b.jpg", "cats", ""),
    ]


def test_what_lies_outside_classes_is_told():
    found = listed("train/cat/a.jpg", "train/loose.png", "train/list.txt", "extra/x/b.jpg", "cover.jpg")
    assert [(one.key, one.reason) for one in found.bad] == [
        ("train/loose.png", "outside a class folder"),
        ("cover.jpg", "outside a class folder"),
    ]
    assert len(found.notes) == 2
    assert "'extra' is no split: its 1 file was" in found.notes[1]


def test_empty_classes_are_known():
    assert listed("train/cat/a.jpg", folders=["train/dog", "val/cat"]).folders == {
        ("train", "cat"),
        ("train", "dog"),
        ("val", "cat"),
    }


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ((), "is empty"),
        (("a.jpg", "b.jpg"), "2 images lie outside class folders"),
        (("a.txt",), "no image in a class folder"),
    ],
)
def test_nothing_to_learn_from(paths, told):
    with pytest.raises(DataError, match=told) as caught:
        listed(*paths)
    assert "train/CLASS" in str(caught.value)


# --- names ---------------------------------------------------------------------------------------------


@given(
    st.text(st.characters(codec=None, exclude_characters="\0/")),
    st.text(st.characters(codec=None, exclude_characters="\0/")),
)
def test_printable_names_are_printable_and_stay_different(a, b):
    def decodable(name):  # only what a file system can give: no surrogates but those of PEP 383
        return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in name)

    if decodable(a) and decodable(b):
        assert printable(a).isprintable()
        assert (printable(a) == printable(b)) == (a == b)


def test_alike():
    assert alike(["Cat", "cat", "dog"]) == [("Cat", "cat")]
    assert alike(["\u00e9", "e\u0301"]) == [("e\u0301", "\u00e9")]
    assert alike(["a", "b"]) == []


# --- finding out what a path is ---------------------------------------------------------------------------


def test_a_wrong_path_names_its_neighbour(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"does not exist\. Did you mean 'photos'\?"):
        open_source(tmp_path / "photo")
    with pytest.raises(DataError, match="Nor does"):
        open_source(tmp_path / "nowhere" / "photos")
    with pytest.raises(DataError, match="does not exist") as caught:
        open_source("a\0b\udcff")
    assert str(caught.value).isprintable()


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"not a zip at all")
    with pytest.raises(DataError, match="of another kind"):
        open_source(tmp_path / "a.zip")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a folder nor a file"):
        open_source(tmp_path / "pipe")


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        open_source(tmp_path).listing()


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.jpg").write_bytes(encoded(photo(len(list(root.rglob("*.jpg"))))))
    return root


def archived(photos, kind):
    path = photos.parent / f"photos.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(photos.rglob("*.jpg")):
                archive.write(file, file.relative_to(photos))
    else:
        with tarfile.open(path, "w:" + kind.partition(".")[2]) as archive:
            archive.add(photos, "photos")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_its_folder(photos, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    folder, archive = open_source(photos), open_source(archived(photos, kind))
    plain, packed = folder.listing(), archive.listing()
    assert [item[1:2] + item[3:] for item in plain.items] == [item[1:2] + item[3:] for item in packed.items]
    for a, b in zip(plain.items, packed.items, strict=True):
        assert folder.content(a.place) == archive.content(b.place)
    again = pickle.loads(pickle.dumps(archive))
    assert again.content(packed.items[2].place) == folder.content(plain.items[2].place)
    assert len(pickle.dumps(archive)) < 1000


def test_a_compressed_tar_is_inflated_once_into_the_cache(photos, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONVATLAS_CACHE", str(cache))
    path = archived(photos, "tar.gz")
    open_source(path).listing()
    (made,) = cache.iterdir()
    stamp = made.stat().st_mtime_ns
    open_source(path).listing()
    assert made.stat().st_mtime_ns == stamp
    assert made.read_bytes() == gzip.decompress(path.read_bytes())


def test_the_cache_falls_back_to_a_temporary_folder(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.delenv("CONVATLAS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temp"))
    assert len(open_source(archived(photos, "tar.gz")).listing().items) == 12
    assert list((tmp_path / "temp").rglob("*.tar"))


def test_a_zip_is_read_by_forked_processes_at_once(photos):
    archive = open_source(archived(photos, "zip"))
    items = archive.listing().items
    expected = [archive.content(item.place) for item in items]
    children = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            same = all([archive.content(i.place) for i in items] == expected for _ in range(20))
            os._exit(0 if same else 1)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)


# --- tables --------------------------------------------------------------------------------------------


def table(folder, text, name="list.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(path)


def test_a_table(photos):
    text = "\ufeffpath,label,split,group\ntrain/cat/0.jpg,Cat,train,p1\n./test//dog/1.jpg,Dog,TEST,p2\n"
    listing = table(photos, text).listing()
    assert [item[:2] + item[3:] for item in listing.items] == [
        ("test/dog/1.jpg", "Dog", "test", "p2"),
        ("train/cat/0.jpg", "Cat", "train", "p1"),
    ]
    assert listing.bad == []


def test_malformed_rows_are_listed_by_line(photos):
    text = (
        "label,path\ncat,train/cat/0.jpg\ncat\n,train/cat/1.jpg\ncat,\n\ncat,train/cat/0.jpg\n"
        'cat,../outside.jpg\ncat,/etc/passwd\ncat,a,b\ndog,"train/dog/0.jpg"\ncat,"open\n'
    )
    listing = table(photos, text).listing()
    assert [item.label for item in listing.items] == ["cat", "dog"]
    assert {(one.key, one.reason) for one in listing.bad} == {
        ("list.csv, line 3", "malformed row"),
        ("list.csv, line 4", "malformed row"),
        ("list.csv, line 5", "malformed row"),
        ("train/cat/0.jpg", "listed twice"),
        ("../outside.jpg", "unsafe name"),
        ("/etc/passwd", "unsafe name"),
        ("list.csv, line 10", "malformed row"),
        ("list.csv, line 12", "malformed row"),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("file,class\na,b\n", "must name the columns path and label"),
        ("path,label,label\na,b,c\n", "each once"),
        ("path,label\n", "names no image"),
        ("path,label\n,\n", "1 row is malformed"),
    ],
)
def test_a_table_without_what_it_needs(photos, text, told):
    with pytest.raises(DataError, match=told):
        table(photos, text).listing()


def test_a_table_may_not_lead_out_through_a_link(photos, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(PICTURE)
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    source = table(photos, "path,label\nlink.jpg,cat\nmissing.jpg,cat\n")
    places = {item.key: item.place for item in source.listing().items}
    with pytest.raises(BadImage, match="unreadable"):
        source.content(places["link.jpg"])
    with pytest.raises(BadImage, match="missing"):
        source.content(places["missing.jpg"])


def test_names_in_a_table_may_be_any_bytes(photos):
    with open(os.fsencode(photos) + b"/\xff.jpg", "wb") as file:
        file.write(PICTURE)
    source = table(photos, b"path,label\n\xff.jpg,caf\xe9\n")
    (item,) = source.listing().items
    assert (item.key, item.label) == ("\\xff.jpg", "caf\\xe9")
    assert source.content(item.place) == PICTURE


# --- idx -----------------------------------------------------------------------------------------------


def idx(values, kind=8):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape) + values.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)


@pytest.fixture(params=[False, True], ids=["plain", "gz"])
def mnist(request, tmp_path):
    pack = gzip.compress if request.param else bytes
    end = ".gz" if request.param else ""
    for stem, content in {
        "train-images-idx3": idx(IMAGES),
        "train-labels-idx1": idx([3, 1, 3, 10, 1, 3]),
        "t10k-images-idx3": idx(IMAGES[:2]),
        "t10k-labels-idx1": idx([1, 3]),
    }.items():
        (tmp_path / f"{stem}-ubyte{end}").write_bytes(pack(content))
    return tmp_path


def test_idx_files(mnist):
    source = open_source(mnist)
    items = source.listing().items
    assert [(item.key, item.label, item.split) for item in items[1:4]] == [
        ("test/0000001", "3", "test"),
        ("train/0000000", "3", "train"),
        ("train/0000001", "1", "train"),
    ]
    again = pickle.loads(pickle.dumps(source))
    for item in items:
        assert np.array_equal(again.pixels(item.place, 1)[..., 0], IMAGES[item.place[1]])
        assert again.pixels(item.place, 3).shape == (5, 4, 3)
    assert len(pickle.dumps(source)) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        idx(IMAGES)[:-1],
        idx(IMAGES) + b"x",
        idx(IMAGES, kind=9),
        gzip.compress(idx(IMAGES))[:-9],
        b"\x1f\x8bnonsense",
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"\0\0\x08\x02" + bytes(8),
    ],
)
def test_damaged_idx_files(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x "):
        read_idx(tmp_path / "x")


def test_idx_files_that_do_not_belong_together(mnist):
    for path in mnist.glob("train-labels*"):
        path.unlink()
    with pytest.raises(DataError, match="no idx file of train labels"):
        open_source(mnist).listing()
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx([1, 2]))
    with pytest.raises(DataError, match="do not belong together"):
        open_source(mnist).listing()


@pytest.mark.data
def test_the_real_mnist(real_data):
    source = open_source(real_data("mnist"))
    items = source.listing().items
    assert [sum(item.split == split for item in items) for split in ("train", "test")] == [60_000, 10_000]
    assert [item.label for item in items if item.split == "train"][:8] == list("50419213")
    mean = np.mean([source.array(item.place).mean() for item in items if item.split == "train"])
    assert round(mean / 255, 4) == 0.1307  # the number that everyone normalises with


def test_the_digits():
    from sklearn.datasets import load_digits

    source, digits = open_source("digits"), load_digits()
    items = source.listing().items
    assert len(items) == 1797
    for item in items[::100]:
        assert np.abs(source.array(item.place) - digits.images[item.place] * 255 / 16).max() <= 0.5
        assert int(item.label) == digits.target[item.place]
