"""Decoding against Pillow used plainly, against formulas, and against files that are not what they say."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from convatlas.data import decode as module_function
from convatlas.data.decode import MAX_PIXELS, REASONS, decode, is_grey
from convatlas.errors import BadImage
from corpus import encoded, exif, interlaced_png, photo, png, rle_bmp, segments, with_chunk, ycck

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (23, 31), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (23, 31), dtype=np.uint8)


def luma(colour):
    """ITU-R 601 in exact arithmetic, rounded."""
    return np.floor(colour.astype(np.float64) @ [0.299, 0.587, 0.114] + 0.5)


def over_white(colour, alpha):
    """`colour` (H, W, C) over white with `alpha` (H, W)."""
    share = alpha[..., None] / 255.0
    return colour * share + 255.0 * (1 - share)


def test_the_package_offers_the_function_and_not_the_module():
    assert module_function is decode


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
    ],
)
def test_lossless_formats_give_the_pixels_back(kind, options):
    assert np.array_equal(decode(encoded(Image.fromarray(COLOUR), kind, **options)), COLOUR)
    grey = decode(encoded(Image.fromarray(GREY), kind, **options), channels=1)
    assert grey.shape == (23, 31, 1)
    assert np.array_equal(grey[..., 0], GREY)


def test_grey_becomes_three_equal_channels_and_back():
    content = encoded(Image.fromarray(GREY), "PNG")
    assert np.array_equal(decode(content), np.repeat(GREY[..., None], 3, axis=2))
    three = encoded(Image.fromarray(np.repeat(GREY[..., None], 3, axis=2)), "PNG")
    assert np.array_equal(decode(three, channels=1)[..., 0], GREY)


def test_colour_becomes_grey_by_luma():
    grey = decode(encoded(Image.fromarray(COLOUR), "PNG"), channels=1)[..., 0]
    assert np.abs(grey - luma(COLOUR)).max() <= 1


def test_formats_written_by_hand():
    assert np.array_equal(decode(interlaced_png(GREY), channels=1)[..., 0], GREY)
    assert np.array_equal(decode(rle_bmp(GREY), channels=1)[..., 0], GREY)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif():
    soft = photo(1)
    assert np.abs(decode(encoded(soft, "AVIF", quality=95)).astype(int) - np.asarray(soft)).mean() < 5


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_small_depths_fill_the_range(depth):
    values = RNG.integers(0, 2**depth, (5, 16))
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :].reshape(5, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    grey = decode(png(16, 5, rows, depth), channels=1)[..., 0]
    assert np.array_equal(grey, values * 255 // (2**depth - 1))


def test_palette_with_and_without_transparency():
    indexed = Image.fromarray(COLOUR).quantize(8)
    plain = np.asarray(indexed.convert("RGB"))
    assert np.array_equal(decode(encoded(indexed, "PNG")), plain)
    hole = decode(encoded(indexed, "PNG", transparency=2))
    assert np.array_equal(hole, np.where((np.asarray(indexed) == 2)[..., None], 255, plain))
    some = bytes(range(0, 256, 32))  # one alpha for each colour
    blended = over_white(plain.astype(float), np.frombuffer(some, np.uint8)[np.asarray(indexed)])
    assert np.abs(decode(encoded(indexed, "PNG", transparency=some)) - blended).max() <= 1


def test_alpha_is_composed_over_white():
    rgba = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    assert np.abs(decode(encoded(rgba, "PNG")) - over_white(COLOUR, ALPHA)).max() <= 1
    la = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    expected = over_white(GREY[..., None], ALPHA)
    assert np.abs(decode(encoded(la, "PNG"), channels=1) - expected).max() <= 1
    assert np.abs(decode(encoded(la, "PNG")) - expected).max() <= 1


def test_one_transparent_colour_of_a_png_becomes_white():
    content = encoded(Image.fromarray(GREY), "PNG", transparency=int(GREY[2, 3]))
    expected = np.where(GREY[2, 3] == GREY, 255, GREY)
    assert np.array_equal(decode(content, channels=1)[..., 0], expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_257(kind):
    deep = RNG.integers(0, 65536, (9, 11), dtype=np.uint16)
    deep[0, :3] = 0, 65535, 257
    grey = decode(encoded(Image.fromarray(deep), kind), channels=1)[..., 0]
    assert np.array_equal(grey, np.floor(deep / 257 + 0.5))
    assert grey[0, :3].tolist() == [0, 255, 1]


def test_integers_beyond_sixteen_bits_are_refused():
    fine = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert decode(encoded(fine, "TIFF"), channels=1).ravel().tolist() == [0, 255]
    with pytest.raises(BadImage, match="value range"):
        decode(encoded(Image.fromarray(np.array([[0, 65536]], np.int32)), "TIFF"))


def test_floating_point_is_read_in_two_ranges():
    unit = encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF")
    assert decode(unit, channels=1).ravel().tolist() == [0, 128, 255]
    bytes_ = encoded(Image.fromarray(np.array([[0, 99.6, 255]], np.float32)), "TIFF")
    assert decode(bytes_, channels=1).ravel().tolist() == [0, 100, 255]
    for bad in (np.nan, np.inf, -0.1, 256.0):
        with pytest.raises(BadImage, match="value range"):
            decode(encoded(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"))


def test_cmyk_is_the_plain_complement():
    cmyk = RNG.integers(0, 256, (7, 9, 4), dtype=np.uint8)
    content = encoded(Image.fromarray(cmyk, "CMYK"), "TIFF")
    c, k = cmyk[..., :3].astype(float), cmyk[..., 3:].astype(float)
    assert np.abs(decode(content) - (255 - c) * (255 - k) / 255).max() <= 1
    jpeg = encoded(photo(2).convert("CMYK"), quality=95)
    assert np.abs(decode(jpeg).astype(int) - np.asarray(photo(2))).mean() < 12
    assert decode(ycck(jpeg)).shape == (72, 96, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_does(orientation, kind):
    picture = Image.fromarray(COLOUR)
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(picture, kind, exif=tags, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode(content), np.asarray(expected.convert("RGB")))
    assert decode(content).shape == ((31, 23, 3) if orientation > 4 else (23, 31, 3))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        exif(9),
        exif(0),
        exif(6)[:-9],
        b"Exif\0\0MM\0*" + bytes(65_000),
    ],
)
def test_broken_exif_is_ignored(block):
    jpeg = encoded(photo(3))
    assert np.array_equal(decode(segments(jpeg, block)), decode(jpeg))


def test_side_segments_of_a_jpeg_change_nothing():
    jpeg = encoded(photo(3), progressive=True)
    for marker, body in (
        (0xE2, b"ICC_PROFILE\0\1\1junk"),
        (0xE2, b"MPF\0" + bytes(50)),
        (0xED, b"Photoshop 3.0\0x"),
        (0xFE, b"x"),
    ):
        assert np.array_equal(decode(segments(jpeg, body, marker=marker)), decode(jpeg))
    assert np.array_equal(decode(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))))
    assert np.array_equal(decode(jpeg + b"PK\3\4 and more"), decode(jpeg))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})],
)
def test_the_first_picture_of_several(kind, options):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    content = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.array_equal(decode(content, channels=1)[..., 0], GREY)


def test_frames_are_not_counted(monkeypatch):
    from PIL.GifImagePlugin import GifImageFile

    def counted(self):
        raise AssertionError("the frames were counted")

    content = encoded(
        Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]
    )
    monkeypatch.setattr(GifImageFile, "n_frames", property(counted))
    assert np.array_equal(decode(content, channels=1)[..., 0], GREY)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(COLOUR), "PNG"),
        (Image.fromarray(np.dstack([COLOUR, ALPHA])), "PNG"),
        (Image.fromarray(COLOUR).quantize(8), "PNG"),
        (Image.fromarray(GREY.astype(np.uint16) * 200), "PNG"),
        (Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
        (Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_conversion_in_strips_is_conversion_at_once(monkeypatch, image, kind, channels):
    content = encoded(image, kind)
    whole = decode(content, channels=channels)
    monkeypatch.setitem(decode.__globals__, "_STRIP_PIXELS", 31 * 4)
    assert np.array_equal(decode(content, channels=channels), whole)


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
    ],
)
def test_a_file_that_ends_too_early_is_refused(kind, options, percent):
    content = encoded(photo(4), kind, **options)
    with pytest.raises(BadImage):
        decode(content[: len(content) * percent // 100])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\xff", "not an image"),
        (b"just words", "not an image"),
        (b"<!DOCTYPE html><p>", "not an image"),
        (b"%PDF-1.7", "not an image"),
        (b"%!PS-Adobe", "format not accepted"),
        (b"P3 1 1 255 1 2 3", "format not accepted"),
        (png(30_000, 30_000, b"", 1), "too many pixels"),
        (png(1, 40_000, b"\0\0" * 40_000), "too many pixels"),
        (b"P5 100000 100000 255 ", "too many pixels"),
        (b"P5 3000 3000 77 ", "too many pixels"),  # a depth that Pillow reads in Python
    ],
)
def test_reasons(content, reason):
    with pytest.raises(BadImage) as caught:
        decode(content, name="a.jpg")
    assert caught.value.reason == reason
    assert caught.value.reason in REASONS
    assert str(caught.value).startswith("a.jpg: ")


def test_only_the_format_that_the_content_announces_is_tried():
    """A file that begins like a TIFF and is an IFUNC picture, which Pillow would open."""
    header = (
        b"II*\0\x08\0\0\0"
        + bytes(6)
        + b": x\r\nImage type: L image\r\nImage size (x*y): 2*2\r\nFile size (no of images): 1\r\n"
    )
    content = header.ljust(511, b"\0") + b"\x1a" + b"\x10\x20\x30\x40"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Image.open(io.BytesIO(content)).format == "IM"
    with pytest.raises(BadImage, match="TIFF header"):
        decode(content)


def test_the_cap_is_on_pixels_and_can_be_lowered():
    content = encoded(Image.fromarray(GREY), "PNG")
    assert decode(content, max_pixels=23 * 31).shape == (23, 31, 3)
    with pytest.raises(BadImage, match="too many pixels"):
        decode(content, max_pixels=23 * 31 - 1)
    assert MAX_PIXELS == 64_000_000


def test_the_cap_holds_before_pixels_are_allocated(monkeypatch):
    def load(self):
        raise AssertionError("pixels were decoded")

    content = encoded(Image.new("1", (9000, 9000)), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(BadImage, match="9,000 x 9,000"):
        decode(content)


def test_checksums_of_png_are_held():
    content = bytearray(encoded(photo(5), "PNG"))
    content[content.index(b"IDAT") + 40] ^= 1
    with pytest.raises(BadImage, match="checksum"):
        decode(bytes(content))


def test_text_of_a_png_may_be_broken_but_not_boundless():
    content = encoded(photo(5), "PNG")
    assert np.array_equal(decode(with_chunk(content, b"iCCP", b"x\0\0not zlib")), decode(content))
    assert np.array_equal(decode(with_chunk(content, b"tEXt", b"Comment\0hello")), decode(content))
    many = content
    for _ in range(40):
        many = with_chunk(many, b"tEXt", b"Comment\0hello")
    with pytest.raises(BadImage, match="too much text"):
        decode(many)


def test_is_grey_looks_at_every_pixel():
    grey = np.repeat(GREY[..., None], 3, axis=2)
    assert is_grey(grey)
    assert is_grey(GREY[..., None])
    for channel in range(3):
        other = grey.copy()
        other[-1, -1, channel] ^= 1
        assert not is_grey(other)


def test_nothing_global_is_changed_and_no_warning_escapes():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    noisy = encoded(Image.fromarray(COLOUR).quantize(8), "PNG", transparency=bytes(range(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(noisy)
        decode(noisy, channels=1)
    threads = [threading.Thread(target=lambda: [decode(noisy) for _ in range(30)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_a_cap_of_pillow_set_by_someone_else_changes_only_the_reason(monkeypatch):
    content = encoded(photo(6), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(content).shape == (72, 96, 3)
    with pytest.raises(BadImage, match="too many pixels"):
        decode(png(30_000, 30_000, b"", 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadImage, match="too many pixels"):
        decode(content)


@pytest.mark.parametrize(
    "content",
    [
        b"SECRET of somebody",
        b"P5 SECRET 1 255 " + bytes(9),
        b"P5 SECRET-that-is-long 1 255 " + bytes(9),
        b"P6\nSECRETSECRET",
        b"\x89PNG\r\n\x1a\n\0\0\xff\xffSECR" + bytes(20),
        encoded(photo(1), "PNG")[:33] + b"\0\0\0\0SECR" + zlib.crc32(b"SECR").to_bytes(4, "big") + bytes(12),
        b"GIF89aSECRETSECRETSECRETSECRET",
        b"BMSECRETSECRET" + struct.pack("<I", 40) + b"SECRET" * 9,
        b"II*\0\x08\0\0\0\x01\0SECRETSECRETSECRET",
        b"RIFF\x20\0\0\0WEBPSECRETSECRETSECRETSECRETSECRET",
    ],
)
def test_no_message_quotes_the_file(content):
    with pytest.raises(BadImage) as caught:
        decode(content)
    assert "SEC" not in str(caught.value)
