"""Durable files are plain files: nothing else is written over, by whoever."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from convatlas.errors import ResourceError
from convatlas.files import write_durable


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "page.html"
    os.mkfifo(pipe)
    link = tmp_path / "link.html"
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ResourceError, match=r"a pipe; name a plain file"):
            write_durable(path, b"content")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_a_folder_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(ResourceError, match="a folder; name a plain file"):
            write_durable(path, b"content")
    with pytest.raises(ResourceError, match=f"there is no folder {tmp_path / 'nowhere'}"):
        write_durable(tmp_path / "nowhere" / "page.html", b"content")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ResourceError, match="there is no folder"):
        write_durable(tmp_path / "file" / "page.html", b"content")
    assert not any(path.name != "file" for path in tmp_path.iterdir())


def test_plain_files_and_links_to_them_are_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("old", "link", "dangling", "new"):
        write_durable(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
