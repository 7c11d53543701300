"""A folder of images: `train/CLASS/*` with or without `val` and `test`, or one level `CLASS/*`.

Every entry is accounted for: read, listed as bad with its reason, or counted in a note. Nothing
outside the folder is ever read: a link is followed only to a regular file inside.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from convatlas.data.decode import MAX_BYTES
from convatlas.data.sources.layout import Parts, arrange, is_junk, looks_like_image
from convatlas.data.sources.source import BadFile, Listing, Source, printable
from convatlas.errors import BadImage, DataError
from convatlas.files import inside, open_untrusted


class Folder(Source):
    """Images below a folder. A sample's place is its relative path, undecodable bytes kept (PEP 383)."""

    kind = "folder"

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.root = os.path.realpath(where)

    def listing(self) -> Listing:
        """Walk the folder without reading a picture."""
        files, folders, bad, junk = list[tuple[Parts, str]](), list[Parts](), list[BadFile](), 0
        waiting: list[Parts] = [()]
        while waiting:
            parts = waiting.pop()
            try:
                with os.scandir(os.path.join(self.root, *parts)) as entries:
                    children = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                bad.append(BadFile(_key(parts), "unreadable", error.strerror or "folder"))
                continue
            for entry in children:
                child = (*parts, entry.name)
                if is_junk(entry.name):
                    junk += 1
                elif wrong := self._refuse(entry):
                    bad.append(BadFile(_key(child), *wrong))
                elif entry.is_dir():
                    folders.append(child)
                    waiting.append(child)
                else:
                    files.append((child, "/".join(child)))
        try:
            listing = arrange(files, folders, self.name, junk)
        except DataError:
            if bad and not files:
                raise DataError(
                    f"{self.name}: nothing in it can be read: {bad[0].key} ({bad[0].reason})."
                ) from None
            raise
        listing.bad = sorted(bad + listing.bad)
        return listing

    def _refuse(self, entry: os.DirEntry[str]) -> tuple[str, str] | None:
        """Reason and detail for an entry that is neither a folder nor a file inside the root."""
        try:
            if entry.is_symlink():
                if not inside(Path(entry.path), Path(self.root)):
                    return "link", "it leads out of the folder"
                if not os.path.exists(entry.path):
                    return "link", "it leads nowhere"
                if entry.is_dir():
                    return "link", "it leads to a folder; only links to files are followed"
            if entry.is_dir():
                return (
                    ("not a file", "a folder with an image's name") if looks_like_image(entry.name) else None
                )
            if not entry.is_file():
                return "not a file", _kind(entry.stat().st_mode)
        except OSError as error:
            return "link" if entry.is_symlink() else "unreadable", error.strerror or str(error)
        return None

    def content(self, place: str) -> bytes:
        """Read one file, after a fresh look at where it really lies."""
        path = Path(self.root, place)
        try:
            with open_untrusted(path, root=Path(self.root)) as file:
                content = file.read(MAX_BYTES + 1)
        except DataError as error:
            cause = error.__cause__
            reason = "missing" if isinstance(cause, FileNotFoundError) else "unreadable"
            raise BadImage(
                reason, getattr(cause, "strerror", None) or "no regular file in the folder"
            ) from error
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from error
        if len(content) > MAX_BYTES:
            raise BadImage("too large", f"more than {MAX_BYTES:,} bytes")
        return content


def _key(parts: Parts) -> str:
    return "/".join(map(printable, parts)) or "."


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
