"""R4: the disk is full, read-only or over its quota, at every write of a training in turn."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import DIGITS, assert_equal, contents

from convatlas import files
from convatlas.data import Data, open_data
from convatlas.errors import ResourceError
from convatlas.files import newest
from convatlas.train import Compute, Observer, begin, resume

pytestmark = pytest.mark.reliability

CPU = Compute(accelerator="cpu", workers=0)
RELEASE = os.environ.get("CONVATLAS_RELIABILITY") == "release"
EVERY = 1 if RELEASE else 2  # of the sweep's writes
SHORT = {
    **DIGITS,
    "settings": {**DIGITS["settings"], "epochs": 5 if RELEASE else 2, "batch_size": 256},
    "compute": CPU,
}


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits", seed=7)


@contextmanager
def refusing_at(operation: int, code: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The n-th write or fsync, and every later one, fails with `code`."""
    done: list[str] = []

    def tick(what: str) -> None:
        done.append(what)
        if len(done) >= operation:
            raise OSError(code, os.strerror(code))

    class Refusing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, content: bytes) -> int:
            tick("write")
            return self._file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        tick("fsync")
        fsync(descriptor)

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = builtins.open(path, mode, *arguments, **options)  # noqa: SIM115 - the caller closes it
        return Refusing(file) if set(mode) & {"w", "a"} else file

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        patch.setattr(files.os, "fsync", counted)
        yield done


def test_every_write_refused_in_turn(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_at(10**9, errno.ENOSPC, monkeypatch) as done:
        begin(digits, out=tmp_path / "whole", **SHORT)
    expected = contents(tmp_path / "whole")
    codes = [errno.ENOSPC, errno.EROFS, errno.EDQUOT]
    cases = 0
    for operation in range(1, len(done) + 1, EVERY):
        out = tmp_path / f"run-{operation}"
        with (
            pytest.raises(ResourceError) as caught,
            refusing_at(operation, codes[cases % 3], monkeypatch),
        ):
            begin(digits, out=out, **SHORT)
        cases += 1
        assert caught.value.exit_code == 6
        assert re.search(r"[\d,]+ bytes are free", str(caught.value))
        assert not list(out.rglob("*.tmp-*"))
        for parent in ("checkpoints", "best"):
            found, damaged = newest(out / parent)
            assert not damaged
            if found is None and parent == "checkpoints":
                assert not any((out / parent).glob("step-*"))
        if (out / "run.json").exists():  # there is room again
            resume(out, where=digits, compute=CPU)
            assert_equal(out, expected)
    assert cases >= 40


def test_a_disk_that_is_really_full(digits: Data, tmp_path: Path) -> None:
    """A file system of 1 MB in memory, where the kernel itself refuses."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        (disk / "ballast").write_bytes(bytes(500_000))
        with pytest.raises(ResourceError, match=r"bytes are free; [\d,]+ bytes are needed"):
            begin(digits, out=disk / "run", **SHORT)
        assert not list(disk.rglob("*.tmp-*"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class FillsTheDisk(Observer):
    """Leaves not a byte after the first epoch, as another program would."""

    def __init__(self, ballast: Path) -> None:
        self.ballast = ballast

    def evaluated(self, record: Mapping[str, Any]) -> None:
        with open(self.ballast, "wb", buffering=0) as file:
            for size in (2**16, 2**10, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))


def test_a_disk_that_fills_up_while_training(digits: Data, tmp_path: Path) -> None:
    begin(digits, out=tmp_path / "whole", **SHORT)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(ResourceError, match=r"bytes are free; [\d,]+ bytes are needed"):
            begin(digits, out=disk / "run", observer=FillsTheDisk(disk / "ballast"), **SHORT)
        assert newest(disk / "run" / "checkpoints")[0] is not None
        with pytest.raises(ResourceError, match="bytes are free"):
            resume(disk / "run", where=digits, compute=CPU)
        (disk / "ballast").unlink()
        resume(disk / "run", where=digits, compute=CPU)
        assert_equal(disk / "run", contents(tmp_path / "whole"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_read_only_disk(digits: Data, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(ResourceError, match="Read-only file system"):
            begin(digits, out=disk / "run", **SHORT)
        with pytest.raises(ResourceError, match="Read-only file system"):
            files.write_durable(disk / "batch.png", b"content")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_where_the_folder_should_be(digits: Data, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(ResourceError, match="a file of that name is in the way"):
        begin(digits, out=tmp_path / "run", **SHORT)
    assert (tmp_path / "run").read_text() == "not a folder"
