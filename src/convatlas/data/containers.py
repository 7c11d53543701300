"""What is read of an image file before a decoder sees it: its kind, its orientation, its traps.

A file format is pixels in a container, and the container is where the traps are: text that inflates
to a gigabyte, tags that overlap, a thousand scans of one picture. Each format has a small reader here
that walks the container alone, in time linear in the file's length, and refuses what no camera or
program writes. JPEG's side segments (EXIF, ICC, previews, comments) are cut out, so that a decoder
cannot stumble over what is no pixel.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from convatlas.errors import BadImage

MAX_TEXT_CHUNKS = 32  # compressed text and profiles of a PNG; each may inflate to 1 MiB
MAX_TEXT_BYTES = 2**20
MAX_STRIPS = 300_000  # pieces of a TIFF

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_REFUSED = (  # known, and not accepted: (start of the file, name)
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"8BPS", "PSD"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"SIMPLE  =", "FITS"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"P1", "plain PBM"),
    (b"P2", "plain PGM"),
    (b"P3", "plain PPM"),
)
_OTHER = (  # known, and no image
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"<!doc", "HTML"),
    (b"<!DOC", "HTML"),
    (b"<html", "HTML"),
    (b"<HTML", "HTML"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class Container:
    """A file that may be decoded: Pillow's name of the format, the bytes to decode, EXIF orientation 1-8.

    Of a JPEG also how many scans it has, and whether it is Huffman-coded in the usual ways: baseline, extended
    or progressive (SOF0 to SOF2).
    """

    format: str
    content: bytes
    orientation: int = 1
    scans: int = 1
    usual: bool = False


def sniff(head: bytes) -> str:
    """The format that the first bytes (32 are enough) announce. Raises `BadImage`."""
    if not head:
        raise BadImage("empty", "0 bytes")
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, 32, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"mif1", b"hevc"}:
            raise BadImage("format not accepted", "HEIC")
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "BMP"
    if head[:2] in (b"P4", b"P5", b"P6") and head[2:3].isspace():
        return "PPM"
    for magic, name in _REFUSED:
        if head.startswith(magic):
            raise BadImage("format not accepted", name)
    for magic, name in _OTHER:
        if head.lstrip().startswith(magic):
            raise BadImage("not an image", name)
    # the bytes themselves are not told: a file that is no image may be somebody's secret
    raise BadImage("not an image", "it begins like no image that is accepted")


def inspect(content: bytes) -> Container:
    """Name the format, walk its container, and give the bytes that a decoder may see. Raises `BadImage`."""
    name = sniff(content[:32])
    try:
        match name:
            case "JPEG":
                return _jpeg(content)
            case "PNG":
                return _png(content)
            case "WEBP":
                return _webp(content)
            case "TIFF":
                return _tiff(content)
            case _:
                return Container(name, content)
    except (struct.error, IndexError) as error:
        raise BadImage("truncated", f"{name}: {error}") from error


def orientation(exif: bytes) -> int:
    """The orientation 1-8 that an EXIF block gives; 1 where it is missing or the block is broken.

    Source: EXIF 2.32, section 4.6.4 (tag 0x0112, one SHORT).
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * min(entries, 1000), 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == 0x0112:
                return value if (kind, count) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _jpeg(content: bytes) -> Container:
    """Walk the segments up to the first scan; keep what decoding needs (ITU-T T.81, annex B)."""
    kept, found, at, frames = [content[:2]], 0, 2, list[int]()
    while True:
        at = content.find(b"\xff", at)  # what lies between segments is skipped, as every decoder does
        if at < 0:
            raise BadImage("truncated", "JPEG without a scan")
        marker = content[at + 1]
        if marker in (0xFF, 0x00):  # padding, or a byte that is no marker
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:  # start of scan: the rest is pixels
            break
        if 0xD0 <= marker <= 0xD9 or marker == 0x01:  # no length follows
            if marker == 0xD9:
                raise BadImage("truncated", "JPEG without a scan")
            at += 2
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        segment = content[at : at + 2 + length]
        if length < 2 or len(segment) < 2 + length:
            raise BadImage("truncated", "JPEG header")
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not found:
            found = orientation(segment[4:])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # but tables: a frame
            frames.append(marker)
        # APP0 (JFIF) and APP14 (Adobe) tell the colour space; other APPn and comments are no pixels
        if marker in (0xE0, 0xEE) or not (0xE1 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        at += 2 + length
    scans = content.count(b"\xff\xda", at)  # no other marker can look so: 0xFF in pixels is followed by 0
    usual = len(frames) == 1 and frames[0] in (0xC0, 0xC1, 0xC2)
    return Container("JPEG", b"".join([*kept, content[at:]]), found or 1, scans, usual)


def _png(content: bytes) -> Container:
    """Walk the chunks: lengths, checksums of what makes pixels, size of compressed text (PNG 3, section 5)."""
    at, texts, turned, view = 8, 0, 1, memoryview(content)
    while True:
        if at + 12 > len(content):
            raise BadImage("truncated", "PNG without its end chunk")
        length, kind = struct.unpack_from(">I4s", content, at)
        if at + 12 + length > len(content):
            raise BadImage("truncated", f"PNG chunk at byte {at:,}")
        body = view[at + 8 : at + 8 + length]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            (crc,) = struct.unpack_from(">I", content, at + 8 + length)
            if zlib.crc32(view[at + 4 : at + 8 + length]) != crc:
                raise BadImage("damaged", f"checksum of PNG chunk {kind.decode()!r}")
        elif kind in (b"zTXt", b"iTXt", b"iCCP", b"tEXt"):
            texts += 1
            if texts > MAX_TEXT_CHUNKS or length > MAX_TEXT_BYTES or _inflates(kind, bytes(body)):
                raise BadImage(
                    "too much text",
                    f"PNG; at most {MAX_TEXT_CHUNKS} chunks of {MAX_TEXT_BYTES:,} bytes are read",
                )
        elif kind == b"eXIf" and turned == 1:
            turned = orientation(bytes(body[: 2**16]))
        at += 12 + length
        if kind == b"IEND":
            return Container("PNG", content, turned)


def _inflates(kind: bytes, body: bytes) -> bool:
    """Whether a compressed chunk holds more than `MAX_TEXT_BYTES`."""
    start = body.find(b"\0") + 2  # keyword, separator, method
    if kind == b"iTXt":  # keyword, flag, method, language, translated keyword
        if body[start - 1 : start] != b"\1":
            return False
        start = body.find(b"\0", body.find(b"\0", start + 1) + 1) + 1
    elif kind == b"tEXt":
        return False
    try:
        return len(zlib.decompressobj().decompress(body[start:], MAX_TEXT_BYTES + 1)) > MAX_TEXT_BYTES
    except zlib.error:  # broken text is ignored: it is no pixel
        return False


def _webp(content: bytes) -> Container:
    """Walk the RIFF chunks for the length and the EXIF block (WebP container specification)."""
    (size,) = struct.unpack_from("<I", content, 4)
    if size + 8 > len(content):
        raise BadImage("truncated", f"WebP says {size + 8:,} bytes and has {len(content):,}")
    at = 12
    while at + 8 <= min(size + 8, len(content)):
        kind, length = struct.unpack_from("<4sI", content, at)
        if kind == b"EXIF":
            return Container("WEBP", content, orientation(content[at + 8 : at + 8 + min(length, 2**16)]))
        at += 8 + length + length % 2
    return Container("WEBP", content)


def _tiff(content: bytes) -> Container:
    """Check that the tags of the first directory fit into the file together (TIFF 6.0, section 2; BigTIFF).

    Tags may point anywhere: thousands that all point at the same megabytes would be read again and
    again. The sub-directories that a decoder follows (EXIF, GPS, interoperability) count as well.
    Pillow turns the pixels of a TIFF itself, so the orientation that is given back is 1.
    """
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:3] == b"+" or content[3:4] == b"+"
    entry = order + ("HHQQ" if big else "HHII")
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    sizes = {
        1: 1,
        2: 1,
        3: 2,
        4: 4,
        5: 8,
        6: 1,
        7: 1,
        8: 2,
        9: 4,
        10: 8,
        11: 4,
        12: 8,
        13: 4,
        16: 8,
        17: 8,
        18: 8,
    }
    waiting, seen, total = [first], set[int](), 0
    while waiting:
        start = waiting.pop()
        if start in seen or len(seen) > 8:
            continue
        seen.add(start)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
        start += 8 if big else 2
        if entries > 4096:
            raise BadImage("damaged", f"TIFF directory of {entries:,} tags")
        for at in range(start, start + entries * struct.calcsize(entry), struct.calcsize(entry)):
            tag, kind, count, value = struct.unpack_from(entry, content, at)
            total += count * sizes.get(kind, 1)
            if tag in (273, 279, 324, 325) and count > MAX_STRIPS:
                raise BadImage("damaged", f"TIFF in {count:,} pieces; at most {MAX_STRIPS:,} are read")
            if tag in (0x8769, 0x8825, 0xA005) and count == 1:
                waiting.append(value)
    if total > len(content):
        raise BadImage("damaged", "TIFF tags that overlap or lead out of the file")
    return Container("TIFF", content)
