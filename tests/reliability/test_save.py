"""R3: the process dies inside a save, at every operation on the disk in turn.

In-process the death is an exception that nothing catches at each write, fsync and rename; what it leaves
behind is what a kill there leaves. `test_kill.py` does the same to real processes.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from convatlas import files
from convatlas.files import AppendLog, commit, newest, write_durable

pytestmark = pytest.mark.reliability

RELEASE = os.environ.get("CONVATLAS_RELIABILITY") == "release"


class Death(BaseException):
    """A kill: no handler of the program runs."""


@contextmanager
def dying_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raise `Death` at the n-th operation; a write is cut in half first. The list tells what was done."""
    done: list[str] = []

    def tick(what: str, before: Any = None) -> None:
        done.append(what)
        if len(done) == operation:
            if before is not None:
                before()
            raise Death(what)

    class Dying:
        """A file whose writes count."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, content: bytes) -> int:
            tick("write", lambda: (self._file.write(content[: len(content) // 2]), self._file.flush()))
            return self._file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    original = {name: getattr(os, name) for name in ("fsync", "replace")}

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = builtins.open(path, mode, *arguments, **options)  # noqa: SIM115 - the caller closes it
        return Dying(file) if "w" in mode else file

    def counting(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            tick(name)
            return original[name](*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        for name in original:
            patch.setattr(files.os, name, counting(name))
        # a killed process does not clean up
        patch.setattr(
            Path,
            "unlink",
            lambda self, missing_ok=False: os.unlink(self) if not done_for(done, operation) else None,
        )
        yield done


def done_for(done: list[str], operation: int) -> bool:
    return len(done) >= operation


def parts(step: int) -> dict[str, bytes]:
    return {
        "model.safetensors": bytes([step]) * 4096,
        "optimizer.safetensors": bytes([step + 1]) * 8192,
        "state.json": b"{}",
    }


def test_dying_at_every_operation_leaves_a_loadable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 0
    for operation in range(1, 1000):
        parent = files.make_folder(tmp_path / str(operation))
        commit(parent, "step-00000010", parts(10))
        commit(parent, "step-00000020", parts(20))
        try:
            with dying_at(operation, monkeypatch):
                commit(parent, "step-00000030", parts(30))
            break  # the save has fewer operations than this
        except Death:
            deaths += 1
        found, _ = newest(parent)
        assert found is not None, f"nothing loadable after a death at operation {operation}"
        step = int(found.name[-2:])
        assert step in (20, 30)
        for name, content in parts(step).items():
            assert (found / name).read_bytes() == content
        # and life goes on: the same save again, on top of what was left
        commit(parent, "step-00000030", parts(30))
        assert newest(parent)[0] == parent / "step-00000030"
        assert not list(parent.rglob("*.tmp-*"))
    assert deaths >= 16  # 4 files x (write, fsync, rename, fsync of the folder), and the parent's


CUTS = 480


@pytest.mark.parametrize("cut", range(CUTS if RELEASE else 34))
def test_half_a_file_is_never_accepted(tmp_path: Path, cut: int) -> None:
    """Each file of the newest commit cut short or changed somewhere: the one before is taken."""
    commit(tmp_path, "step-00000010", parts(10))
    folder = commit(tmp_path, "step-00000020", parts(20))
    victims = [*parts(20), files.MANIFEST]
    path = folder / victims[cut % len(victims)]
    content = path.read_bytes()
    if cut // len(victims) % 2:
        path.write_bytes(content[: (len(content) - 1) * cut // CUTS])  # the last byte is only a line's end
    else:
        position = (cut * 7919) % len(content)
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :])
    found, damaged = newest(tmp_path)
    assert found is not None
    assert found.name == "step-00000010"
    assert damaged == [folder]


def test_a_file_is_old_or_new_but_never_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_durable(path, b"old" * 1000)
    for operation in range(1, 5):
        with pytest.raises(Death), dying_at(operation, monkeypatch):
            write_durable(path, b"new" * 1000)
        assert path.read_bytes() in (b"old" * 1000, b"new" * 1000)
        write_durable(path, b"old" * 1000)


def test_a_rename_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, rename, folder, in this order: without one of them a power cut loses what was reported as written."""
    with dying_at(10_000, monkeypatch) as done:
        write_durable(tmp_path / "x", b"content")
    assert done == ["write", "fsync", "replace", "fsync"]


def test_a_log_is_cut_back_to_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = AppendLog(path)
    log.append({"step": 1, "loss": 0.1})
    offset = log.offset
    log.append({"step": 2, "loss": float("nan")})
    log.close()
    assert b"null" in path.read_bytes()
    again = AppendLog(path, offset)
    again.append({"step": 2, "loss": 0.25})
    again.close()
    assert path.read_text() == '{"loss": 0.1, "step": 1}\n{"loss": 0.25, "step": 2}\n'
