"""Mutated files (R11): `decode` gives pixels or raises `BadImage`, soon, and nothing else happens."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from convatlas.data.decode import REASONS, decode
from convatlas.errors import BadImage
from corpus import encoded, exif, gif_of_frames, interlaced_png, photo, rle_bmp, with_chunk, ycck

pytestmark = pytest.mark.reliability

MAX_CPU_SECONDS = 2.0


def _seeds() -> list[bytes]:
    picture = photo(1, 40, 30)
    grey, alpha = picture.convert("L"), picture.convert("RGBA")
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    several = {"save_all": True, "append_images": [photo(2, 40, 30), photo(3, 40, 30)]}
    seeds = [
        *(encoded(picture, quality=q, subsampling=s) for q in (20, 95) for s in (0, 2)),
        encoded(picture, progressive=True),
        encoded(picture, exif=exif(6)),
        encoded(picture, restart_marker_blocks=2),
        encoded(grey),
        encoded(picture.convert("CMYK")),
        ycck(encoded(picture.convert("CMYK"))),
        encoded(picture, icc_profile=b"x" * 200),
        *(
            encoded(image, "PNG")
            for image in (picture, grey, alpha, alpha.convert("LA"), deep, grey.convert("1"))
        ),
        encoded(picture.quantize(16), "PNG"),
        encoded(picture.quantize(16), "PNG", transparency=bytes(range(16))),
        encoded(picture, "PNG", **several),
        interlaced_png(np.asarray(grey)),
        with_chunk(encoded(grey, "PNG"), b"eXIf", exif(5)[6:]),
        with_chunk(encoded(grey, "PNG"), b"iCCP", b"x\0\0y"),
        *(encoded(picture, "WEBP", lossless=lossless, quality=60) for lossless in (False, True)),
        encoded(alpha, "WEBP"),
        encoded(picture, "WEBP", **several),
        encoded(picture, "WEBP", exif=exif(8)),
        encoded(picture, "GIF"),
        encoded(picture, "GIF", **several),
        gif_of_frames(3),
        encoded(picture, "BMP"),
        encoded(picture.quantize(16), "BMP"),
        rle_bmp(np.asarray(grey)),
        *(
            encoded(picture, "TIFF", compression=c)
            for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        encoded(picture, "TIFF", big_tiff=True),
        encoded(deep, "TIFF"),
        encoded(Image.fromarray(np.asarray(grey, np.float32) / 255), "TIFF"),
        encoded(picture.convert("CMYK"), "TIFF"),
        encoded(picture, "PPM"),
        encoded(grey, "PPM"),
    ]
    return [*seeds, encoded(picture, "AVIF")] if features.check("avif") else seeds


SEEDS = _seeds()


@st.composite
def mutated(draw) -> bytes:
    """A seed with bytes changed, parts cut out, doubled, or exchanged with another seed's."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(
            st.sampled_from(["flip", "flip", "head", "cut", "truncate", "double", "splice", "number"])
        )
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 64))
        match kind:
            case "flip":
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "head":  # most of what a decoder can trip over stands in front
                at %= 64
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del content[at : at + length]
            case "truncate":
                del content[at:]
            case "double":
                content[at:at] = content[at : at + length]
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                content[at:] = other[min(at, len(other)) :]
            case _:
                content[at : at + 4] = draw(
                    st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
                )
    return bytes(content)


def examine(content: bytes) -> None:
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels, reason = decode(content), None
        except BadImage as error:
            pixels, reason = None, error.reason
    if pixels is None:
        assert reason in REASONS
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.flags.c_contiguous
    assert time.process_time() - start <= MAX_CPU_SECONDS


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_seed_is_a_picture(seed):
    assert decode(SEEDS[seed]).size


@settings(max_examples=2500, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutations(content):
    examine(content)


@pytest.mark.slow
@settings(max_examples=200_000, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_many_mutations(content):
    examine(content)


@settings(max_examples=300)
@given(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+", b"P5 ", b"BM"]
    ),
)
def test_noise(content, head):
    examine(head + content)
