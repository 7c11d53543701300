"""The check's verdict, its JSON and its text; the hostile folder is in tests/reliability."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from convatlas.data.check import check
from convatlas.data.dataset import open_data
from convatlas.data.sources import open_source
from convatlas.data.survey import survey
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
