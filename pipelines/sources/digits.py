"""Digits-LT: a long-tailed set that every installation has, from scikit-learn's 1,797 handwritten digits.

Class c gets int(120 * f^(-c/9)) training images, f the imbalance factor, as CIFAR-10-LT is made from
CIFAR-10 (Cao et al., LDAM-DRW, NeurIPS 2019, `imbalance_cifar.py`), and 50 test images that no training set
has. The digits have 8 x 8 pixels of 17 levels; they are enlarged to 32 x 32 RGB and stored raw.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE
from pipelines.sources.image_list import ImageList, from_rows
from pipelines.user_error import UserError

LARGEST_CLASS = 120
TEST_IMAGES = 50
"""A class."""
SIDE = 32
"""Pixels."""
CLASS_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def training_counts(imbalance_factor: float) -> list[int]:
    """Return the ten classes' numbers of training images.

    Raises:
        UserError: the factor is below 1, or so large that a class has no images.
    """
    if not 1 <= imbalance_factor <= LARGEST_CLASS:
        raise UserError(
            f"--imbalance-factor {imbalance_factor} makes no long-tailed set with images in every class; "
            f"give 1 to {LARGEST_CLASS}"
        )
    return [int(LARGEST_CLASS * imbalance_factor ** (-c / 9)) for c in range(10)]


def digits_split(split: str, imbalance_factor: float, seed: int) -> tuple[ImageList, Iterator[EncodedImage]]:
    """Return the list of the `train` or `test` images, by class, and the images themselves.

    The test images depend on the seed only; the training images of a smaller factor contain those of a
    larger one.
    """
    counts = training_counts(imbalance_factor)
    digits = load_digits()
    chosen = []
    for c, count in enumerate(counts):
        shuffled = np.random.default_rng([seed, c]).permutation(np.flatnonzero(digits.target == c))
        test, train = shuffled[:TEST_IMAGES], shuffled[TEST_IMAGES : TEST_IMAGES + count]
        chosen.append({"train": train, "test": test}[split])
    indices = np.concatenate(chosen)
    images = from_rows(
        [f"sklearn_digits/{index}" for index in indices],
        digits.target[indices],
        CLASS_NAMES,
        kind="digits",
        name=f"digits_lt_{split}",
    )
    return images, (_enlarge(digits.images[index]) for index in indices)


def _enlarge(levels: np.ndarray) -> EncodedImage:
    """Make an RGB image of 8 x 8 levels, 0 to 16."""
    gray = Image.fromarray(np.round(levels * (255 / 16)).astype(np.uint8))
    pixels = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB")
    return EncodedImage(pixels.tobytes(), RAW_MODE, SIDE, SIDE, copied=False)
