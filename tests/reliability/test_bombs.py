"""Image bombs (R10): small files that ask for gigabytes or hours are refused at once.

Each is decoded in a fresh process, which reports the CPU seconds and the growth of its memory.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from corpus import chunk, encoded, gif_of_frames, nested_tiff, photo, png, segments, with_chunk

pytestmark = pytest.mark.reliability

MAX_CPU_SECONDS = 1.0
MAX_GROWTH_BYTES = 64 * 2**20

CHILD = """
import json, resource, sys, time
from convatlas.data.decode import decode
from convatlas.errors import BadImage
from PIL import Image
Image.init()
content = open(sys.argv[1], "rb").read()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.process_time()
try:
    result = list(decode(content).shape)
except BadImage as error:
    result = error.reason
print(json.dumps([result, time.process_time() - start, peak() - before]))
"""


def text_bomb() -> bytes:
    """A gigabyte of zeros as the compressed text of a PNG."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    body = b"".join(packer.compress(block) for _ in range(1024)) + packer.flush()
    return with_chunk(encoded(photo(1), "PNG"), b"zTXt", b"x\0\0" + body)


def many_texts() -> bytes:
    """Hundreds of texts, each as long as is allowed."""
    body = b"x\0\0" + zlib.compress(bytes(2**20 - 100))
    return (
        with_chunk(encoded(photo(1), "PNG"), b"zTXt", body)[:-12]
        + chunk(b"zTXt", body) * 400
        + chunk(b"IEND", b"")
    )


def scans() -> bytes:
    """A progressive JPEG with thousands of scans."""
    content = encoded(Image.new("L", (2000, 2000)), progressive=True)
    at = content.rindex(b"\xff\xda")
    return content[:at] + content[at:-2] * 3000 + content[-2:]


def webp(width: int, height: int) -> bytes:
    """The head of an animated WebP with a large canvas."""
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    frame = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    body += b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(6) + b"\x07\0\0\x07\0\0" + bytes(4) + frame
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    content = bytearray(encoded(photo(2)))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def bmp_of(width: int, height: int) -> bytes:
    """A BMP header without pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


BOMBS = {
    "PNG of 30,000 x 30,000": lambda: png(30_000, 30_000, b"\0" * 10_000_000, 1),
    "header of a billion pixels": lambda: png(1_000_000_000, 1, b""),
    "square header of a billion pixels": lambda: png(31_623, 31_623, b"", 16, 6),
    "JPEG of 65,500 x 65,500": lambda: jpeg_of(65_500, 65_500),
    "BMP of 40,000 x 40,000": lambda: bmp_of(40_000, 40_000),
    "PPM of 99,999 x 99,999": lambda: b"P6 99999 99999 255 ",
    "WebP canvas of 16,384 x 16,384": lambda: webp(16_384, 16_384),
    "TIFF of overlapping tags": nested_tiff,
    "a gigabyte of text": text_bomb,
    "hundreds of texts": many_texts,
    "thousands of scans": scans,
    "GIF canvas of 65,535 x 65,535": lambda: b"GIF89a\xff\xff\xff\xff" + gif_of_frames(1)[10:],
}
HARMLESS = {  # large in a way that is not decoded
    "GIF of 100,000 frames": lambda: gif_of_frames(100_000),
    "EXIF of 30 MB": lambda: segments(encoded(photo(3)), *[b"Exif\0\0MM\0*" + bytes(65_000)] * 460),
}


def decoded_in_child(content: bytes, path: Path) -> tuple[object, float, int]:
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, timeout=60, check=True, text=True
    )
    result, seconds, growth = json.loads(done.stdout)
    assert not done.stderr
    return result, seconds, growth


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_within_a_second_and_64_mb(bomb, tmp_path):
    result, seconds, growth = decoded_in_child(BOMBS[bomb](), tmp_path / "bomb")
    assert isinstance(result, str), f"it was decoded: {result}"
    assert seconds <= MAX_CPU_SECONDS
    assert growth <= MAX_GROWTH_BYTES


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_large_beside_the_pixels_costs_nothing(name, tmp_path):
    result, seconds, growth = decoded_in_child(HARMLESS[name](), tmp_path / "large")
    assert isinstance(result, list), result
    assert seconds <= MAX_CPU_SECONDS
    assert growth <= MAX_GROWTH_BYTES
