from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from numpy.typing import NDArray

from pipelines.resident.images import ResidentImages


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(1, 256, (7, 11, 13, 3)).astype(np.uint8)


@pytest.mark.parametrize("pad", [0, 1, 4, 15])
def test_padded_crops_are_torchvisions(pixels: NDArray[np.uint8], pad: int) -> None:
    """Every offset, both flips; a padding of 15 leaves some crops without any pixel of the image."""
    offsets = np.stack(np.meshgrid(np.arange(2 * pad + 1), np.arange(2 * pad + 1)), axis=-1).reshape(-1, 2)
    offsets = np.repeat(offsets, 2, axis=0)
    flips = np.arange(len(offsets)) % 2 == 1
    indices = np.arange(len(offsets)) * 3 % len(pixels)
    views = ResidentImages(pixels).padded_crop(indices, offsets, flips, pad)
    padded = TF.pad(torch.from_numpy(pixels).permute(0, 3, 1, 2), [pad])
    for index, (dy, dx), flip, view in zip(indices, offsets.tolist(), flips, views, strict=True):
        expected = TF.crop(padded[index], dy, dx, 11, 13)
        if flip:
            expected = TF.hflip(expected)
        np.testing.assert_array_equal(view, expected.permute(1, 2, 0).numpy())


def test_results_go_where_the_caller_says(pixels: NDArray[np.uint8]) -> None:
    images = ResidentImages(pixels)
    out = np.full((2, 3, 11, 13, 3), 99, np.uint8)
    indices = np.array([6, 0, 6])
    images.padded_crop(indices, np.array([[0, 4], [2, 2], [3, 1]]), np.zeros(3, bool), 2, out=out[1])
    assert (out[0] == 99).all()
    np.testing.assert_array_equal(out[1, 1], pixels[0])
    assert (out[1, 0, :2] == 0).all()  # dy = 0: the rows of the padding
    assert images.gather(indices, out=out[0]).base is out
    np.testing.assert_array_equal(out[0], pixels[[6, 0, 6]])


def test_gather_returns_the_images_as_they_are(pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(ResidentImages(pixels).gather(np.array([3, 3, 1])), pixels[[3, 3, 1]])


def test_the_set_is_a_copy(pixels: NDArray[np.uint8]) -> None:
    images = ResidentImages(pixels[:, ::-1])
    before = pixels[2, ::-1].copy()
    pixels[:] = 0
    np.testing.assert_array_equal(images.gather(np.array([2]))[0], before)


def test_nothing_outside_is_read(pixels: NDArray[np.uint8]) -> None:
    images = ResidentImages(pixels)
    no_flip = np.zeros(1, bool)
    for index in (-1, 7):
        with pytest.raises(IndexError, match="images 0 to 6"):
            images.gather(np.array([index]))
        with pytest.raises(IndexError, match="images 0 to 6"):
            images.padded_crop(np.array([index]), np.array([[0, 0]]), no_flip, 2)
    for offset in ((-1, 0), (0, 5)):
        with pytest.raises(ValueError, match=r"offsets must lie in \[0, 4\]"):
            images.padded_crop(np.array([0]), np.array([offset]), no_flip, 2)
    empty = np.zeros(0, np.int64)
    assert images.padded_crop(empty, np.zeros((0, 2), np.int64), no_flip[:0], 2).shape == (0, 11, 13, 3)
