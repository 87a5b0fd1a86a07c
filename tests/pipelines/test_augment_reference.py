from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_sample_images

from pipelines.augment_reference import augment
from pipelines.draws.colours import ColourDraws

FACTORS = (0.63, 1.37, 0.25)
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 1.3])
def test_operations_run_in_the_drawn_order_then_gray_then_blur(gray: bool, sigma: float) -> None:
    """Against Pillow's own enhancers, to which torchvision hands over; every order gives its own picture."""
    orders = list(itertools.permutations(range(3)))
    view = load_sample_images().images[0][50:83, 200:241]
    colour = ColourDraws(
        order=np.array(orders, np.uint8),
        brightness=np.full(6, FACTORS[0], np.float32),
        contrast=np.full(6, FACTORS[1], np.float32),
        saturation=np.full(6, FACTORS[2], np.float32),
        gray=np.full(6, gray),
        blur_sigma=np.full(6, sigma, np.float32),
    )
    views = augment(np.stack([view] * 6), colour)
    assert views.shape == (6, 33, 41, 3)
    assert views.dtype == np.uint8
    for order, result in zip(orders, views, strict=True):
        image = Image.fromarray(view)
        for operation in order:
            image = ENHANCERS[operation](image).enhance(float(np.float32(FACTORS[operation])))
        if gray:
            image = image.convert("L").convert("RGB")
        if sigma:
            image = image.filter(ImageFilter.GaussianBlur(float(np.float32(sigma))))
        np.testing.assert_array_equal(result, np.asarray(image))
    assert len({result.tobytes() for result in views}) > 3


def test_each_view_has_its_own_parameters() -> None:
    view = load_sample_images().images[1][:20, :30]
    colour = ColourDraws(
        order=np.tile(np.arange(3, dtype=np.uint8), (4, 1)),
        brightness=np.array([1, 0, 1, 1], np.float32),
        contrast=np.ones(4, np.float32),
        saturation=np.ones(4, np.float32),
        gray=np.array([False, False, True, False]),
        blur_sigma=np.array([0, 0, 0, 1], np.float32),
    )
    plain, dark, gray, blurred = augment(np.stack([view] * 4), colour)
    np.testing.assert_array_equal(plain, view)
    assert dark.max() == 0
    assert (gray == gray[..., :1]).all()
    assert blurred.astype(float).std() < view.astype(float).std()
