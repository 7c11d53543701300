"""A folder of images as bad as life makes them, about 90 files, all made here.

    python tests/corpus.py FOLDER      writes it and prints what is expected of each bad file

`make` gives the keys that have to be refused with their reasons, and those that have to be accepted.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, features


@dataclass
class Corpus:
    """Where it lies, what must be refused (key -> reason), what must be accepted, what must be ignored."""

    root: Path
    bad: dict[str, str] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)
    ignored: int = 0


def photo(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """A smooth coloured picture with some texture, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    texture = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return Image.fromarray((smooth + texture).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """An image as a file's content."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# --- files that Pillow does not write ------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, *, interlace: int = 0
) -> bytes:
    """A PNG from filtered rows (each begins with its filter byte)."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def with_chunk(content: bytes, kind: bytes, body: bytes) -> bytes:
    """The same PNG with one more chunk behind its header."""
    return content[:33] + chunk(kind, body) + content[33:]


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced_png(grey: np.ndarray) -> bytes:
    """A grey picture (H, W) in Adam7's seven passes (PNG specification, section 8.2)."""
    rows = b"".join(
        b"\0" + row.tobytes()
        for x, y, dx, dy in ADAM7
        for row in grey[y::dy, x::dx]
        if grey[y::dy, x::dx].size
    )
    return png(grey.shape[1], grey.shape[0], rows, interlace=1)


def rle_bmp(grey: np.ndarray) -> bytes:
    """A grey picture (H, W) as a run-length encoded BMP, each pixel a run of one."""
    height, width = grey.shape
    rows = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in grey[::-1].tolist())
    data = rows + b"\0\1"
    palette = b"".join(bytes((v, v, v, 0)) for v in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 2835, 2835, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


def exif(orientation: int) -> bytes:
    """An EXIF block with one tag."""
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def segments(jpeg: bytes, *bodies: bytes, marker: int = 0xE1) -> bytes:
    """The same JPEG with more segments behind its first two bytes."""
    more = b"".join(bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body for body in bodies)
    return jpeg[:2] + more + jpeg[2:]


def ycck(cmyk_jpeg: bytes) -> bytes:
    """The same JPEG with Adobe's marker saying YCCK."""
    at = cmyk_jpeg.index(b"Adobe")
    return cmyk_jpeg[: at + 11] + b"\2" + cmyk_jpeg[at + 12 :]


def nested_tiff(tags: int = 4000, megabytes: int = 2) -> bytes:
    """A small TIFF with thousands of tags that all point at the same megabytes."""
    data = bytes(megabytes * 2**20)
    start = 8 + 2 + 12 * (tags + 8) + 4
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, start), (278, 3, 1, 1), (279, 4, 1, 1)]
    entries += [(40000 + i, 7, len(data), start) for i in range(tags)]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + ifd + struct.pack("<I", 0) + data


def gif_of_frames(count: int) -> bytes:
    """An animated GIF of `count` equal frames of 2x2 pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x02\x03\x44\x02\x05\x00"
    return head + frame * count + b"\x3b"


# --- the folder ----------------------------------------------------------------------------------------


def make(root: Path) -> Corpus:
    """Write the corpus below `root` and say what is expected of it."""
    corpus = Corpus(root)
    _formats(corpus)
    _broken(corpus)
    _names(corpus)
    _entries(corpus)
    _set(corpus)
    return corpus


def _add(corpus: Corpus, key: str, content: bytes, reason: str = "", *, name: bytes | None = None) -> None:
    path = os.fsencode(corpus.root) + b"/" + (name if name is not None else os.fsencode(key))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    if reason:
        corpus.bad[key] = reason
    else:
        corpus.good.add(key)


def _formats(corpus: Corpus) -> None:
    """Everything that has to be accepted, however odd."""
    here, colour, grey = "train/formats/", photo(1), photo(2).convert("L")
    alpha = photo(3).convert("RGBA")
    alpha.putalpha(grey)
    files = {
        "progressive.jpg": encoded(photo(4), progressive=True),
        "grey.jpg": encoded(photo(5).convert("L")),
        "cmyk.jpg": encoded(photo(6).convert("CMYK")),
        "ycck.jpg": ycck(encoded(photo(7).convert("CMYK"))),
        "png-named.jpg": encoded(photo(8), "PNG"),
        "UPPER.JPG": encoded(photo(9)),
        "no_suffix": encoded(photo(10)),
        "trailing-zip.jpg": encoded(photo(11)) + _zip({"a.txt": b"a"}),
        "broken-exif.jpg": segments(encoded(photo(12)), b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "giant-exif.jpg": segments(encoded(photo(13)), *[b"Exif\0\0MM\0*" + bytes(65_000)] * 20),
        "bad-icc.jpg": segments(encoded(photo(14)), b"ICC_PROFILE\0\x01\x01" + bytes(100), marker=0xE2),
        "1bit.png": encoded(grey.convert("1"), "PNG"),
        "2bit.png": encoded(colour.quantize(4), "PNG", bits=2),
        "4bit.png": encoded(colour.quantize(16), "PNG", bits=4),
        "8bit.png": encoded(photo(15), "PNG"),
        "16bit.png": encoded(
            Image.fromarray(np.asarray(photo(16).convert("L")).astype(np.uint16) * 257), "PNG"
        ),
        "palette-transparent.png": encoded(photo(17).quantize(16), "PNG", transparency=3),
        "la.png": encoded(Image.merge("LA", (photo(18).convert("L"), grey)), "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "interlaced.png": interlaced_png(np.asarray(photo(19).convert("L"))),
        "bad-icc.png": with_chunk(encoded(photo(20), "PNG"), b"iCCP", b"x\0\0not zlib"),
        "16bit.tif": encoded(
            Image.fromarray(np.asarray(photo(21).convert("L")).astype(np.uint16) * 257), "TIFF"
        ),
        "float.tif": encoded(Image.fromarray(np.asarray(photo(22).convert("L"), np.float32) / 255), "TIFF"),
        "pages.tif": encoded(photo(23), "TIFF", save_all=True, append_images=[photo(24), photo(25)]),
        "big.tif": encoded(photo(26), "TIFF", big_tiff=True),
        "lzw.tif": encoded(photo(27), "TIFF", compression="tiff_lzw"),
        "animated.gif": encoded(photo(28), "GIF", save_all=True, append_images=[photo(29)]),
        "animated.webp": encoded(photo(30), "WEBP", save_all=True, append_images=[photo(31)]),
        "animated.png": encoded(photo(32), "PNG", save_all=True, append_images=[photo(33)]),
        "lossless.webp": encoded(photo(34), "WEBP", lossless=True),
        "rle.bmp": rle_bmp(np.asarray(photo(35).convert("L"))),
        "plain.bmp": encoded(photo(36), "BMP"),
        "binary.ppm": encoded(photo(37), "PPM"),
        "1x1.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "1x20000.png": encoded(Image.linear_gradient("L").resize((1, 20_000)), "PNG"),
        "8000x8000.png": encoded(Image.new("1", (8000, 8000), 1), "PNG"),
    }
    if features.check("avif"):
        files["small.avif"] = encoded(photo(38), "AVIF")
    for orientation in range(1, 9):
        files[f"orientation-{orientation}.jpg"] = encoded(photo(40 + orientation), exif=exif(orientation))
    for name, content in files.items():
        _add(corpus, here + name, content)


def _broken(corpus: Corpus) -> None:
    """Everything that has to be refused for what it holds."""
    here, jpeg, picture = "train/broken/", encoded(photo(60), quality=90), encoded(photo(61), "PNG")
    crc = bytearray(picture)
    crc[picture.index(b"IDAT") + 4 + struct.unpack_from(">I", picture, picture.index(b"IDAT") - 4)[0]] ^= 1
    nan = np.asarray(photo(62).convert("L"), np.float32).copy()
    nan[3, 3] = np.nan
    ico = encoded(photo(63).resize((32, 32)), "ICO")
    rng = np.random.default_rng(64)
    files = {
        "0bytes.jpg": (b"", "empty"),
        "1byte.jpg": (b"\xff", "not an image"),
        "random.jpg": (b"\x01" + rng.bytes(5000), "not an image"),
        "html.png": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        "notes.txt": (b"some words about the pictures\n", "not an image"),
        "table.csv": (b"path,label\na.jpg,cat\n", "not an image"),
        "crc.png": (bytes(crc), "damaged"),
        "nan.tif": (encoded(Image.fromarray(nan), "TIFF"), "value range"),
        "icon.ico": (ico, "format not accepted"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format not accepted"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
        "paper.pdf": (b"%PDF-1.7\n%%EOF\n", "not an image"),
        "sky.fits": (b"SIMPLE  =                    T".ljust(2880), "format not accepted"),
        "archive.jpg": (_zip({"a.jpg": jpeg}), "not an image"),
        "30000x30000.png": (png(30_000, 30_000, b"", 1), "too many pixels"),
        "1x40000.png": (png(1, 40_000, b"\0\0" * 40_000), "too many pixels"),
        "text.png": (
            with_chunk(picture, b"zTXt", b"x\0\0" + zlib.compress(bytes(3 * 2**20))),
            "too much text",
        ),
        "nested.tif": (nested_tiff(100, 1), "damaged"),
        "header-only.jpg": (jpeg[: jpeg.index(b"\xff\xda")], "truncated"),
    }
    for percent in (10, 50, 90, 99):
        files[f"cut-{percent}.jpg"] = (jpeg[: len(jpeg) * percent // 100], "truncated")
        files[f"cut-{percent}.png"] = (picture[: len(picture) * percent // 100], "truncated")
    for name, (content, reason) in files.items():
        _add(corpus, here + name, content, reason)


def _names(corpus: Corpus) -> None:
    """Names that break programs; the pictures are good."""
    here = "train/names/"
    nfc, nfd = (unicodedata.normalize(form, "\u00e9t\u00e9.jpg") for form in ("NFC", "NFD"))
    names = {
        b"new\nline.jpg": "new\\nline.jpg",
        b"quote'\".jpg": "quote'\".jpg",
        b"back\\slash.jpg": "back\\\\slash.jpg",
        b" space .jpg": " space .jpg",
        b"-rf.jpg": "-rf.jpg",
        b"[red]<b>&.jpg": "[red]<b>&.jpg",
        "\U0001f431.jpg".encode(): "\U0001f431.jpg",
        b"\xff\xfe.jpg": "\\xff\\xfe.jpg",
        nfc.encode(): nfc,
        nfd.encode(): nfd,
        b"x" * 251 + b".jpg": "x" * 251 + ".jpg",
    }
    for position, (raw, key) in enumerate(names.items()):
        _add(corpus, here + key, encoded(photo(70 + position)), name=here.encode() + raw)
    for position, folder in enumerate(("Cat", "cat")):
        for i in range(2):
            _add(corpus, f"train/{folder}/{i}.jpg", encoded(photo(90 + 2 * position + i)))


def _entries(corpus: Corpus) -> None:
    """Things in a folder that are no files, and files that are not the user's."""
    folder = corpus.root / "train" / "entries"
    _add(corpus, "train/entries/good.jpg", encoded(photo(100)))
    outside = corpus.root.parent / f"{corpus.root.name}-outside.jpg"
    outside.write_bytes(encoded(photo(101)))
    for name, target in {
        "out.jpg": outside,
        "up.jpg": Path("../../..") / corpus.root.name / ".." / outside.name,
        "dangling.jpg": Path("nowhere.jpg"),
        "loop.jpg": Path("loop.jpg"),
        "zero.jpg": Path("/dev/zero"),
        "folder": Path(".."),
    }.items():
        (folder / name).symlink_to(target)
        corpus.bad[f"train/entries/{name}"] = "link"
    (folder / "link-inside.jpg").symlink_to("good.jpg")
    corpus.good.add("train/entries/link-inside.jpg")
    (folder / "folder.jpg").mkdir()
    corpus.bad["train/entries/folder.jpg"] = "not a file"
    os.mkfifo(folder / "pipe.jpg")
    corpus.bad["train/entries/pipe.jpg"] = "not a file"
    with contextlib.suppress(PermissionError):  # only root makes devices
        os.mknod(folder / "device.jpg", 0o020666, os.makedev(1, 5))
        corpus.bad["train/entries/device.jpg"] = "not a file"
    (folder / "Thumbs.db").write_bytes(b"junk")
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "copy.jpg").write_bytes(encoded(photo(102)))
    corpus.ignored += 3
    _add(corpus, "train/loose.jpg", encoded(photo(103)), "outside a class folder")


def _set(corpus: Corpus) -> None:
    """Good files that make a bad set: copies across classes and splits, empty, lonely and missing classes."""
    twice, leaked = encoded(photo(110)), encoded(photo(111))
    _add(corpus, "train/formats/two-classes.jpg", twice)
    _add(corpus, "train/cat/two-classes.jpg", twice)
    _add(corpus, "train/cat/leak.jpg", leaked)
    _add(corpus, "val/cat/leak.jpg", leaked)
    _add(corpus, "train/cat/near.jpg", encoded(photo(112, 200, 150), quality=95))
    _add(corpus, "val/cat/near.jpg", encoded(photo(112, 200, 150), quality=60))
    _add(corpus, "val/formats/a.jpg", encoded(photo(113)))
    _add(corpus, "train/one/a.jpg", encoded(photo(114)))
    (corpus.root / "train" / "empty").mkdir()


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


if __name__ == "__main__":
    made = make(Path(sys.argv[1]))
    for refused, expected in sorted(made.bad.items()):
        print(f"{expected:24} {refused}")
    print(f"{len(made.good)} good files, {len(made.bad)} bad ones")
