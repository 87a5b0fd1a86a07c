from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from pipelines.blur_cpu import blur_in_place, box_weights

Array = NDArray[np.uint8]


def _difference(view: Array, sigma: float) -> int:
    """Largest difference from Pillow's Gaussian blur, in levels."""
    inner, outer, radius = box_weights(np.array([sigma], np.float32))
    blurred = view.copy()
    blur_in_place(blurred, radius[0], inner[0], outer[0])
    expected = Image.fromarray(view).filter(ImageFilter.GaussianBlur(float(np.float32(sigma))))
    return int(np.abs(blurred.astype(int) - np.asarray(expected)).max())


def _noise(height: int, width: int) -> Array:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(41, 57), (1, 1), (2, 1), (1, 3), (3, 2), (4, 5), (5, 1), (7, 5)]
)
def test_blur_is_pillows(height: int, width: int) -> None:
    """Radii 0 to 19: those of the official recipe up to sigma = 2, its radius changing at sqrt(2), and larger."""
    y, x = 200, 300
    photograph = np.ascontiguousarray(load_sample_images().images[0][y : y + height, x : x + width])
    for sigma in [*np.linspace(0.1, 2, 30), 1.4142135, 1.4142137, 2.6, 3, 7.5, 20]:
        assert _difference(photograph, sigma) == 0
        assert _difference(_noise(height, width), sigma) == 0


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.8, 2.6])
def test_a_view_of_many_chunks_of_which_the_last_is_not_full(sigma: float) -> None:
    assert _difference(_noise(223, 101), sigma) == 0


def test_weights_that_are_not_quite_1_together() -> None:
    """They may be 2^-24 short of it, which decides a level for some sigmas and neighbours.

    These are such: a pixel of level 60 or more, and two beside it that differ from it by `bend` together.
    """
    sigmas = np.linspace(0.3, 1.41, 20_000, dtype=np.float32)
    inner, outer, _ = (weights.astype(np.int64) for weights in box_weights(sigmas))
    rest = (outer[:, None] * np.arange(-200, 201) + 2**23) % 2**24
    decisive = sigmas[(inner + 2 * outer < 2**24) & (rest < 60).any(axis=1)]
    assert len(decisive) >= 5
    for sigma in decisive[:5].tolist():
        assert _difference(_noise(150, 170), sigma) == 0


def test_the_largest_sums_and_differences() -> None:
    """Black beside white: nothing wraps; and a white view stays white."""
    view = np.zeros((6, 40, 3), np.uint8)
    view[1::2, ::2] = 255
    view[:, 20:, 1] = 255
    for sigma in (0.2, 0.9, 1.41, 1.5, 4.0, 30.0):
        assert _difference(view, sigma) == 0
        assert _difference(np.full_like(view, 255), sigma) == 0


def test_three_boxes_have_the_gaussians_variance() -> None:
    sigmas = np.array([0.1, 0.5, 1.0, 1.414, 1.4143, 2.0, 5.0], np.float32)
    for sigma, inner, outer, radius in zip(sigmas, *box_weights(sigmas), strict=True):
        distances = np.arange(-radius - 1, radius + 2)
        weights = np.full(len(distances), float(inner))
        weights[[0, -1]] = outer
        assert weights.sum() / 2**24 == pytest.approx(1, abs=1e-6)
        assert 3 * (weights * distances**2).sum() / 2**24 == pytest.approx(sigma**2, rel=1e-3)
