"""The one way to write a durable file, and the one way to open an untrusted one.

**Durable.** A file is either there whole or not at all, whatever happens in between: a temporary file
beside the target, flush, fsync, rename, fsync of the folder. Several files that belong together are
a `commit`: a folder with a manifest of SHA-256 hashes, which is written last. A reader takes the
newest folder whose manifest and hashes hold.

**Untrusted.** What a user points at is opened only if it is a regular file, inside the folder it claims
to be in, and not larger than the caller allows.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from convatlas.errors import BadCheckpoint, DataError, ResourceError

MANIFEST = "manifest.json"
KEPT = 2  # commits of one kind that stay on the disk
Part = bytes | Callable[[BinaryIO], object]  # the content, or a function that writes it

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


def _fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(path: Path) -> None:
    """Raise `ResourceError` for what can be no file: a folder, a pipe, a device, or a name in no folder.

    A rename would put a file in the place of a pipe or a device that belongs to others; root may do that.
    """
    if path.exists() and not path.is_file():
        raise ResourceError(f"cannot write {path}: it is {_kind(path)}; name a plain file.")
    if not path.parent.is_dir():
        raise ResourceError(f"cannot write {path}: there is no folder {path.parent}.")


def _refuse(error: OSError, path: Path, needed: int | None) -> ResourceError:
    """The error for a write that the system refused, with the bytes free and needed."""
    folder = path if path.is_dir() else path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    need = f"; {needed:,} bytes are needed" if needed is not None else ""
    return ResourceError(
        f"cannot write {path}: {error.strerror or error} ({free:,} bytes are free{need}). "
        "What was there before is untouched. Make room or choose another folder."
    )


def make_folder(path: Path) -> Path:
    """Create a folder with its parents. Raises `ResourceError` if that is not allowed."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _fsync_folder(path.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise ResourceError(f"{path} cannot be a folder: a file of that name is in the way.") from error
    except OSError as error:
        raise _refuse(error, path, None) from error
    return path


def write_durable(path: Path, content: Part) -> str:
    """Write one file so that it is whole or absent; give its SHA-256.

    Raises `ResourceError` with the free and the needed bytes if the disk refuses; then no temporary
    file is left and the file that was there before is intact. What is there and no plain file is refused too.
    """
    _plain(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        digest = sha256(temporary)
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        if error.errno in _NO_ROOM:
            raise _refuse(error, path, len(content) if isinstance(content, bytes) else None) from error
        raise
    except BaseException:
        _remove(temporary)
        raise
    return digest


def _remove(temporary: Path) -> None:
    """Clean up after a failure, without a second failure in its place."""
    with suppress(OSError):
        temporary.unlink()


def write_json(path: Path, value: object) -> str:
    """Write JSON durably: sorted keys, two spaces, a newline at the end, no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
    return write_durable(path, text.encode())


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- several files at once ---------------------------------------------------------------------------


def commit(parent: Path, name: str, parts: Mapping[str, Part], *, keep: int = KEPT) -> Path:
    """Write `parts` into the folder `parent/name`, then its manifest; keep the newest `keep` commits.

    `name` ends in numbers ("step-00000120-00002"), by which commits are ordered. Writing the same name
    again leaves what is there if it is whole.
    """
    folder = parent / name
    if whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    try:
        make_folder(folder)
        hashes = {part: write_durable(folder / part, content) for part, content in parts.items()}
        write_json(folder / MANIFEST, {"files": hashes})
        try:
            _fsync_folder(parent)
        except OSError as error:
            raise _refuse(error, parent, None) from error
    except ResourceError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for old in sorted(_numbered(parent), key=_number)[:-keep]:
        if old != folder:
            _discard(old)
    return folder


def _number(folder: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"-(\d+)", folder.name))


def _numbered(parent: Path) -> list[Path]:
    return (
        [child for child in parent.iterdir() if child.is_dir() and _number(child)] if parent.is_dir() else []
    )


def forget_after(parent: Path, number: int) -> None:
    """Remove the commits below `parent` whose first number is above `number`: their future will be made anew."""
    for folder in _numbered(parent):
        if _number(folder)[0] > number:
            _discard(folder)


def _discard(folder: Path) -> None:
    """Remove a commit, its manifest first: one that is half removed must not look whole."""
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise _refuse(error, folder, None) from error
    shutil.rmtree(folder, ignore_errors=True)


def whole(folder: Path) -> bool:
    """Whether a committed folder has its manifest and every file with the hash written there."""
    try:
        files = read_json(folder / MANIFEST)["files"]
        return all(sha256(folder / Path(part).name) == digest for part, digest in files.items())
    except (BadCheckpoint, OSError, KeyError, TypeError, AttributeError):
        return False


def newest(parent: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole commit below `parent`, and the newer ones that were passed over as damaged."""
    damaged: list[Path] = []
    for folder in sorted(_numbered(parent), key=_number, reverse=True):
        if whole(folder):
            return folder, damaged
        damaged.append(folder)
    return None, damaged


# --- logs ---------------------------------------------------------------------------------------------


class AppendLog:
    """A JSON-lines file that only grows, and is cut back to a known offset when a run goes on.

    `offset` is the length in bytes of what has been written; `sync` makes it durable.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._unwritten = 0  # bytes that the system has not taken
        try:
            self._file = open(path, "ab")  # noqa: SIM115 - lives as long as the log
        except OSError as error:
            raise _refuse(error, path, None) from error
        try:
            if self._file.tell() < offset:
                raise BadCheckpoint(
                    f"{path} is {self._file.tell()} bytes long, but its checkpoint says {offset}."
                )
            self._file.truncate(offset)
            self._file.seek(offset)
            _fsync_folder(path.parent)  # a checkpoint counts on the log being there
        except OSError as error:
            self._file.close()
            raise _refuse(error, path, None) from error
        except BadCheckpoint:
            self._file.close()
            raise

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line. Floats are written with all their digits; NaN and infinities as null."""
        line = (json.dumps(_finite(record), sort_keys=True, allow_nan=False) + "\n").encode()
        self._unwritten += len(line)
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise _refuse(error, self.path, self._unwritten) from error
        self._unwritten = 0

    def sync(self) -> None:
        """Bring what was written to the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _refuse(error, self.path, None) from error

    def close(self) -> None:
        """Release the file. Raises `ResourceError` if what was not yet written cannot be."""
        try:
            self._file.close()
        except OSError as error:
            raise _refuse(error, self.path, self._unwritten) from error


def _finite(value: Any) -> Any:
    """The same value with floats that JSON does not know replaced by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


# --- reading what we did not write ----------------------------------------------------------------------


def inside(path: Path, root: Path) -> bool:
    """Whether `path`, with every link followed, still lies in `root`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def open_untrusted(path: Path, *, root: Path | None = None, max_bytes: int | None = None) -> BinaryIO:
    """Open a regular file for reading; anything else is a `DataError` that says what it is.

    Pipes and devices would block or never end, so the type is looked at before and after opening.
    `root`: the folder that the file must really lie in. `max_bytes`: refuse a larger file.
    """
    if root is not None and not inside(path, root):
        raise DataError(f"{path} leads outside its folder.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path} is not a regular file but {_kind(path)}.")
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError as error:
        reason = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        raise DataError(f"{path} {reason}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or (max_bytes is not None and status.st_size > max_bytes):
        file.close()
        raise DataError(f"{path} has {status.st_size:,} bytes; at most {max_bytes or 0:,} are read.")
    return file


def read_untrusted(path: Path, *, root: Path | None = None, max_bytes: int) -> bytes:
    """The content of `open_untrusted`, never more than `max_bytes`."""
    with open_untrusted(path, root=root, max_bytes=max_bytes) as file:
        return file.read(max_bytes)


def _kind(path: Path) -> str:
    mode = os.stat(path).st_mode
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISCHR, "a device"),
    ):
        if test(mode):
            return kind
    return "something else"


def read_json(path: Path, *, max_bytes: int = 64 * 2**20) -> Any:
    """JSON of ours, read as if it were not: size-capped, no duplicate names, no NaN. `BadCheckpoint` otherwise."""
    try:
        text = read_untrusted(path, max_bytes=max_bytes)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except DataError as error:
        raise BadCheckpoint(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not the JSON that was expected: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
