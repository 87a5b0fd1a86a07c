"""Decoded pixels against Pillow's, for whole and for damaged files, and turning against Pillow's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.conversion.source_pixels import decode_any, decode_jpeg, upright
from pipelines.jpeg.markers import read_markers
from pipelines.user_error import UserError

JPEGS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 98},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "RGB": {"keep_rgb": True},
}


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_have_pillows_pixels(photo: Image.Image, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # which must not turn them
    data = jpeg(photo, exif=exif, **JPEGS[kind])
    pixels = decode_jpeg("x.jpg", data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels[:, :, ::-1], pillow(data))
    again, orientation = decode_any("x.jpg", data)
    np.testing.assert_array_equal(again, pixels)
    assert orientation == 6


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, or a stretch of them cut out, between the start and the end marker."""
    if rng.random() < 0.5:
        changed = bytearray(data)
        for place in rng.integers(2, len(data) - 2, size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        return bytes(changed)
    start = int(rng.integers(2, len(data) - 2))
    return data[:start] + data[min(len(data) - 2, start + int(rng.integers(1, 2000))) :]


@pytest.mark.parametrize("kind", JPEGS)
def test_damaged_jpegs_are_taken_and_refused_as_pillow_does(photo: Image.Image, kind: str) -> None:
    rng, whole = np.random.default_rng(5), jpeg(photo, **JPEGS[kind])
    taken = refused = 0
    for _ in range(400):
        data = damaged(whole, rng)
        try:
            frame = read_markers(data).frame
        except ValueError:
            continue  # the converter refuses it before it is decoded
        if (len(frame.components), frame.precision) != (3, 8) or frame.height * frame.width > 1e6:
            continue
        try:
            wanted = pillow(data)
        except OSError:
            with pytest.raises(UserError, match=r"x.jpg: cannot decode the image \(\w+: .*\); replace"):
                decode_jpeg("x.jpg", data)
            refused += 1
        else:
            np.testing.assert_array_equal(decode_jpeg("x.jpg", data)[:, :, ::-1], wanted)
            taken += 1
    assert taken > 100
    assert refused > 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(orientation).integers(0, 256, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    turned = upright(pixels, orientation)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, wanted)
