from __future__ import annotations

import numpy as np
import pytest
import torchvision.transforms.functional as TF
from PIL import Image
from sklearn.datasets import load_sample_images

from pipelines.decode_cpu import decode_into
from pipelines.decode_reference import decode
from pipelines.eval_boxes import resize_center_crop_boxes
from pipelines.user_error import UserError

SHAPES = [
    (375, 500),
    (427, 333),
    (256, 341),
    (96, 640),
    (421, 60),
    (128, 128),
    (128, 192),
    (41, 37),
    (20, 31),
    (3, 7),
    (1, 1),
    (1, 50),
]


@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (64, 64), (71, 56), (40, 31)])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_box_shows_what_resize_and_center_crop_show(
    height: int, width: int, resize: int, crop: int
) -> None:
    photo = load_sample_images().images[1]
    pixels = np.ascontiguousarray(np.asarray(Image.fromarray(photo).resize((640, 430)))[:height, :width])
    expected = np.asarray(TF.center_crop(TF.resize(Image.fromarray(pixels), [resize]), [crop]))
    boxes = resize_center_crop_boxes(np.array([height]), np.array([width]), resize, crop)[:, None]
    no_flip = np.zeros((1, 1), bool)
    view = decode([pixels], boxes, no_flip, crop, crop_first=False)
    assert np.abs(view[0, 0].astype(int) - expected).max() <= 1
    out = np.empty_like(view)
    decode_into([pixels], boxes, no_flip, out, crop_first=False)
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_the_published_example() -> None:
    """500 x 375 pixels with 256 and 224: the short side shows 224 · 375 / 256 = 328.125 pixels."""
    (box,) = resize_center_crop_boxes(np.array([375]), np.array([500]), 256, 224)
    assert box[2] - box[0] == 328.125
    assert box[3] - box[1] == pytest.approx(224 * 500 / 341)  # int(256 · 500 / 375) = 341
    np.testing.assert_allclose(box[0], 16 * 375 / 256)
    np.testing.assert_allclose(box[1], 58 * 500 / 341)  # (341 - 224) / 2 = 58.5, rounded half to even


def test_boxes_of_many_images_stay_inside_them() -> None:
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 5000, (2, 20_000))
    boxes = resize_center_crop_boxes(heights, widths, 73, 73)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= heights).all()
    assert (boxes[:, 3] <= widths).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_crop_larger_than_the_resized_image_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"crop of 224 pixels exceeds .* short side is 200: set resize to 224 or more"
    ):
        resize_center_crop_boxes(np.array([10]), np.array([10]), 200, 224)
