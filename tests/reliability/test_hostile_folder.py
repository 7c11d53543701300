"""A folder as bad as life makes them (R9): no crash, no hang, every bad file once with its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convatlas.data import open_data
from convatlas.data.check import check
from convatlas.data.sources.folder import Folder
from convatlas.data.survey import survey
from convatlas.errors import BadImage, DataError
from corpus import Corpus, encoded, make, photo

pytestmark = pytest.mark.reliability

SURVEY = sys.modules["convatlas.data.survey"]
MAX_RSS_BYTES = 600 * 2**20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make(tmp_path_factory.mktemp("hostile") / "corpus")


def reasons(bad):
    listed = [one.key for one in bad]
    assert len(set(listed)) == len(listed), "a bad file is listed twice"
    return {one.key: one.reason for one in bad}


@pytest.mark.parametrize("workers", [0, 2])
def test_check_lists_every_bad_file_once_with_its_reason(corpus, workers):
    found = check(corpus.root, workers=workers)
    assert reasons(found.bad) == corpus.bad
    assert found.images == len(corpus.good)
    assert not found.ok
    assert found.notes == (f"{corpus.ignored} hidden or system entries were not looked at",)
    assert json.loads(json.dumps(found.to_json()))["bad"][0]["reason"]


def test_check_finds_what_is_wrong_with_the_set(corpus):
    found = {(finding.level, finding.kind, finding.keys) for finding in check(corpus.root).findings}
    assert ("error", "contradiction", ("train/cat/two-classes.jpg", "train/formats/two-classes.jpg")) in found
    assert ("error", "leak", ("train/cat/leak.jpg", "val/cat/leak.jpg")) in found
    assert ("warning", "near leak", ("train/cat/near.jpg", "val/cat/near.jpg")) in found
    assert ("warning", "duplicate", ("train/entries/good.jpg", "train/entries/link-inside.jpg")) in found
    assert ("warning", "empty class", ("empty",)) in found
    assert ("warning", "one image", ("one",)) in found
    assert ("warning", "missing class", ("names",)) in found
    assert ("warning", "names alike", ("Cat", "cat")) in found


def test_the_error_policy_names_ten_and_says_what_to_do(corpus):
    with pytest.raises(DataError) as caught:
        open_data(corpus.root)
    text = str(caught.value)
    assert f"{len(corpus.bad)} bad files" in text
    assert sum(line.startswith("  ") for line in text.splitlines()) == 11
    assert f"... and {len(corpus.bad) - 10} more" in text
    assert "convatlas data check" in text
    assert "--on-bad skip" in text


def test_the_skip_policy_leaves_out_and_counts(corpus):
    data = open_data(corpus.root, on_bad="skip")
    keys = [key for split in data.splits for key in split.keys]
    assert sorted(keys) == sorted(corpus.good)
    assert reasons(data.bad) == corpus.bad
    assert any(note.startswith(f"{len(corpus.bad)} files were left out") for note in data.notes)
    for split in data.splits:
        for i in range(len(split)):
            image = split.image(i)
            assert image.dtype == np.uint8
            assert image.shape == (*split.sizes[i][::-1], data.channels)


CHILD = """
import glob, json, sys, threading, time
from convatlas.data.check import check
peaks = {}
def peak(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
def watch():
    while True:
        for path in glob.glob("/proc/self/task/*/children"):
            for pid in open(path).read().split():
                try:
                    peaks[pid] = max(peaks.get(pid, 0), peak(pid))
                except OSError:
                    pass
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
found = check(sys.argv[1], workers=int(sys.argv[2]))
print(json.dumps([len(found.bad), peak("self") + sum(peaks.values()), len(peaks), "torch" in sys.modules]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_bounded_and_torch_unloaded(corpus, workers):
    command = [sys.executable, "-c", CHILD, str(corpus.root), str(workers)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    bad, rss, processes, torch_loaded = json.loads(done.stdout)
    assert bad == len(corpus.bad)
    assert processes == workers
    assert rss <= MAX_RSS_BYTES
    assert not torch_loaded
    assert not done.stderr


def small_folder(root: Path, count: int = 12) -> Path:
    for i in range(count):
        path = root / ("cat", "dog")[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(200 + i)))
    return root


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_files_that_may_not_be_read():
    import shutil
    import tempfile

    root = Path(tempfile.mkdtemp())  # not below pytest's own folder, which only its owner may enter
    try:
        small_folder(root)
        root.chmod(0o755)
        (root / "cat" / "000.jpg").chmod(0)
        (root / "closed").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            found = check(root, workers=0)
        finally:
            os.seteuid(0)
        assert reasons(found.bad) == {"cat/000.jpg": "unreadable", "closed": "unreadable"}
        assert found.images == 11
    finally:
        shutil.rmtree(root)


def test_a_file_that_becomes_a_link_out_is_refused_when_it_is_read(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encoded(photo(1)))
    root = small_folder(tmp_path / "photos")
    data = open_data(root, workers=0)
    path = root / data.train.keys[0]
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(BadImage) as caught:
        data.train.image(0)
    assert caught.value.reason == "unreadable"
    assert data.train.keys[0] in str(caught.value)


def test_a_folder_that_becomes_a_link_out_is_refused(tmp_path):
    root, other = small_folder(tmp_path / "photos"), small_folder(tmp_path / "other")
    source = Folder(str(root))
    (root / "cat").rename(root.parent / "gone")
    (root / "cat").symlink_to(other / "cat")
    with pytest.raises(BadImage):
        source.content("cat/000.jpg")


# --- processes that die or hang -------------------------------------------------------------------------


class Deadly(Folder):
    """A folder with files that end the process that reads them, or never come."""

    def content(self, place):
        if place.endswith("005.jpg"):
            os.kill(os.getpid(), 9)
        if place.endswith("008.jpg"):
            time.sleep(1000)
        return super().content(place)


def test_a_worker_that_dies_or_hangs_costs_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(SURVEY, "_CHUNK_SECONDS", 4.0)
    monkeypatch.setattr(SURVEY, "_FILE_SECONDS", 4.0)
    root = small_folder(tmp_path / "photos")
    found = survey(Deadly(str(root)), workers=2)
    assert {one.key: one.detail for one in found.bad} == {
        "dog/005.jpg": "the process that decoded it died",
        "cat/008.jpg": "no answer in time",
    }
    assert len(found.items) == 10


def test_workers_give_what_one_process_gives(tmp_path):
    root = small_folder(tmp_path / "photos", 130)
    one, several = survey(Folder(str(root)), workers=0), survey(Folder(str(root)), workers=3)
    assert one.hashes == several.hashes
    assert one.items == several.items
    assert np.array_equal(one.thumbs, several.thumbs)


def test_no_process_is_left_behind_when_the_survey_is_broken_off(tmp_path, monkeypatch):
    started = []
    begin = SURVEY.subprocess.Popen

    def popen(*args, **options):
        started.append(begin(*args, **options))
        return started[-1]

    def interrupted(pipes, timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(SURVEY.subprocess, "Popen", popen)
    monkeypatch.setattr(SURVEY, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        survey(Folder(str(small_folder(tmp_path / "photos"))), workers=2)
    assert started
    assert all(process.poll() is not None for process in started)


def test_twenty_thousand_files(tmp_path):
    """All different, one in a hundred empty: every one is accounted for."""
    count = 20_000
    for i in range(count):
        folder = tmp_path / f"class {i % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(encoded(photo(i, 24, 24)) if i % 100 else b"")
    found = check(tmp_path)
    assert found.images == count - count // 100
    assert reasons(found.bad) == {f"class {i % 7}/{i}.jpg": "empty" for i in range(0, count, 100)}
