"""The check's verdict, its JSON and its text; the hostile folder is in tests/reliability."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from convatlas.data.check import check
from convatlas.data.dataset import open_data
from convatlas.data.sources import open_source
from convatlas.data.survey import survey
from convatlas.errors import DataError, UsageError
from corpus import encoded, photo


def folder(root, *names, start=0):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(photo(start + i), "PNG"))
    return root


def shown(found, width=100):
    out = io.StringIO()
    found.render(Console(file=out, width=width, color_system=None))
    return out.getvalue()


@pytest.fixture
def good(tmp_path):
    return folder(tmp_path / "photos", "cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png")


def test_a_set_in_order(good):
    found = check(good)
    assert found.ok
    assert found.findings == ()
    assert found.counts == {"all": {"cat": 2, "dog": 2}}
    assert (found.images, found.channels, found.sizes["max"]) == (4, 3, [96, 72])
    text = shown(found)
    assert "4 images in 2 classes, colour, in order" in " ".join(text.split())


def test_a_bad_file_puts_it_out_of_order(good):
    (good / "cat" / "[red]x.jpg").write_bytes(b"")
    found = check(good)
    assert not found.ok
    assert [tuple(one) for one in found.bad] == [("cat/[red]x.jpg", "empty", "0 bytes")]
    assert "[red]x.jpg" in shown(found), "a name is never markup"
    assert found.to_json()["bad"] == [{"key": "cat/[red]x.jpg", "reason": "empty", "detail": "0 bytes"}]


@pytest.mark.parametrize(
    ("copy", "kind", "ok"),
    [
        ("dog/copy.png", "contradiction", False),
        ("cat/copy.png", "duplicate", True),
    ],
)
def test_copies(good, copy, kind, ok):
    (good / copy).write_bytes((good / "cat/a.png").read_bytes())
    found = check(good)
    assert [(finding.kind, finding.keys) for finding in found.findings] == [(kind, ("cat/a.png", copy))]
    assert found.ok is ok


def test_a_copy_in_another_split_is_an_error_and_a_likeness_a_warning(tmp_path):
    root = folder(tmp_path, "train/cat/a.png", "train/cat/b.png", "test/cat/c.png")
    assert check(root).ok
    (root / "test/cat/near.jpg").write_bytes(encoded(photo(1), quality=95))
    found = check(root)
    assert found.ok
    assert [(finding.kind, finding.keys) for finding in found.findings] == [
        ("near leak", ("test/cat/near.jpg", "train/cat/b.png"))
    ]
    (root / "test/cat/copy.png").write_bytes((root / "train/cat/a.png").read_bytes())
    found = check(root)
    assert not found.ok
    assert found.findings[0][:2] == ("error", "leak")


def patients(root):
    """Patients 1 and 2 stand in train and test, 3 in train and 4 in test alone."""
    names = (
        "train/ill/p1-a",
        "train/ill/p2-a",
        "train/ill/p3-a",
        "test/ill/p1-b",
        "test/ill/p2-b",
        "test/ill/p4-a",
    )
    return folder(root / "patients", *(f"{name}.png" for name in names))


def test_a_group_in_two_given_splits_is_an_error(tmp_path):
    root = patients(tmp_path)
    assert check(root).ok
    found = check(root, group_by=r"/(p\d)-")
    assert not found.ok
    assert [(one.level, one.kind, one.keys) for one in found.findings] == [
        ("error", "group leak", ("test/ill/p1-b.png", "train/ill/p1-a.png")),
        ("error", "group leak", ("test/ill/p2-b.png", "train/ill/p2-a.png")),
    ]
    assert found.findings[0].message == "group p1 in train and test: train/ill/p1-a.png, test/ill/p1-b.png"
    assert check(root, group_by=r"(p\d-\w)").ok


def test_a_large_group_is_told_by_a_few_keys_of_every_split(tmp_path):
    names = [f"{split}/ill/p1-{i}.png" for split in ("test", "train") for i in range(6)]
    (found,) = check(folder(tmp_path, *names), group_by=r"(p\d)").findings
    assert found.keys == tuple(names)
    assert len(re.findall(r"\.png", found.message)) == 4
    assert "train/" in found.message
    assert "test/" in found.message
    assert found.message.endswith(" and 8 more")


@pytest.mark.parametrize(("column", "group_by"), [("patient", "patient"), ("group", None)])
def test_groups_of_a_column(tmp_path, column, group_by):
    rows = [f"{path.relative_to(tmp_path)},ill" for path in sorted(patients(tmp_path).rglob("*.png"))]
    splits = [
        f"{row},{'train' if '/train/' in row else 'test'},{re.findall('p[0-9]', row)[0]}" for row in rows
    ]
    (tmp_path / "list.csv").write_text("\n".join([f"path,label,split,{column}", *splits]))
    found = check(tmp_path / "list.csv", group_by=group_by)
    assert [one.kind for one in found.findings] == ["group leak", "group leak"]
    with pytest.raises(DataError, match="no column 'site'"):
        check(tmp_path / "list.csv", group_by="site")


@pytest.mark.parametrize(
    ("group_by", "told"),
    [
        ("(", "no regular expression"),
        (r"\d+", "has 0 groups"),
        (r"(a)(b)", "has 2"),
        (r"x(\d+)", "names no group"),
    ],
)
def test_group_by_that_cannot_be_used(good, group_by, told):
    with pytest.raises(UsageError, match=told):
        check(good, group_by=group_by)


def test_groups_that_nothing_gives_a_split_are_in_order(good):
    assert check(good, group_by=r"/(\w)").ok


def test_one_of_a_kind_is_told_in_the_singular(tmp_path):
    root = folder(tmp_path, "cat/a.png")
    (root / "cat" / "b.png").write_bytes(b"")
    (root / "cat" / ".DS_Store").write_bytes(b"")
    (root / "list.txt").write_bytes(b"")
    text = " ".join(shown(check(root)).split())
    assert "1 image in 1 class," in text
    assert "1 bad file " in text
    assert "1 hidden or system entry was not looked at" in text
    assert "1 file outside class folders was not looked at" in text


def test_json_is_the_same_for_the_same_data(good):
    first, again = (json.dumps(check(good).to_json(), sort_keys=True) for _ in range(2))
    assert first == again
    assert set(json.loads(first)) == {
        *(
            "where",
            "kind",
            "ok",
            "images",
            "classes",
            "counts",
            "sizes",
            "channels",
            "bad",
            "findings",
            "notes",
        )
    }


def test_long_lists_are_cut_on_a_terminal_and_whole_in_json(good):
    for i in range(50):
        (good / "cat" / f"bad{i}.jpg").write_bytes(b"")
    found = check(good)
    assert len(found.to_json()["bad"]) == 50
    assert "... and 30 more" in shown(found)


def test_one_survey_serves_check_and_opening(good):
    seen = survey(open_source(good))
    assert check(good, survey_of=seen).images == 4
    data = open_data(good, survey=seen)
    assert sum(map(len, data.splits)) == 4


def test_other_sources():
    found = check("digits")
    assert found.ok
    assert found.images == 1797


@pytest.mark.data
def test_cifar_has_known_likenesses(real_data):
    """CIFAR-10's test set has near copies in its train set (Barz & Denzler, 2020): warnings, no errors."""
    found = check(real_data("cifar10.zip"))
    assert found.ok
    assert found.counts["train"]["cat"] == 5000
    assert 3 <= sum(finding.kind == "near leak" for finding in found.findings) <= 20
