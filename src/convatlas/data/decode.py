"""Bytes of an image file -> pixels: the one path for training, evaluation, prediction, export and serving.

Accepted are JPEG, PNG, WebP, GIF, BMP, TIFF, binary PPM and (where Pillow has it) AVIF; the content
decides, not the file's name. The size is read from the header and held against a cap before a pixel
is allocated. One rule per colour mode, and no other:

=================  =====================================================================
mode               what becomes of it
=================  =====================================================================
1, L               grey
I;16               grey: 16 bits, 65535 -> 255
I                  grey: as I;16; values outside 0..65535 are refused
F                  grey: finite; all in [0, 1] -> times 255, else all in [0, 255] -> rounded
P                  its palette's colours; with transparency as RGBA
LA, PA, La         as RGBA
RGB, RGBX          as they are (16 bits a channel: the high byte)
RGBA, RGBa         composed over white
CMYK (and YCCK)    the plain complement: R = (255 - C)(255 - K)/255
YCbCr, HSV, LAB    converted to RGB by Pillow
others             refused
=================  =====================================================================

Colour becomes grey by ITU-R 601 luma; grey becomes colour by three equal channels. ICC profiles are
ignored. Of an animation or a file of several pages the first picture is taken, and the others are not
even counted. The EXIF orientation is applied; a broken EXIF block is ignored. A file that ends before
its pixels do is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.containers import Container, inspect
from convatlas.errors import BadImage

MAX_PIXELS = 64_000_000
MAX_SIDE = 30_000
MAX_BYTES = 256 * 2**20  # of one file
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
REASONS = (
    "empty",
    "not an image",
    "format not accepted",
    "truncated",
    "damaged",
    "too many pixels",
    "too large",
    "too much text",
    "colour mode",
    "value range",
    "unreadable",
    "missing",
    "link",
    "not a file",
    "outside a class folder",
    "unsafe name",
    "listed twice",
    "malformed row",
    "no class",
    "encrypted",
    "compressed too far",
    "decoder failed",
)
_STRIP_PIXELS = 2**22  # pixels converted at once: bounds the memory of a large image
_SLOW_PIXELS = 4_000_000  # where Pillow decodes in Python (run-length BMP, odd depths of PPM)
_SCAN_PIXELS = 20 * MAX_PIXELS  # pixels times scans of a progressive JPEG
_FAST = {("RGB", 3): "RGB", ("L", 1): "GRAY"}  # (mode, channels) of a JPEG -> simplejpeg's name for it
_simplejpeg: Any = (
    importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") is not None else None
)
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")


Shrink = Callable[[int, int], int]  # (width, height) of the upright picture -> 1, 2, 4 or 8


class Scaled(NamedTuple):
    """A picture of which each pixel stands for a square of `by` pixels of the file.

    The squares may reach beyond the file's pixels: by less than one of them at the right and the bottom, or, where
    the picture was turned, by `left` and `top` pixels of the file at the other edges.
    """

    pixels: NDArray[np.uint8]  # (H, W, C)
    by: int = 1
    left: int = 0
    top: int = 0

    def within(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A box (xyxy) in pixels of the file, in pixels of this picture."""
        x0, y0, x1, y1 = box
        return (
            (x0 + self.left) / self.by,
            (y0 + self.top) / self.by,
            (x1 + self.left) / self.by,
            (y1 + self.top) / self.by,
        )


def decode(
    content: bytes, *, channels: int = 3, max_pixels: int = MAX_PIXELS, name: str = ""
) -> NDArray[np.uint8]:
    """An image file's content -> its pixels, (H, W, channels), 0 to 255; `channels` is 1 or 3.

    Raises `BadImage`, and nothing else, for whatever cannot be decoded whole.

    Examples:
        >>> decode(b"P5 2 1 255 " + bytes([0, 200]), channels=1)[0, :, 0].tolist()
        [0, 200]
    """
    return decode_scaled(content, None, channels=channels, max_pixels=max_pixels, name=name).pixels


def decode_scaled(
    content: bytes, shrink: Shrink | None, *, channels: int = 3, max_pixels: int = MAX_PIXELS, name: str = ""
) -> Scaled:
    """As `decode`, but a JPEG at the scale 1/`shrink(width, height)`: its blocks are made smaller as they are decoded.

    A scaled block keeps the lowest frequencies of its cosine transform, so the picture is as smooth as one that
    was shrunk with a good filter, and costs a part of the work. Grey and RGB or YCbCr pictures are scaled; any
    other file is decoded at full size. Which files are accepted does not depend on the scale.
    """
    try:
        with _quiet():
            container = inspect(content)
            with _open(container, max_pixels) as image:
                size = image.size
                by = _shrunk(image, container, shrink) if shrink is not None else 1
                pixels = _fast(container, image, by, channels)
                if pixels is None:
                    pixels = _pixels(image, channels)
        return Scaled(_turn(pixels, container.orientation), by, *_beyond(size, by, container.orientation))
    except BadImage as error:
        raise BadImage(error.reason, error.detail, name) from error.__cause__
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels", f"more than {max_pixels:,}", name) from error
    except MemoryError as error:
        raise BadImage("too many pixels", "there is not enough memory for them", name) from error
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        # the decoder's own words may quote the file, which need not be meant for whoever reads the message
        detail = f"{len(content):,} bytes; the decoder stopped with {type(error).__name__}"
        raise BadImage(_reason(error), detail, name) from error


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether every pixel of (H, W, C) has equal channels: a grey picture, however it was stored."""
    if pixels.shape[2] == 1:
        return True
    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for start in (
        0,
        *range(1, len(pixels), rows),
    ):  # the first row settles it for nearly every coloured picture
        strip = pixels[start : start + rows if start else 1]
        if (strip[..., 0] != strip[..., 1]).any() or (strip[..., 0] != strip[..., 2]).any():
            return False
    return True


def _open(container: Container, max_pixels: int) -> Image.Image:
    """Pillow's image with its header read and its size allowed; no pixel is decoded yet."""
    try:
        image = Image.open(BytesIO(container.content), formats=(container.format,))
    except Image.UnidentifiedImageError as error:
        raise BadImage("damaged", f"{container.format} header") from error
    width, height = image.size
    slow = any(tile[0] in ("bmp_rle", "ppm", "ppm_plain") for tile in image.tile)  # type: ignore[attr-defined]
    allowed = min(max_pixels, _SLOW_PIXELS) if slow else max_pixels
    if width * height > allowed or max(width, height) > MAX_SIDE:
        limits = f"at most {allowed:,} and {MAX_SIDE:,} a side are read"
        raise BadImage("too many pixels", f"{width:,} x {height:,}; {limits}")
    if container.scans * width * height > _SCAN_PIXELS:
        raise BadImage("too many pixels", f"{width:,} x {height:,} in {container.scans} scans")
    if min(width, height) < 1:
        raise BadImage("damaged", f"{width} x {height} pixels")
    return image


def _shrunk(image: Image.Image, container: Container, shrink: Shrink) -> int:
    """Tell the decoder to scale by what `shrink` says; give what it does. The size of `image` changes."""
    if container.format != "JPEG" or image.mode not in ("L", "RGB"):
        return 1
    width, height = image.size
    by = shrink(*((height, width) if container.orientation >= 5 else (width, height)))
    if by not in (2, 4, 8) or min(width, height) < by:
        return 1
    image.draft(None, (width // by, height // by))
    return by


def _fast(container: Container, image: Image.Image, by: int, channels: int) -> NDArray[np.uint8] | None:
    """A JPEG by simplejpeg, where it is installed: the same pixels as Pillow's in two thirds of the time.

    Both call libjpeg-turbo with the same settings. A file at which the library as much as wonders, and whatever is
    not exactly what the header says, is left to Pillow, which then accepts it or says what is wrong.
    """
    if _simplejpeg is None or not container.usual or (image.mode, channels) not in _FAST:
        return None
    width, height = image.size  # as scaled
    scaled = {"min_width": width, "min_height": height, "min_factor": by} if by > 1 else {}
    try:
        pixels: NDArray[np.uint8] = _simplejpeg.decode_jpeg(
            container.content, colorspace=_FAST[image.mode, channels], **scaled
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, channels) else None


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Decode, then convert strip by strip: (H, W, channels). Every rule of the table is local to a pixel."""
    image.load()
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    strips = [(0, y, width, min(y + rows, height)) for y in range(0, height, rows)]
    gain = _gain(image, strips) if image.mode == "F" else 0.0
    if image.mode == "RGB" and channels == 3 and len(strips) == 1 and "transparency" not in image.info:
        return np.array(image)  # the usual case, with one copy less
    out = np.empty((height, width, channels), np.uint8)
    for box in strips:
        strip = image if len(strips) == 1 else image.crop(box)
        pixels = np.asarray(_convert(strip, channels, gain))
        out[box[1] : box[3]] = pixels[..., None] if pixels.ndim == 2 else pixels
    return out


def _convert(strip: Image.Image, channels: int, gain: float) -> Image.Image | NDArray[np.uint8]:
    """The table of modes, for a part of an image."""
    mode = strip.mode
    if mode in _DEEP:
        values = np.asarray(strip).astype(np.int64)
        if mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise BadImage("value range", f"{values.min()} to {values.max()}; 0 to 65535 is read")
        return ((values + 128) // 257).astype(np.uint8)
    if mode == "F":
        return np.rint(np.asarray(strip) * gain).astype(np.uint8)
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in strip.info:
        if mode in ("La", "RGBa"):  # premultiplied
            strip = strip.convert(mode[:-1] + "A")
        if strip.mode == "LA":
            return _over_white(strip, "L")
        return _over_white(strip.convert("RGBA"), "RGB").convert("L" if channels == 1 else "RGB")
    if mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise BadImage("colour mode", mode)
    if channels == 1 and mode not in ("1", "L", "RGB"):
        strip = strip.convert("RGB")  # one way to luma, whatever the mode
    wanted = "RGB" if channels == 3 and mode not in ("1", "L") else "L"
    return strip if mode == wanted else strip.convert(wanted)


def _over_white(image: Image.Image, mode: str) -> Image.Image:
    """Compose LA over white as L, RGBA over white as RGB."""
    white = Image.new(mode, image.size, "white")
    white.paste(image.convert(mode), mask=image.getchannel("A"))
    return white


def _gain(image: Image.Image, strips: list[tuple[int, int, int, int]]) -> float:
    """What a floating-point image is multiplied by: 255 if it lies in [0, 1], 1 if in [0, 255]."""
    least, most = np.inf, -np.inf
    for box in strips:
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise BadImage("value range", "not finite")
        least, most = min(least, float(values.min())), max(most, float(values.max()))
    if least < 0 or most > 255:
        raise BadImage("value range", f"{least:g} to {most:g}; [0, 1] or [0, 255] is read")
    return 255.0 if most <= 1 else 1.0


def _turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply EXIF's orientation to (H, W, C): mirror (2, 4, 5, 7) and quarter turns (3, 6, 8, 5, 7)."""
    match orientation:
        case 2:
            pixels = pixels[:, ::-1]
        case 3:
            pixels = pixels[::-1, ::-1]
        case 4:
            pixels = pixels[::-1]
        case 5:
            pixels = pixels.swapaxes(0, 1)
        case 6:
            pixels = pixels[::-1].swapaxes(0, 1)
        case 7:
            pixels = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            pixels = pixels[:, ::-1].swapaxes(0, 1)
        case _:
            pass
    return np.ascontiguousarray(pixels)


def _beyond(size: tuple[int, int], by: int, orientation: int) -> tuple[int, int]:
    """How far the squares of a scaled and turned picture reach beyond its left and its upper edge."""
    right, below = -size[0] % by, -size[1] % by
    left = right if orientation in (2, 3, 7, 8) else 0
    top = below if orientation in (3, 4, 6, 7) else 0
    return (left, top) if orientation <= 4 else (top, left)


def _reason(error: Exception) -> str:
    text = str(error).lower()
    ends = ("truncated", "not enough image data", "unexpected end", "no more data", "end of file")
    if isinstance(error, EOFError) or any(words in text for words in ends):
        return "truncated"
    return "too much text" if "text" in text and "large" in text else "damaged"


# Pillow warns about files that are odd; what we think of a file is said in a BadImage or not at all.
# `catch_warnings` changes a list that all threads share, so the first thread in sets it and the last
# one out gives it back.
_lock = threading.Lock()
_inside: list[warnings.catch_warnings[None]] = []
_threads = 0


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the warnings of Pillow's modules, and of no other, for the length of one decode."""
    global _threads
    with _lock:
        _threads += 1
        if _threads == 1:
            guard = warnings.catch_warnings()
            guard.__enter__()
            _inside.append(guard)
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    try:
        yield
    finally:
        with _lock:
            _threads -= 1
            if _threads == 0:
                _inside.pop().__exit__(None, None, None)
