"""Digits-LT: counts, disjointness, and images that are still the digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipelines.beton.format import RAW_MODE
from pipelines.sources.digits import digits_split, training_counts
from pipelines.user_error import UserError


def pixels_of(split: str, factor: float = 50, seed: int = 0) -> np.ndarray:
    images, encoded = digits_split(split, factor, seed)
    pixels = []
    for image in encoded:
        assert (image.mode, image.height, image.width, image.copied) == (RAW_MODE, 32, 32, False)
        pixels.append(np.frombuffer(image.data, np.uint8).reshape(32, 32, 3))
    assert len(pixels) == len(images)
    return np.stack(pixels)


def paths_of(split: str, factor: float = 50, seed: int = 0) -> list[str]:
    images, _ = digits_split(split, factor, seed)
    return [images.path(i) for i in range(len(images))]


def test_counts() -> None:
    assert training_counts(50) == [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]
    assert training_counts(1) == [120] * 10
    train, _ = digits_split("train", 50, 0)
    test, _ = digits_split("test", 50, 0)
    assert train.class_counts().tolist() == [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]
    assert test.class_counts().tolist() == [50] * 10
    assert train.class_names[:2] == ["zero", "one"]
    assert (train.kind, train.name, test.name) == ("digits", "digits_lt_train", "digits_lt_test")


@pytest.mark.parametrize("factor", [0.5, 121, -3, float("nan"), float("inf")])
def test_factor_that_makes_no_set(factor: float) -> None:
    with pytest.raises(UserError, match=r"--imbalance-factor .* makes no long-tailed set .* give 1 to 120"):
        training_counts(factor)


def test_disjoint_and_fixed_by_the_seed() -> None:
    train, test = paths_of("train"), paths_of("test")
    assert len(set(train)) == len(train) == 331
    assert len(set(test)) == len(test) == 500
    assert not set(train) & set(test)
    assert (train, test) == (paths_of("train"), paths_of("test"))
    assert paths_of("test", factor=10) == test
    assert set(paths_of("train", factor=100)) < set(train)
    assert paths_of("train", seed=1) != train
    assert digits_split("train", 50, 0)[0].sha256 != digits_split("train", 50, 1)[0].sha256


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_the_digits(split: str) -> None:
    digits = load_digits()
    pixels = pixels_of(split)
    images, _ = digits_split(split, 50, 0)
    indices = [int(path.removeprefix("sklearn_digits/")) for path in paths_of(split)]
    np.testing.assert_array_equal(images.labels, digits.target[indices])
    assert (pixels == pixels[..., :1]).all()
    # Interpolation is a slight blur: the mean of each 4 x 4 block follows the pixel that it came from.
    blocks = pixels[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4))
    for block, index in zip(blocks, indices, strict=True):
        assert np.corrcoef(block.ravel(), digits.images[index].ravel())[0, 1] > 0.95
    assert (pixels.min(), pixels.max()) == (0, 255)
