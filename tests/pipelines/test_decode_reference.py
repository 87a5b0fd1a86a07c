"""The definition itself is checked against torchvision's own transforms on Pillow images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from PIL import Image

from pipelines.decode_reference import decode


@pytest.fixture
def samples(make_photographs: Callable[..., list[Path]], tmp_path: Path) -> list[NDArray[np.uint8]]:
    paths = make_photographs(tmp_path, 3)
    return [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]


def _pillow(sample: NDArray[np.uint8]) -> Image.Image:
    return Image.open(io.BytesIO(sample.tobytes())).convert("RGB")


def test_views_are_torchvisions_resized_crops_and_mirror_images(samples: list[NDArray[np.uint8]]) -> None:
    images = [_pillow(sample) for sample in samples]
    boxes = np.array(
        [[(1, 2, image.height - 3, image.width - 5), (7, 11, 30, 29)] for image in images], np.float64
    )
    flips = np.array([[False, True], [True, False], [False, False]])
    views = decode(samples, boxes, flips, 37)
    assert views.shape == (2, 3, 37, 37, 3)
    for i, image in enumerate(images):
        for v in range(2):
            y0, x0, y1, x1 = boxes[i, v].astype(int).tolist()
            expected = TF.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [37, 37])
            if flips[i, v]:
                expected = TF.hflip(expected)
            np.testing.assert_array_equal(views[v, i], np.asarray(expected))


def test_surroundings_count_only_without_crop_first() -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, 12:] = 255  # just right of the box
    box = np.array([[(4.0, 4.0, 12.0, 12.0)]])
    no_flip = np.zeros((1, 1), bool)
    assert decode([image], box, no_flip, 4).max() == 0
    seen = decode([image], box, no_flip, 4, crop_first=False)[0, 0]
    assert seen[:, :3].max() == 0
    assert seen[:, 3].min() > 0


def test_raw_pixels_and_jpeg_are_one_operation(samples: list[NDArray[np.uint8]]) -> None:
    pixels = np.asarray(_pillow(samples[0]))
    box, flip = np.array([[(3, 4, 40, 47)]], np.float64), np.array([[True]])
    np.testing.assert_array_equal(decode([pixels], box, flip, 20), decode(samples[:1], box, flip, 20))


@pytest.mark.parametrize(
    "box",
    [(0, 0, 11, 5), (0, 0, 10, 21), (-1, 0, 5, 5), (0, -1, 5, 5), (4, 2, 4, 8), (2, 8, 8, 8), (6, 2, 4, 8)],
)
@pytest.mark.parametrize("crop_first", [True, False])
def test_a_box_that_cannot_be_cut_is_refused(box: tuple[int, ...], crop_first: bool) -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    good = (0, 0, 10, 20)
    with pytest.raises(ValueError, match=r"sample 1: box .* is empty or leaves the image, which has 10 rows"):
        decode(
            [image, image],
            np.array([[good], [box]], np.float64),
            np.zeros((2, 1), bool),
            4,
            crop_first=crop_first,
        )


def test_a_fractional_box_is_no_crop() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="not of whole pixels: decode it with crop_first=False"):
        decode([image], np.array([[(0.5, 0, 4, 4)]]), np.zeros((1, 1), bool), 4)
