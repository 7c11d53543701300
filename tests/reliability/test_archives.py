"""Archives that want out of their folder, or more memory and time than they are worth (R14).

Thirty archives. Whatever is in them: nothing is written outside the cache, what is refused is refused
within two CPU seconds, and the good pictures beside a bad member can be used.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import pytest

from convatlas.data import open_data
from convatlas.data.check import check
from convatlas.data.sources import archive as archives
from convatlas.errors import DataError
from corpus import encoded, photo

pytestmark = pytest.mark.reliability

MAX_CPU_SECONDS = 2.0
GOOD = {
    f"{name}/{i}.jpg": encoded(photo(10 * j + i)) for j, name in enumerate(("cat", "dog")) for i in range(4)
}
EVIL = encoded(photo(99))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, whose surroundings are watched."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    outside = [Path("/evil.jpg"), Path("/tmp/evil.jpg"), tmp_path.parent / "evil.jpg"]
    yield inner
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert written <= {"a", "cache"}
    assert not any(path.exists() for path in outside)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.suffix == ".tar", f"{path} was written"


def make_zip(path, members, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_info(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


NAMES = {  # a member's name -> the reason for refusing it
    "../evil.jpg": "unsafe name",
    "cat/../../evil.jpg": "unsafe name",
    "../" * 20 + "tmp/evil.jpg": "unsafe name",
    "/evil.jpg": "unsafe name",
    "//server/share/evil.jpg": "unsafe name",
    "C:/evil.jpg": "unsafe name",
    "C:\\evil.jpg": "unsafe name",
    "..\\..\\evil.jpg": "unsafe name",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out(place, kind, name):
    members = [*GOOD.items(), (name, EVIL)]
    path = make_zip(place / "a.zip", members) if kind == "zip" else make_tar(place / "a.tar", members)
    found = check(path)
    assert [one.reason for one in found.bad] == [NAMES[name]]
    assert found.images == len(GOOD)
    assert len(open_data(path, on_bad="skip").train.image(0).shape) == 3


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (special("cat/link.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (special("cat/link.jpg", tarfile.SYMTYPE, "../../evil.jpg"), "link"),
        (special("cat/hard.jpg", tarfile.LNKTYPE, "/etc/passwd"), "link"),
        (special("cat/hard.jpg", tarfile.LNKTYPE, "dog/0.jpg"), "link"),
        (special("cat/device.jpg", tarfile.CHRTYPE), "not a file"),
        (special("cat/disk.jpg", tarfile.BLKTYPE), "not a file"),
        (special("cat/pipe.jpg", tarfile.FIFOTYPE), "not a file"),
    ],
)
def test_members_of_a_tar_that_are_no_files(place, member, reason):
    found = check(make_tar(place / "a.tar.gz", [*GOOD.items(), (member, b"")], "w:gz"))
    assert [(one.key, one.reason) for one in found.bad] == [(member.name, reason)]
    assert found.images == len(GOOD)


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o120777, "link"), (0o020666, "not a file"), (0o010666, "not a file")]
)
def test_members_of_a_zip_that_are_no_files(place, mode, reason):
    found = check(make_zip(place / "a.zip", [*GOOD.items(), (zip_info("cat/x.jpg", mode), b"/etc/passwd")]))
    assert [(one.key, one.reason) for one in found.bad] == [("cat/x.jpg", reason)]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_twice_counts_once(place, kind):
    members = [*GOOD.items(), ("cat/0.jpg", EVIL)]
    path = make_zip(place / "a.zip", members) if kind == "zip" else make_tar(place / "a.tar", members)
    found = check(path)
    assert [(one.key, one.reason) for one in found.bad] == [("cat/0.jpg", "listed twice")]
    assert found.images == len(GOOD)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_differ_in_case_or_form_stay_apart(place, kind):
    names = (
        "cat/A.jpg",
        "cat/a.jpg",
        "cat/\u00e9.jpg",
        "cat/e\u0301.jpg",
        "cat/\U0001f431.jpg",
        "cat/new\nline.jpg",
    )
    members = [*GOOD.items(), *((name, encoded(photo(50 + i))) for i, name in enumerate(names))]
    path = make_zip(place / "a.zip", members) if kind == "zip" else make_tar(place / "a.tar", members)
    found = check(path)
    assert found.images == len(GOOD) + len(names)
    assert sum(finding.kind == "names alike" for finding in found.findings) == 2


def test_an_encrypted_member_and_an_unknown_method(place):
    path = make_zip(place / "a.zip", GOOD.items())
    content = bytearray(path.read_bytes())
    first, second = _entries(content)[:2]
    content[first + 8] |= 1
    content[second + 10 : second + 12] = struct.pack("<H", 99)
    path.write_bytes(content)
    assert sorted(one.reason for one in check(path).bad) == ["encrypted", "format not accepted"]


def _entries(content):
    found, at = [], content.find(b"PK\1\2")
    while at >= 0:
        found.append(at)
        at = content.find(b"PK\1\2", at + 4)
    return found


# --- bombs ---------------------------------------------------------------------------------------------


def refused(path):
    """Open it, expect a `DataError` soon, and give its text."""
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        open_data(path, workers=0)
    assert time.process_time() - start <= MAX_CPU_SECONDS
    return str(caught.value)


def test_a_zip_that_inflates_a_thousand_times(place):
    path = make_zip(place / "a.zip", [("cat/0.jpg", bytes(64 * 2**20))], compression=zipfile.ZIP_DEFLATED)
    assert "inflates" in refused(path)


def test_one_member_that_inflates_a_thousand_times(place):
    noise = [(f"dog/{i}.jpg", encoded(photo(i, 400, 300), quality=99)) for i in range(10)]
    path = place / "a.zip"
    make_zip(path, noise)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.jpg", bytes(16 * 2**20))
    found = check(path)
    assert [(one.key, one.reason) for one in found.bad] == [("cat/0.jpg", "compressed too far")]


def test_a_nested_bomb_is_never_opened(place):
    """42.zip: sixteen zips of sixteen zips of ...; here as class folders full of zips."""
    inner = io.BytesIO()
    make_zip(inner, [("x", bytes(8 * 2**20))], compression=zipfile.ZIP_DEFLATED)
    path = make_zip(
        place / "42.zip", [(f"lib {i:x}/{j}.zip", inner.getvalue()) for i in range(16) for j in range(16)]
    )
    assert "bad files" in refused(path)
    assert {one.reason for one in check(path).bad} == {"not an image"}


def overlapping_zip(path, entries, size):
    """Every entry names the same bytes (D. Fifield, "A better zip bomb", 2019), in the oldest form."""
    packer = io.BytesIO()
    make_zip(packer, [("cat/0.jpg", bytes(size))], compression=zipfile.ZIP_DEFLATED)
    content = packer.getvalue()
    start = content.index(b"PK\1\2")
    local, entry = content[:start], content[start : content.index(b"PK\5\6")]
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, entries, entries, len(entry) * entries, len(local), 0)
    central = b"".join(entry.replace(b"cat/0.jpg", b"cat/%05d" % i) for i in range(entries))
    path.write_bytes(local + central + end)
    return path


def test_entries_that_overlap(place):
    assert "inflates" in refused(overlapping_zip(place / "a.zip", 5000, 2**20))


def test_a_million_entries_of_a_zip(place):
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = archives.MAX_MEMBERS + 1
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, count * len(entry), 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, count * len(entry), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    honest = place / "a.zip"
    honest.write_bytes(b"PK\3\4" + bytes(26) + entry * count + wide + locator + end)
    assert "1,000,001 entries" in refused(honest)
    liar = place / "b.zip"
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 5, 5, count * len(entry), 30, 0)
    liar.write_bytes(b"PK\3\4" + bytes(26) + entry * count + end)
    assert "1,000,001 entries" in refused(liar)


def test_a_million_members_of_a_tar(place):
    with open(place / "a.tar", "wb") as file:
        block = tarfile.TarInfo("cat/0.jpg").tobuf() * 1000
        for _ in range(archives.MAX_MEMBERS // 1000 + 1):
            file.write(block)
    assert "more than 1,000,000 members" in refused(place / "a.tar")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_inflates_a_thousand_times(place, pack):
    inner = make_tar(place / "inner.tar", [("cat/0.jpg", bytes(60 * 2**20))])
    (place / "a.tar.x").write_bytes(pack(inner.read_bytes()))
    assert "inflates more than 100 times" in refused(place / "a.tar.x")
    assert not list((place.parents[1] / "cache").rglob("*.tar*")), "what was refused is removed"


def test_the_caps_are_named(place, monkeypatch):
    path = make_zip(place / "a.zip", GOOD.items())
    monkeypatch.setattr(archives, "MAX_TOTAL", 10_000)
    assert "at most 10,000 are read" in refused(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert "at most 3 are read" in refused(path)


def test_a_member_that_is_too_large_is_left_out(place, monkeypatch):
    sizes = sorted(map(len, GOOD.values()))
    monkeypatch.setattr(archives, "MAX_BYTES", sizes[-2])
    for path in (make_zip(place / "a.zip", GOOD.items()), make_tar(place / "a.tar", GOOD.items())):
        found = check(path)
        assert [one.reason for one in found.bad] == ["too large"]
        assert f"at most {sizes[-2]:,} are read" in found.bad[0].detail


# --- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("percent", [5, 50, 95])
def test_an_archive_that_ends_too_early(place, kind, percent):
    path = place / f"a.{kind}"
    if kind == "zip":
        make_zip(path, GOOD.items())
    else:
        make_tar(path, GOOD.items(), "w:" + kind.partition(".")[2])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * percent // 100])
    try:
        found = check(path)
    except DataError:
        return
    assert (kind, percent) == ("tar", 95), "only the zeros behind the last member are missing"
    assert found.images == len(GOOD)


def test_a_tar_cut_between_two_members_is_refused(place):
    path = make_tar(place / "a.tar", GOOD.items())
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[5].offset
    path.write_bytes(path.read_bytes()[:cut])
    assert "no end mark" in refused(path)


def test_damage_inside_costs_one_member(place):
    path = make_zip(place / "a.zip", GOOD.items(), compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(GOOD["cat/1.jpg"]) + 700] ^= 0xFF
    path.write_bytes(content)
    assert [(one.key, one.reason) for one in check(path).bad] == [("cat/1.jpg", "damaged")]


def test_junk_of_other_systems_is_counted_and_not_read(place):
    junk = [("__MACOSX/cat/._0.jpg", b"junk"), ("cat/.DS_Store", b"junk"), ("cat/Thumbs.db", b"junk")]
    found = check(make_zip(place / "a.zip", [*GOOD.items(), *junk]))
    assert found.ok
    assert "3 hidden or system entries were not looked at" in found.notes
