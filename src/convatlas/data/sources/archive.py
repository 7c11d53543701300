"""Zip and tar archives of an image folder, read where they lie: no member is ever written under its name.

A member is found by its offset and read with `pread`, so that threads and forked processes share one
file without disturbing each other. A compressed tar cannot be read in the middle; it is inflated once,
as one plain tar named by its hash, into convatlas's cache folder. Limits, each named in its message:

* `MAX_MEMBERS` entries, `MAX_TOTAL` bytes in all, `MAX_BYTES` in one member;
* `MAX_RATIO` times more bytes than the archive has, over all and for a member above 1 MiB.

Names that are absolute, climb (`..`) or name a drive, links and devices are listed as bad files.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import os
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from convatlas.data.decode import MAX_BYTES
from convatlas.data.sources.layout import Parts, arrange
from convatlas.data.sources.source import BadFile, Listing, Source, printable
from convatlas.errors import BadImage, DataError, ResourceError
from convatlas.files import make_folder, sha256, write_durable

MAX_MEMBERS = 1_000_000
MAX_TOTAL = 256 * 2**30
MAX_RATIO = 100
_FREE_RATIO_BYTES = 2**20  # small members may compress as well as they like
_DRIVE = re.compile(r"[A-Za-z]:")
_BLOCK = 512
_PACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error)


class Member(NamedTuple):
    """One entry of an archive; `place` is None for a folder."""

    name: str
    place: Any
    wrong: tuple[str, str] | None = None  # reason and detail


def is_zip(head: bytes) -> bool:
    """Whether a file that starts so is a zip."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_tar(head: bytes) -> bool:
    """Whether a file that starts so is a tar, or one of the compressions that tars come in."""
    return head[257:262] == b"ustar" or any(head.startswith(magic) for magic in _PACKERS)


class _Archive(Source):
    """What zip and tar share: one descriptor for the process, names, the walk into classes."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._descriptor: int | None = None

    def _path(self) -> str:
        return self.where

    def _read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; fewer at the end of the file. Raises `BadImage`."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path(), os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise BadImage("unreadable", f"{self.name}: {error.strerror}") from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}  # a process opens its own

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _members(self) -> Iterable[Member]:
        raise NotImplementedError

    def members(self) -> Iterator[Member]:
        """Every entry in the archive's order, and what is wrong with it. Raises `DataError` for a broken archive."""
        try:
            yield from self._members()
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}.") from error
        except (*_DAMAGE, ValueError, NotImplementedError) as error:
            raise DataError(f"{self.name} is damaged: {error}.") from error

    def listing(self) -> Listing:
        """Read the table of contents, and no member."""
        files, folders, bad, seen = list[tuple[Parts, Any]](), list[Parts](), list[BadFile](), set[Parts]()
        for name, place, wrong in self.members():
            parts, unsafe = parts_of(name)
            key = "/".join(map(printable, parts)) or printable(name)
            if wrong or unsafe:
                bad.append(BadFile(key, *(unsafe or wrong or ("damaged", ""))))
            elif place is None:
                folders.append(parts)
            elif parts in seen:
                bad.append(BadFile(key, "listed twice", "the first member of this name is used"))
            else:
                seen.add(parts)
                files.append((parts, place))
        try:
            listing = arrange(files, folders, self.name)
        except DataError as error:
            if bad:
                first = f"{bad[0].key}: {bad[0].reason}"
                raise DataError(f"{error} {len(bad)} of its members are refused ({first}).") from None
            raise
        listing.bad = sorted(set(bad) | set(listing.bad))
        return listing


def parts_of(name: str) -> tuple[Parts, tuple[str, str] | None]:
    """A member's name cut at its slashes (of either kind), and what is unsafe about it."""
    text = name.replace("\\", "/")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if text.startswith("/"):
        return parts, ("unsafe name", "absolute")
    if ".." in parts:
        return parts, ("unsafe name", "climbs out of its folder")
    if _DRIVE.match(text):
        return parts, ("unsafe name", "names a drive")
    return parts, None


def _over(where: str, what: str) -> DataError:
    return DataError(f"{printable(where)} is refused: {what}.")


class Zip(_Archive):
    """A zip, read in place; a sample's place is (offset, compressed bytes, bytes, method, checksum)."""

    kind = "zip"

    def _members(self) -> Iterator[Member]:
        size = os.path.getsize(self.where)
        with open(self.where, "rb") as file:
            _count_entries(self.where, file, size)
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        total = sum(info.file_size for info in infos)
        if total > MAX_TOTAL:
            raise _over(self.where, f"its members have {total:,} bytes; at most {MAX_TOTAL:,} are read")
        if total > MAX_RATIO * size + _FREE_RATIO_BYTES:
            raise _over(
                self.where, f"it inflates {total // max(size, 1):,} times; at most {MAX_RATIO} is allowed"
            )
        for info in infos:
            mode = info.external_attr >> 16
            name = info.orig_filename  # not `filename`, which ends at the first NUL
            if name.endswith(("/", "\\")):
                yield Member(name, None)
                continue
            place = (info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
            yield Member(name, place, _zip_fault(info, mode))

    def content(self, place: Any) -> bytes:
        """Inflate one member and check its checksum."""
        offset, packed, size, method, crc = place
        header = self._read(offset, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise BadImage("damaged", "the archive has no member there")
        names, extra = struct.unpack_from("<HH", header, 26)
        content = self._read(offset + 30 + names + extra, packed)
        try:
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-15).decompress(content, size + 1)
            elif method == zipfile.ZIP_BZIP2:
                content = bz2.BZ2Decompressor().decompress(content, size + 1)
        except (zlib.error, OSError, ValueError, EOFError) as error:
            raise BadImage("damaged", f"in the archive: {error}") from error
        if len(content) != size:
            raise BadImage("truncated", f"in the archive: {len(content):,} of {size:,} bytes")
        if zlib.crc32(content) != crc:
            raise BadImage("damaged", "checksum in the archive")
        return content


def _zip_fault(info: zipfile.ZipInfo, mode: int) -> tuple[str, str] | None:
    """Reason and detail of a member that is not read."""
    if stat.S_ISLNK(mode):
        return "link", "links in archives are not followed"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a file", "a device or pipe"
    if info.flag_bits & 1:
        return "encrypted", "the member has a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        return "format not accepted", f"compression method {info.compress_type}"
    if info.file_size > MAX_BYTES:
        return "too large", f"{info.file_size:,} bytes; at most {MAX_BYTES:,} are read"
    if info.file_size > max(_FREE_RATIO_BYTES, MAX_RATIO * info.compress_size):
        return (
            "compressed too far",
            f"{info.file_size // max(info.compress_size, 1):,} times; at most {MAX_RATIO}",
        )
    return None


def _count_entries(where: str, file: BinaryIO, size: int) -> None:
    """Refuse a zip with too many entries before they are read (APPNOTE 4.3.16: end of central directory).

    The number that the record states may lie, so the entries' signatures are counted as well.
    """
    tail_size = min(size, 2**16 + 22)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 > len(tail):
        raise DataError(f"{printable(where)} is damaged: it is a zip without its end record.")
    stated, length = struct.unpack_from("<HI", tail, at + 10)
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and wide + 56 <= len(tail):
        stated, length = struct.unpack_from("<QQ", tail, wide + 32)
    found = 0
    if stated <= MAX_MEMBERS and 0 < length <= size:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            start = max(0, size - tail_size + (at if wide < 0 else wide) - length)
            step = 2**24
            for begin in range(start, min(start + length, size), step):
                found += view[begin : begin + step + 3].count(b"PK\x01\x02")
    if max(stated, found) > MAX_MEMBERS:
        raise _over(where, f"it has {max(stated, found):,} entries; at most {MAX_MEMBERS:,} are read")
    file.seek(0)


class Tar(_Archive):
    """A tar, plain or compressed; a sample's place is (offset, bytes) in the plain tar."""

    kind = "tar"

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._plain: str | None = None

    def _path(self) -> str:
        if self._plain is None:
            self._plain = _plain_tar(self.where)
        return self._plain

    def _members(self) -> Iterator[Member]:
        path = self._path()
        _count_blocks(self.where, path)
        if any(_last_block(path)):  # a tar cut between two members would look whole
            raise DataError(f"{self.name} ends too early: it has no end mark.")
        with tarfile.open(path, "r:", errorlevel=0) as archive:
            for info in archive:
                place = (info.offset_data, info.size)
                if info.isdir():
                    yield Member(info.name, None)
                elif info.issym() or info.islnk():
                    yield Member(info.name, place, ("link", "links in archives are not followed"))
                elif not info.isreg() or info.issparse():
                    yield Member(info.name, place, ("not a file", "a device, pipe or sparse file"))
                elif info.size > MAX_BYTES:
                    wrong = "too large", f"{info.size:,} bytes; at most {MAX_BYTES:,} are read"
                    yield Member(info.name, place, wrong)
                else:
                    yield Member(info.name, place)
                archive.members = []  # type: ignore[assignment]  # a million of them would stay in memory

    def content(self, place: Any) -> bytes:
        """The bytes of one member."""
        offset, size = place
        content = self._read(offset, size)
        if len(content) != size:
            raise BadImage("truncated", f"in the archive: {len(content):,} of {size:,} bytes")
        return content


def _count_blocks(where: str, path: str) -> None:
    """Refuse a tar with too many members: a walk over the headers' sizes alone (POSIX ustar)."""
    if os.path.getsize(path) < _BLOCK * MAX_MEMBERS:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at, count, end = 0, 0, len(view)
        while at + _BLOCK <= end and view[at]:
            count += 1
            if count > MAX_MEMBERS:
                raise _over(where, f"it has more than {MAX_MEMBERS:,} members")
            field = view[at + 124 : at + 136]
            try:
                size = int(field.strip(b" \0") or b"0", 8)
            except ValueError:  # a base-256 number: `tarfile` reads on from here
                return
            at += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _last_block(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _BLOCK))
        return file.read(_BLOCK)


def _plain_tar(where: str) -> str:
    """The path of the archive as a plain tar: itself, or its inflated copy in the cache."""
    with open(where, "rb") as file:
        head = file.read(_BLOCK)
    opener = next((opener for magic, opener in _PACKERS.items() if head.startswith(magic)), None)
    if opener is None:
        return where
    folder = cache_folder()
    target = folder / f"{sha256(Path(where))}.tar"
    if not target.is_file():
        size = os.path.getsize(where)
        with open(where, "rb") as raw, opener(raw) as packed:
            write_durable(target, lambda out: _inflate(where, packed, raw, out, size))
    return str(target)


def _inflate(where: str, packed: Any, raw: BinaryIO, out: BinaryIO, size: int) -> None:
    """Copy until the end, the ratio or the total is reached."""
    written = 0
    try:
        while block := packed.read(2**20):
            written += len(block)
            if written > MAX_TOTAL:
                raise _over(where, f"it inflates to more than {MAX_TOTAL:,} bytes")
            if written > MAX_RATIO * max(raw.tell(), 2**18):
                raise _over(where, f"it inflates more than {MAX_RATIO} times")
            if written == len(block) and not is_tar(block[:_BLOCK]):
                raise DataError(f"{printable(where)} is compressed, but what is inside is no tar.")
            out.write(block)
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        raise DataError(f"{printable(where)} is damaged or ends too early: {error}.") from error


def cache_folder() -> Path:
    """Where inflated archives are kept: `CONVATLAS_CACHE`, the platform's cache folder, or a temporary one."""
    named = os.environ.get("CONVATLAS_CACHE")
    if named:
        return make_folder(Path(named))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        folder = make_folder(Path(base, "convatlas"))
        if os.access(folder, os.W_OK):
            return folder
    except ResourceError:
        pass
    return make_folder(Path(tempfile.gettempdir(), f"convatlas-{os.getuid()}"))
