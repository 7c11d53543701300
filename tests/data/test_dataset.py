"""`open_data`: roles, classes, groups, what is left out, and what it says about it."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from convatlas.data import open_data
from convatlas.data.dataset import class_order
from convatlas.errors import BadImage, DataError, UsageError
from corpus import encoded, photo


def fill(root, layout, *, size=(48, 36), grey=False):
    """Write `layout` {folder: count} of different pictures below `root`."""
    number = 0
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = photo(1000 + number, *size)
            (root / folder / f"{i:03d}.png").write_bytes(
                encoded(picture.convert("L") if grey else picture, "PNG")
            )
            number += 1
    return root


def sizes(data):
    return tuple(len(split) for split in data.splits)


def everywhere(data):
    return [key for split in data.splits for key in split.keys]


# --- roles ---------------------------------------------------------------------------------------------


def test_one_level_gives_three_roles(tmp_path):
    data = open_data(fill(tmp_path, {"cat": 40, "dog": 20}))
    assert sizes(data) == (48, 6, 6)  # a tenth is test, a tenth of the rest is val, both of each class
    assert Counter(data.test.labels.tolist()) == {0: 4, 1: 2}
    assert Counter(data.val.labels.tolist()) == {0: 4, 1: 2}  # 3.6 and 1.8, rounded


def test_who_waits_for_many_images_is_told(monkeypatch):
    told = []
    open_data("digits", told=told.append)
    assert not told  # too few to wait for
    monkeypatch.setattr("convatlas.data.survey.MANY", 1000)
    open_data("digits", told=told.append)
    assert told == ["looking at 1,797 images"]


def test_given_train_without_test_has_none(tmp_path):
    data = open_data(fill(tmp_path, {"train/cat": 20, "train/dog": 20}))
    assert sizes(data) == (36, 4, 0)
    assert data.notes == ("val is a seeded stratified 10 % of all images (4 images)",)


def test_what_is_given_is_respected(tmp_path):
    layout = {
        f"{split}/{name}": n
        for split, n in (("train", 9), ("valid", 3), ("test", 2))
        for name in ("cat", "dog")
    }
    data = open_data(fill(tmp_path, layout))
    assert sizes(data) == (18, 6, 4)
    for split, folder in zip(data.splits, ("train", "valid", "test"), strict=True):
        assert all(key.startswith(folder + "/") for key in split.keys)
    assert data.notes == ()


def test_a_test_split_can_be_asked_for(tmp_path):
    data = open_data(fill(tmp_path, {"train/cat": 40, "train/dog": 40}), test_share=0.25, val_share=0)
    assert sizes(data) == (60, 0, 20)


def test_everything_can_be_test(tmp_path):
    data = open_data(fill(tmp_path, {"dog": 3}), test_share=1, classes=["cat", "dog"])
    assert sizes(data) == (0, 0, 3)
    assert data.test.labels.tolist() == [1, 1, 1]


def test_the_digits_have_a_fifth_for_test():
    data = open_data()
    assert sizes(data) == (1293, 145, 359)
    assert data.channels == 1
    assert data.typical_side() == 8
    assert data.train.image(0).shape == (8, 8, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"val_share": 1.0},
        {"val_share": -0.1},
        {"test_share": 1.5},
        {"on_bad": "ignore"},
        {"val_share": float("nan")},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UsageError, match="expected"):
        open_data("digits", **settings)


def test_the_split_is_a_function_of_seed_and_content(tmp_path):
    a = fill(tmp_path / "a", {"cat": 40, "dog": 40})
    first, again, other = open_data(a), open_data(a), open_data(a, seed=1)
    assert everywhere(first) == everywhere(again)
    assert first.fingerprint == again.fingerprint
    assert first.val.keys != other.val.keys
    assert first.fingerprint != other.fingerprint
    for path in a.rglob("*.png"):  # other names, same content
        path.rename(path.with_name("x" + path.name))
    assert open_data(a).val.hashes == first.val.hashes


# --- what stays together ---------------------------------------------------------------------------------


def test_near_duplicates_stay_in_one_split(tmp_path):
    root = tmp_path / "photos"
    for i in range(30):
        picture = photo(i, 160, 120)
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(encoded(picture, "PNG"))
        (folder / f"{i}-copy.png").write_bytes(encoded(picture, "PNG"))
        (folder / f"{i}-again.jpg").write_bytes(encoded(picture, quality=70))
        (folder / f"{i}-small.jpg").write_bytes(encoded(picture.resize((80, 60)), quality=90))
    for seed in range(3):
        data = open_data(root, seed=seed, val_share=0.2, test_share=0.2)
        families = [
            {key.split("/")[1].split("-")[0].split(".")[0] for key in split.keys} for split in data.splits
        ]
        assert all(families)
        assert sum(map(len, families)) == 30
        assert "30 sets of near-duplicates were kept together" in data.notes


def test_groups_by_pattern_stay_in_one_split(tmp_path):
    root = fill(tmp_path, {f"{name}/patient{i:02d}": 4 for i in range(20) for name in ("ill", "well")})
    data = open_data(root, group_by=r"patient(\d+)")
    patients = [{key.split("/")[1] for key in split.keys} for split in data.splits]
    assert all(patients)
    assert sum(map(len, patients)) == 20


def test_groups_by_column(tmp_path):
    fill(tmp_path, {"all": 40})
    rows = [f"all/{i:03d}.png,{'ab'[i % 2]},s{i // 4}" for i in range(40)]
    for column, group_by in (("group", None), ("site", "site")):
        (tmp_path / "list.csv").write_text("\n".join([f"path,label,{column}", *rows]))
        data = open_data(tmp_path / "list.csv", group_by=group_by)
        sites = [{int(key[4:7]) // 4 for key in split.keys} for split in data.splits]
        assert sum(map(len, sites)) == 10
        assert all(sites)


@pytest.mark.parametrize(
    ("group_by", "told"),
    [
        ("(", "no regular expression"),
        (r"\d+", "has 0 groups"),
        (r"(a)(b)", "has 2 groups"),
        (r"scan(\d+)", "names no group"),
    ],
)
def test_group_by_that_cannot_be_used(tmp_path, group_by, told):
    with pytest.raises(UsageError, match=told):
        open_data(fill(tmp_path, {"cat": 4, "dog": 4}), group_by=group_by)


def test_pictures_that_all_look_alike_are_split_all_the_same(tmp_path):
    base = np.asarray(photo(1, 64, 64)).copy()
    for i in range(40):
        folder = tmp_path / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        base[0, 0] = i
        (folder / f"{i}.png").write_bytes(encoded(Image.fromarray(base), "PNG"))
    data = open_data(tmp_path)
    assert len(data.val)
    assert len(data.test)
    assert any("look alike" in note for note in data.notes)


def test_copies_across_given_splits_are_told(tmp_path):
    root = fill(tmp_path, {"train/cat": 4, "test/cat": 2, "train/dog": 3, "test/dog": 1})
    (root / "test/cat/copy.png").write_bytes((root / "train/cat/000.png").read_bytes())
    assert any(
        note.startswith("1 image of test is in train as well") for note in open_data(root, val_share=0).notes
    )


def test_groups_across_given_splits_are_told(tmp_path):
    root = fill(tmp_path, {f"{split}/cat": 8 for split in ("train", "val", "test")})
    for i in range(2, 8):
        (root / f"val/cat/{i:03d}.png").rename(root / f"val/cat/1{i:02d}.png")
    (root / "test/cat").rename(root / "test/other")
    notes = open_data(root, group_by=r"(cat/\d+)").notes
    assert notes == ("2 groups stand in both train and val as given: cat/000, cat/001",)
    assert not any("groups" in note for note in open_data(root).notes)


def test_a_group_of_the_given_train_that_val_is_drawn_from_is_told(tmp_path):
    root = fill(tmp_path, {"train/cat": 20, "test/cat": 20})
    for path in (root / "test/cat").glob("00[1-9].png"):
        path.unlink()
    for path in (root / "test/cat").glob("01*.png"):
        path.rename(path.with_name(f"9{path.name}"))
    for seed in range(20):  # 000 is in val for some of them, and was given to train all the same
        notes = open_data(root, group_by=r"cat/(\d+)", seed=seed, val_share=0.5).notes
        assert "1 group stands in both train and test as given: 000" in notes


# --- classes and channels ---------------------------------------------------------------------------------


def test_classes_are_those_of_a_network_where_it_says_so(tmp_path):
    root = fill(tmp_path, {"dog": 3, "cat": 3})
    assert open_data(root).classes == ("cat", "dog")
    data = open_data(root, classes=["emu", "dog", "cat"])
    assert data.classes == ("emu", "dog", "cat")
    assert {
        key.split("/")[0]: int(label)
        for s in data.splits
        for key, label in zip(s.keys, s.labels, strict=True)
    } == {
        "dog": 1,
        "cat": 2,
    }
    with pytest.raises(DataError, match=r"does not know: 'dog'\. Did you mean 'dogs'\?"):
        open_data(root, classes=["cat", "dogs"])


def test_an_empty_class_is_left_out_and_told(tmp_path):
    root = fill(tmp_path, {"train/cat": 3, "train/dog": 3, "train/emu": 0})
    data = open_data(root)
    assert data.classes == ("cat", "dog")
    assert "classes without an image are left out: emu" in data.notes


def test_class_order():
    assert class_order({"2", "10", "1"}) == ("1", "2", "10")
    assert class_order({"2", "10", "a"}) == ("10", "2", "a")


@pytest.mark.parametrize("as_grey", [True, False])
def test_one_channel_only_where_every_picture_is_grey(tmp_path, as_grey):
    root = fill(tmp_path, {"cat": 3, "dog": 3}, grey=True)
    three = np.repeat(np.asarray(photo(5).convert("L"))[..., None], 3, axis=2).copy()
    if not as_grey:
        three[0, 0, 0] ^= 1
    (root / "cat" / "three.png").write_bytes(encoded(Image.fromarray(three), "PNG"))
    data = open_data(root)
    assert data.channels == (1 if as_grey else 3)
    assert data.train.image(0).shape[2] == data.channels


# --- samples ---------------------------------------------------------------------------------------------


def test_images_are_decoded_at_full_size_and_kept_ones_are_equal(tmp_path):
    root = fill(tmp_path, {"cat": 5, "dog": 5}, size=(50, 30))
    data = open_data(root)
    there = pickle.loads(pickle.dumps(data.train))
    for i, key in enumerate(data.train.keys):
        expected = np.asarray(Image.open(root / key))
        assert np.array_equal(data.train.image(i), expected)
        assert np.array_equal(there.image(i), expected)
        assert data.train.sizes[i].tolist() == [50, 30]


def test_splits_are_small_to_send(tmp_path):
    data = open_data(fill(tmp_path, {"cat": 20, "dog": 20}))
    assert len(pickle.dumps(data)) < 20_000


def test_ids_are_positions_among_all_and_survive_a_subset(tmp_path):
    data = open_data(fill(tmp_path, {"cat": 20, "dog": 20}))
    keys = sorted(everywhere(data))
    for split in data.splits:
        assert [keys[i] for i in split.ids] == split.keys
    part = data.train.subset([5, 2])
    assert part.keys == [data.train.keys[5], data.train.keys[2]]
    assert part.ids.tolist() == [data.train.ids[5], data.train.ids[2]]
    assert np.array_equal(part.image(1), data.train.image(2))
    assert part.hashes == [data.train.hashes[5], data.train.hashes[2]]


def test_a_file_that_has_gone_is_named(tmp_path):
    root = fill(tmp_path, {"cat": 6, "dog": 6}, size=(100, 80))
    data = open_data(root)
    (root / data.train.keys[0]).unlink()
    with pytest.raises(BadImage, match=f"{data.train.keys[0]}: missing"):
        data.train.image(0)


def test_the_fingerprint_tells_content_class_and_name(tmp_path):
    root = fill(tmp_path, {"train/cat": 4, "train/dog": 4})
    prints = {open_data(root, val_share=0).fingerprint}
    picture = root / "train/cat/000.png"
    content = picture.read_bytes()
    picture.write_bytes(encoded(photo(9), "PNG"))
    prints.add(open_data(root, val_share=0).fingerprint)
    picture.rename(root / "train/dog/new.png")
    prints.add(open_data(root, val_share=0).fingerprint)
    (root / "train/dog/new.png").unlink()
    picture.write_bytes(content)
    assert len(prints) == 3
    assert open_data(root, val_share=0).fingerprint in prints


def test_tables_and_summaries(tmp_path):
    data = open_data(fill(tmp_path / "a", {"cat": 12, "dog": 12}))
    rows = list(csv.DictReader(io.StringIO(data.samples_csv().decode())))
    assert sorted(row["key"] for row in rows) == sorted(everywhere(data))
    assert {row["key"].split("/")[0] == row["label"] for row in rows} == {True}
    summary = json.loads(json.dumps(data.summary()))
    assert summary["counts"] == {split.name: len(split) for split in data.splits}
    assert (
        summary["per_class"]["train"]["cat"]
        + summary["per_class"]["val"]["cat"]
        + summary["per_class"]["test"]["cat"]
        == 12
    )
    assert summary["sizes"]["median"] == [48, 36]


def test_images_that_a_network_has_seen_are_recognised(tmp_path):
    first = open_data(fill(tmp_path / "a", {"cat": 12, "dog": 12}))
    other = fill(tmp_path / "b", {"test/cat": 0})
    (other / "test/cat/x.png").write_bytes((tmp_path / "a" / first.train.keys[0]).read_bytes())
    (other / "test/cat/y.png").write_bytes((tmp_path / "a" / first.val.keys[0]).read_bytes())
    (other / "test/cat/z.png").write_bytes(encoded(photo(77), "PNG"))
    assert open_data(other).seen(first.samples_csv()) == {
        "train": ["test/cat/x.png"],
        "val": ["test/cat/y.png"],
    }


# --- bad files --------------------------------------------------------------------------------------------


def test_bad_files_are_an_error_or_left_out(tmp_path):
    root = fill(tmp_path, {"cat": 5, "dog": 5})
    (root / "cat" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 bad file:\n  cat/empty.jpg: empty") as caught:
        open_data(root)
    assert caught.value.exit_code == 3
    data = open_data(root, on_bad="skip")
    assert sum(sizes(data)) == 10
    assert [tuple(one) for one in data.bad] == [("cat/empty.jpg", "empty", "0 bytes")]
    assert "1 file was left out: 1 empty" in data.notes


def test_nothing_but_bad_files(tmp_path):
    fill(tmp_path, {"cat": 0})
    (tmp_path / "cat" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no image that can be read: 1 bad file"):
        open_data(tmp_path, on_bad="skip")


# --- real data -------------------------------------------------------------------------------------------


@pytest.mark.data
def test_mnist(real_data):
    data = open_data(real_data("mnist"))
    assert sizes(data) == (54_000, 6_000, 10_000)
    assert (data.channels, data.typical_side(), len(data.classes)) == (1, 28, 10)
    shares = np.bincount(data.val.labels) / (np.bincount(data.val.labels) + np.bincount(data.train.labels))
    assert np.abs(shares - 0.1).max() < 1e-3


@pytest.mark.data
def test_cifar(real_data):
    data = open_data(real_data("cifar10.zip"))
    assert sizes(data) == (45_000, 5_000, 10_000)
    assert (data.channels, data.typical_side(), data.classes[0]) == (3, 32, "airplane")
    assert data.train.image(7).shape == (32, 32, 3)
