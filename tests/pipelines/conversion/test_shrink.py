"""Shrinking against the definition of an antialiased bicubic, slowly in float64, and against Pillow's."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.conversion.shrink import shrink


def weights(size: int, small: int) -> np.ndarray:
    """(small, size): what each sample contributes, by Catmull and Rom's cubic (a = -1/2) as wide as the step is."""
    step, a = size / small, -0.5
    rows = np.zeros((small, size))
    for i, row in enumerate(rows):
        for j in range(size):
            x = abs(j + 0.5 - (i + 0.5) * step) / step
            if x < 1:
                row[j] = ((a + 2) * x - (a + 3)) * x * x + 1
            elif x < 2:
                row[j] = (((x - 5) * x + 8) * x - 4) * a
    return rows / rows.sum(axis=1, keepdims=True)


def levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255)


def reference(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Across, to whole levels, then down: Pillow's order for images that are not tall."""
    across = levels(np.einsum("jx,yxc->yjc", weights(pixels.shape[1], width), pixels))
    return levels(np.einsum("iy,yjc->ijc", weights(pixels.shape[0], height), across))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


@given(height=st.integers(1, 90), width=st.integers(1, 90), factor=st.floats(0.01, 1))
@settings(max_examples=100)
def test_a_level_from_the_definition(height: int, width: int, factor: float) -> None:
    pixels = noise(height, width)
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    small = shrink(pixels, h, w)
    assert (small.shape, small.dtype) == ((h, w, 3), np.uint8)
    difference = np.abs(small - reference(pixels, h, w))
    assert difference.max() <= 2  # a level a pass
    assert np.count_nonzero(difference == 2) <= 1 + small.size / 1000


@pytest.mark.parametrize(
    ("size", "wanted"), [((375, 500), (192, 256)), ((1200, 1601), (192, 256)), ((37, 4000), (5, 500))]
)
def test_close_to_pillow(photo: Image.Image, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    for pixels in np.asarray(photo.resize(size[::-1])).copy(), noise(*size):
        expected = np.asarray(Image.fromarray(pixels).resize(wanted[::-1], Image.Resampling.BICUBIC)).astype(
            int
        )
        small = shrink(pixels, *wanted)
        assert small.flags.c_contiguous
        assert np.abs(small - expected).max() <= 1
        assert np.abs(small - expected).mean() < 0.1
        shifted = shrink(np.roll(pixels, 1, axis=1), *wanted)
        assert np.abs(shifted - expected).max() > 1  # the bound tells a shift by one pixel


def test_same_pixels_in_several_threads() -> None:
    pixels = [noise(301 + i, 403) for i in range(8)]
    alone = [shrink(image, 128, 171) for image in pixels]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda image: shrink(image, 128, 171), pixels))
    np.testing.assert_array_equal(alone, together)


def test_pytorch_is_not_imported_where_nothing_is_shrunk() -> None:
    """The command line answers at once, and a copy takes no memory for PyTorch."""
    script = (
        "import sys, tools.convert_datasets, pipelines.beton.verification; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
