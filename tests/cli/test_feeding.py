"""`data shard`, and `train` from shards and with a cache, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convatlas.cli.main import run
from convatlas.files import read_json
from corpus import encoded, photo

SETTINGS = (
    "--model",
    "resnet20_cifar",
    "--set",
    "batch_size=8",
    "--epochs",
    "1",
    "--image-size",
    "72",
    "--workers",
    "1",
)


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "of the user"))
    for i in range(24):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(i, 120, 90)))
    return tmp_path / "photos"


@pytest.mark.timeout(180)
def test_shards_are_trained_on_like_their_folder(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("data", "shard", photos, tmp_path / "out", "--size", "40kB") == 0
    told = capfd.readouterr().out
    assert "all-0000.tar: " in told
    assert "24 images in " in told
    for where, name in ((photos, "folder"), (tmp_path / "out", "shards")):
        assert command("train", where, *SETTINGS, "--out", tmp_path / name, "--quiet") == 0
    ours, theirs = (read_json(tmp_path / name / "run.json") for name in ("folder", "shards"))
    assert ours["fingerprint"] == theirs["fingerprint"]
    assert (tmp_path / "folder/metrics.jsonl").read_bytes() == (
        tmp_path / "shards/metrics.jsonl"
    ).read_bytes()


@pytest.mark.timeout(180)
def test_a_cache_belongs_to_its_run(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    assert command("train", photos, *SETTINGS, "--out", out, "--cache", cache) == 0
    shown = capfd.readouterr()
    assert "bytes are written to" in shown.out + shown.err
    assert len(list(cache.glob("*.pixels"))) == 2  # training parts, and what validation sees
    decided = read_json(out / "run.json")
    assert decided["cache"] == str(cache)
    assert ["--cache", str(cache)] == decided["command"][-2:]
    assert command("train", photos, *SETTINGS, "--out", tmp_path / "again", "--cache", cache) == 0
    assert "bytes are written to" not in "".join(capfd.readouterr())
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "again/metrics.jsonl").read_bytes()
    assert command("train", photos, *SETTINGS, "--out", tmp_path / "none", "--quiet") == 0
    assert command("train", "--resume", tmp_path / "none", "--cache", cache) == 2
    assert "began without a cache" in capfd.readouterr().err
    assert command("train", "--resume", out, "--cache", tmp_path / "moved", "--quiet") == 0


def test_words_that_help(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("data", "shard", photos, tmp_path / "out", "--size", "lots") == 2
    assert "'lots' is not a size" in capfd.readouterr().err
    assert command("data", "shard", photos, photos) == 2
    assert "is there already" in capfd.readouterr().err
    assert command("data", "shard", tmp_path / "nowhere", tmp_path / "out") == 3
    assert "does not exist" in capfd.readouterr().err
    assert command("data", "check", tmp_path / "{0..3}.tar") == 3
    assert "4 of 4 shards are missing" in capfd.readouterr().err
    assert command("data", "shard", photos, tmp_path / "out", "-q") == 0
    assert command("data", "check", tmp_path / "out", "--json", "-") == 0
    assert json.loads(capfd.readouterr().out.split("\n", 1)[1])["kind"] == "shards"
