"""Boxes of JPEGs against Pillow's pixels, and what is left to libjpeg."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from pipelines.jpeg.decoder import BoxDecoder

Array = NDArray[np.uint8]
SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]


def _encode(pixels: Array, **settings: object) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **settings)
    return np.frombuffer(file.getvalue(), np.uint8)


def _photograph(height: int, width: int) -> Array:
    return np.ascontiguousarray(load_sample_images().images[1][60 : 60 + height, 90 : 90 + width])


def _pillow(data: Array) -> Array:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))


def _assert_pillows(decoder: BoxDecoder, data: Array, box: tuple[int, int, int, int]) -> None:
    expected = _pillow(data)
    pixels = decoder.decode(data, *expected.shape[:2], box)
    assert pixels is not None
    y0, x0, y1, x1 = box
    np.testing.assert_array_equal(pixels, expected[y0:y1, x0:x1], err_msg=str(box))


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_every_pixel_alone(subsampling: str) -> None:
    """With the upsampling across the border of every block."""
    data, decoder = _encode(_photograph(35, 37), subsampling=subsampling, quality=90), BoxDecoder()
    for y in range(35):
        for x in range(37):
            _assert_pillows(decoder, data, (y, x, y + 1, x + 1))


@pytest.mark.parametrize("subsampling", SAMPLINGS)
@pytest.mark.parametrize("noise", [False, True])
def test_boxes_of_images_of_every_size_and_quality(subsampling: str, noise: bool) -> None:
    rng, decoder = np.random.default_rng(SAMPLINGS.index(subsampling)), BoxDecoder()
    for _ in range(60):
        height, width = rng.integers(5, 330, 2).tolist()
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8) if noise else _photograph(height, width)
        settings = {"quality": int(rng.integers(1, 101)), "optimize": not noise and bool(rng.integers(2))}
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1
        data = _encode(pixels, subsampling=subsampling, **settings)
        _assert_pillows(decoder, data, (y0, x0, y1, x1))
        _assert_pillows(decoder, data, (0, 0, height, width))


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_extreme_coefficients(subsampling: str) -> None:
    """Black beside white at full contrast, coarse and fine: what is transformed leaves 0 to 255 on both sides."""
    y, x = np.mgrid[:64, :72]
    for period in (1, 2, 3, 8):
        pixels = np.repeat((((y // period + x // period) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
        pixels[20:40, 20:50] = (255, 0, 0)
        pixels[40:, 30:60] = (0, 0, 255)
        for quality in (1, 10, 50, 100):
            data = _encode(pixels, subsampling=subsampling, quality=quality)
            _assert_pillows(BoxDecoder(), data, (3, 5, 61, 70))


def test_the_kind_of_bytes_and_of_segments_does_not_matter() -> None:
    decoder, pixels = BoxDecoder(), _photograph(90, 70)
    exif = Image.Exif()
    exif[0x0112] = 1
    for settings in (
        {"exif": exif},
        {"comment": b"\xff\xd8\xff\xc0" * 9},
        {"icc_profile": bytes(1000)},
        {"qtables": "keep"},
    ):
        source = io.BytesIO()
        Image.fromarray(pixels).save(source, "JPEG")
        file = io.BytesIO()
        Image.open(source).save(file, "JPEG", **settings)
        data = np.frombuffer(file.getvalue(), np.uint8)
        assert not data.flags.writeable
        _assert_pillows(decoder, data, (10, 20, 81, 69))


def test_what_is_not_the_common_kind_is_left_to_libjpeg() -> None:
    decoder, pixels = BoxDecoder(), _photograph(40, 56)
    rare = {
        "progressive": _encode(pixels, progressive=True),
        "restart markers": _encode(pixels, restart_marker_blocks=3),
        "gray": _encode(pixels[..., 0]),
        "RGB": _encode(pixels, keep_rgb=True),
    }
    file = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(file, "JPEG")
    rare["CMYK"] = np.frombuffer(file.getvalue(), np.uint8)
    usual = _encode(pixels)
    for factors in (0x12, 0x41, 0x44):  # of luma, in the frame's segment
        rare[f"factors {factors:#x}"] = other = usual.copy()
        other[usual.tobytes().index(b"\xff\xc0") + 11] = factors
    for name, data in rare.items():
        assert decoder.decode(data, 40, 56, (0, 0, 40, 56)) is None, name
    assert decoder.decode(_encode(_photograph(40, 4), subsampling="4:2:0"), 40, 4, (0, 0, 40, 4)) is None
    assert decoder.decode(usual, 56, 40, (0, 0, 40, 40)) is None  # not the size that was promised
    assert decoder.decode(np.append(usual, np.uint8(0)), 40, 56, (0, 0, 40, 56)) is None
    _assert_pillows(decoder, usual, (0, 0, 40, 56))


def test_data_that_break_off_are_left_to_libjpeg_wherever_the_box_is() -> None:
    data, decoder = _encode(_photograph(48, 56), quality=80), BoxDecoder()
    for box in ((0, 0, 48, 56), (3, 2, 9, 30)):
        _assert_pillows(decoder, data, box)
        for length in range(len(data)):
            assert decoder.decode(data[:length], 48, 56, box) is None, length
    short = np.concatenate([data[: len(data) * 2 // 3], data[-2:]])  # closed by an end marker
    assert decoder.decode(short, 48, 56, (0, 0, 48, 56)) is None


def test_tables_that_are_missing_are_not_those_of_the_image_before() -> None:
    data, decoder = _encode(_photograph(48, 56), quality=80), BoxDecoder()
    _assert_pillows(decoder, data, (0, 0, 48, 56))
    for marker in (0xC4, 0xDB):
        without, position = data.tobytes(), 2
        while without[position + 1] != 0xDA:
            end = position + 2 + int.from_bytes(without[position + 2 : position + 4], "big")
            if without[position + 1] == marker:
                without, end = without[:position] + without[end:], position
            position = end
        assert decoder.decode(np.frombuffer(without, np.uint8), 48, 56, (0, 0, 48, 56)) is None, hex(marker)


def test_pixels_lie_in_memory_that_is_used_again() -> None:
    decoder = BoxDecoder()
    large = decoder.decode(_encode(_photograph(200, 150)), 200, 150, (0, 0, 200, 150))
    small = decoder.decode(_encode(_photograph(100, 50)), 100, 50, (5, 6, 25, 46))
    assert large is not None and small is not None
    assert small.shape == (20, 40, 3)
    assert np.shares_memory(large, small)


DAMAGED = """
import io, sys
import numpy as np
from PIL import Image
from pipelines.jpeg.decoder import BoxDecoder

rng, decoder, answers = np.random.default_rng(0), BoxDecoder(), []
pixels = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(7, axis=0).repeat(9, axis=1)
for i in range(1500):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(20, 101)), subsampling=i % 3)
    data = np.frombuffer(file.getvalue(), np.uint8).copy()
    kind = i % 4
    if kind == 0:  # a few bytes of the compressed data, or of anything
        data[rng.integers(2, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
    elif kind == 1:  # a run of anything
        start = int(rng.integers(2, len(data)))
        data[start : start + 40] = rng.integers(0, 256, len(data[start : start + 40]))
    elif kind == 2:  # a hole
        start = int(rng.integers(2, len(data) - 2))
        data = np.delete(data, slice(start, start + int(rng.integers(1, 60))))
        data = np.concatenate([data, np.array([255, 217], np.uint8)])
    else:  # one bit
        data[rng.integers(2, len(data))] ^= np.uint8(1 << int(rng.integers(8)))
    y0, x0 = int(rng.integers(42)), int(rng.integers(72))
    box = (y0, x0, int(rng.integers(y0, 42)) + 1, int(rng.integers(x0, 72)) + 1)
    answers.append(decoder.decode(data, 42, 72, box) is not None)
print(sum(answers), len(answers))
"""


def test_damaged_files_are_read_within_their_bounds(tmp_path: Path) -> None:
    """numba checks every index of the compiled functions here, which it does not in use."""
    checked = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", DAMAGED]
    done = subprocess.run(command, env=checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    decoded, of = map(int, done.stdout.split())
    assert 100 < decoded < of == 1500
