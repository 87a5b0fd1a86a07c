from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from pipelines.augment_cpu import augment_into
from pipelines.augment_reference import augment
from pipelines.draws.colours import ColourDraws

Array = NDArray[np.uint8]
ORDERS = np.array(list(permutations(range(3))), np.uint8)


def _photographs(n: int, height: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    photos = load_sample_images().images
    views = np.empty((n, height, width, 3), np.uint8)
    for i in range(n):
        y, x = rng.integers(427 - height + 1), rng.integers(640 - width + 1)
        views[i] = photos[i % 2][y : y + height, x : x + width]
    return views


def _colour(n: int, **fields: object) -> ColourDraws:
    """Draws that change nothing, but for the fields that are named."""
    settings: dict[str, object] = {
        "order": np.resize(ORDERS, (n, 3)),
        "brightness": 1.0,
        "contrast": 1.0,
        "saturation": 1.0,
        "gray": False,
        "blur_sigma": 0.0,
    } | fields
    arrays = {
        name: np.resize(np.asarray(value), n).astype(bool if name == "gray" else np.float32)
        for name, value in settings.items()
        if name != "order"
    }
    return ColourDraws(order=np.asarray(settings["order"], np.uint8), **arrays)


def _difference(views: Array, colour: ColourDraws) -> int:
    """Largest difference of the fast backend from the reference, in levels."""
    changed = views.copy()
    augment_into(changed, colour)
    return int(np.abs(changed.astype(int) - augment(views, colour)).max())


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_factor_is_exact_for_every_level(name: str) -> None:
    """Noise has all levels beside each other; factors from none to an impossible much."""
    views = np.random.default_rng(0).integers(0, 256, (12, 31, 43, 3)).astype(np.uint8)
    factors = [0, 0.001, 0.3, 0.5, 0.6, 0.999, 1, 1.001, 1.25, 1.4, 2, 10]
    assert _difference(views, _colour(12, **{name: factors})) == 0


def test_contrast_is_about_the_true_mean_of_each_view() -> None:
    views = np.stack([np.full((9, 14, 3), level, np.uint8) for level in range(256)])
    assert _difference(views, _colour(256, contrast=0.0)) == 0
    assert _difference(views, _colour(256, contrast=1.9, brightness=0.5)) == 0
    noise = np.random.default_rng(1).integers(0, 256, (200, 1, 2, 3)).astype(np.uint8)
    assert _difference(noise, _colour(200, contrast=0.0)) == 0  # means at x.5, rounded up


def test_grayscale_is_exact_for_every_colour() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 52, -1, 3)
    assert _difference(colours, _colour(1, gray=True)) == 0


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (3, 1), (1, 5), (32, 32), (25, 41), (33, 31), (43, 53)]
)
def test_views_of_any_size_in_every_order(height: int, width: int) -> None:
    """Of few pixels, and around one and two tiles of 1024; a jitter that leaves no operation out."""
    views = _photographs(12, height, width)
    colour = _colour(12, brightness=1.3, contrast=0.7, saturation=1.2, gray=np.arange(12) >= 6)
    assert _difference(views, colour) == 0


def test_the_official_recipe_on_photographs() -> None:
    n = 48
    rng = np.random.default_rng(3)
    colour = _colour(
        n,
        brightness=rng.uniform(0.6, 1.4, n),
        contrast=rng.uniform(0.6, 1.4, n),
        saturation=rng.uniform(0.6, 1.4, n),
        gray=rng.random(n) < 0.2,
        blur_sigma=np.where(rng.random(n) < 0.5, rng.uniform(0.1, 2, n), 0),
    )
    views = _photographs(n, 64, 53)
    assert _difference(views, colour) == 0
    assert np.abs(augment(views, colour).astype(int) - views).max() > 100  # there is something to find


def test_a_slice_of_a_batch_uses_its_own_rows() -> None:
    views = _photographs(10, 20, 23).reshape(2, 5, 20, 23, 3)
    colour = _colour(5, brightness=[0.5, 0.7, 0.9, 1.1, 1.3], gray=[0, 0, 1, 0, 1])
    expected = augment(views[1], colour)
    untouched = views.copy()
    part = views[1, 2:4]
    augment_into(part, colour, first=2)
    np.testing.assert_array_equal(views[1, 2:4], expected[2:4])
    untouched[1, 2:4] = views[1, 2:4]
    np.testing.assert_array_equal(views, untouched)
    augment_into(views[1, :0], colour)  # no view is no error
