"""The resize against Pillow, and against the filter's definition in float64, a sum a pixel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipelines.resize_cpu import MOST_TAPS, resize_into

Array = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Whole = tuple[int, int, int, int]


def noise(height: int, width: int, seed: int) -> Array:
    """Black and white pixels, and grey ones: whatever a sum may overflow with."""
    rng = np.random.default_rng(seed)
    return rng.choice([0, 255, 255, *rng.integers(0, 256, 3)], (height, width, 3)).astype(np.uint8)


def resized(image: Array, box: Box, size: int, *, crop_first: bool = True, flip: bool = False) -> Array:
    """What is to be tested, with bytes around `out` that nobody may write to."""
    memory = np.full(size * size * 3 + 128, 77, np.uint8)
    out = memory[64:-64].reshape(size, size, 3)
    resize_into(image, (0, 0, *image.shape[:2]), tuple(map(float, box)), crop_first, flip, out)
    assert (memory[:64] == 77).all() and (memory[-64:] == 77).all()
    return out


def weights(start: float, stop: float, low: int, high: int, size: int) -> NDArray[np.float64]:
    """(size, high) the share of each pixel in each pixel of the view."""
    scale = max((stop - start) / size, 1.0)
    middles = start + (np.arange(size) + 0.5) * (stop - start) / size
    share = np.maximum(0, 1 - np.abs(np.arange(high) + 0.5 - middles[:, None]) / scale)
    share[:, :low] = 0
    return share / share.sum(1, keepdims=True)


def exactly(image: Array, box: Box, limits: Whole, size: int) -> NDArray[np.float64]:
    rows = weights(box[0], box[2], limits[0], limits[2], size)
    columns = weights(box[1], box[3], limits[1], limits[3], size)
    lines = np.tensordot(rows, image[: limits[2], : limits[3]].astype(float), 1)
    return np.einsum("ywc,xw->yxc", lines, columns, optimize=True)


@st.composite
def crops(draw: st.DrawFn) -> tuple[int, int, Whole]:
    """Height and width of an image, and a box within it, of any size down to a pixel."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 130))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return height, width, (y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))


@given(crops(), st.integers(1, 60), st.booleans(), st.integers(0, 999))
@settings(max_examples=400)
def test_a_crop_is_pillows_within_one_level(
    crop: tuple[int, int, Whole], size: int, flip: bool, seed: int
) -> None:
    height, width, box = crop
    image = noise(height, width, seed)
    y0, x0, y1, x1 = box
    cut = Image.fromarray(image[y0:y1, x0:x1])
    expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))[:, :: -1 if flip else 1]
    view = resized(image, box, size, flip=flip)
    assert np.abs(view.astype(int) - expected).max() <= 1


@given(crops(), st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 999))
@settings(max_examples=200)
def test_a_part_of_a_resized_image_is_pillows_within_one_level(
    crop: tuple[int, int, Whole], size: int, inset: float, seed: int
) -> None:
    height, width, (y0, x0, y1, x1) = crop
    image = noise(height, width, seed)
    box = (y0 + inset / 3, x0 + inset / 2, y1 - inset / 5, x1 - inset / 4)
    whole = Image.fromarray(image)
    expected = np.asarray(
        whole.resize((size, size), Image.Resampling.BILINEAR, box=(box[1], box[0], box[3], box[2]))
    )
    view = resized(image, box, size, crop_first=False)
    assert np.abs(view.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(37, 53, 224), (131, 97, 100), (262, 327, 224), (375, 500, 224), (500, 375, 113), (400, 9, 31)],
)
def test_it_rounds_the_exact_sum(height: int, width: int, size: int) -> None:
    """Off by half a level, which rounding takes, and by less than a fifth that the products lose."""
    for seed, limits in enumerate([(0, 0, height, width), (3, 2, height - 5, width - 1)]):
        image = noise(height, width, seed)
        difference = resized(image, limits, size) - exactly(image, limits, limits, size)
        assert np.abs(difference).max() < 0.7
        # of rounding alone they would be 0 and 0.25
        assert abs(difference.mean()) < 0.01
        assert np.abs(difference).mean() < 0.27


@pytest.mark.parametrize("times", [0.9, 1.1, 8])
def test_shrinking_by_any_factor_is_as_exact(times: float) -> None:
    """With more taps than 16 bits are good for, and with as many as they are."""
    length = round(times * MOST_TAPS / 2 * 5)
    image = noise(length, length + 3, seed=5)
    limits = (0, 0, length, length + 3)
    view = resized(image, limits, 5)
    assert np.abs(view - exactly(image, limits, limits, 5)).max() < 0.7


@pytest.mark.parametrize("size", [1, 12, 64])
def test_pixels_that_are_not_resized_stay_as_they_are(size: int) -> None:
    image = noise(size + 3, size + 7, seed=size)
    view = resized(image, (2, 5, 2 + size, 5 + size), size)
    np.testing.assert_array_equal(view, image[2 : 2 + size, 5 : 5 + size])


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_one_colour_stays_that_colour(level: int) -> None:
    for height, width in ((7, 9), (61, 80), (240, 301), (900, 1000)):
        image = np.full((height, width, 3), level, np.uint8)
        assert (resized(image, (0, 0, height, width), 24, flip=True) == level).all()


@pytest.mark.parametrize("crop_first", [False, True])
def test_of_the_image_only_the_part_that_counts_need_be_there(crop_first: bool) -> None:
    image = noise(90, 140, seed=3)
    box = (21.0, 40.0, 67.0, 93.0)
    margin = 0 if crop_first else 2  # 46 rows and 53 columns become 30: 1.8 pixels
    shown = (21 - margin, 40 - margin, 67 + margin, 93 + margin)
    part = np.ascontiguousarray(image[shown[0] : shown[2], shown[1] : shown[3]])
    out = np.empty((30, 30, 3), np.uint8)
    resize_into(part, shown, box, crop_first, False, out)
    np.testing.assert_array_equal(out, resized(image, box, 30, crop_first=crop_first))


AT_THE_END_OF_MEMORY = """
import ctypes, mmap
import numpy as np
from pipelines.resize_cpu import resize_into
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 64 * page)
whole = np.frombuffer(memory, np.uint8)
for part, access in ((slice(0, page), 0), (slice(63 * page, 64 * page), 0)):
    address = whole[part].ctypes.data
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address), page, access) == 0
for height, width in ((40, 11), (50, 61), (3, 200), (1, 1), (77, 333)):
    for start in (page, 63 * page - height * width * 3):
        image = whole[start : start + height * width * 3].reshape(height, width, 3)
        for size in (1, 16, 50):
            out = np.empty((size, size, 3), np.uint8)
            resize_into(image, (0, 0, height, width), (0.0, 0.0, height * 1.0, width * 1.0), True, False, out)
print("read nothing else")
"""


def test_nothing_outside_the_image_is_read() -> None:
    """With pages before and after it that end the process which touches them."""
    command = [sys.executable, "-c", AT_THE_END_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert (done.returncode, done.stdout) == (0, "read nothing else\n"), done.stderr
