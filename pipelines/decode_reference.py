"""What `decode` means: Pillow, image by image. Every fast decoder is within one level of this.

    decode(samples, boxes, flips, size) -> views

A source image is decoded once and each of its boxes becomes a view of size x size pixels: Pillow's
antialiased bilinear resize, then, where the flip says so, the mirror image.

A box is seen in one of two ways, and the caller says which, for they differ at the view's border:

- `crop_first` (training): crop, then resize, as torchvision's RandomResizedCrop does. Pixels outside the box
  do not count; boxes are whole pixels.
- not `crop_first` (evaluation): the filter sees the pixels around the box too, as when the whole image is
  resized and then cropped (torchvision's Resize and CenterCrop, see eval_boxes.py); boxes may be fractional.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(
    samples: Sequence[NDArray[np.uint8]],
    boxes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    size: int,
    *,
    crop_first: bool = True,
) -> NDArray[np.uint8]:
    """Decode n images and cut V views from each.

    Args:
        samples: of each image, a JPEG's bytes (1-D) or its RGB pixels (h, w, 3).
        boxes: (n, V, 4) (y0, x0, y1, x1), half-open, in pixels of the source image.
        flips: (n, V) whether the view is mirrored left-right.
        size: pixels of a view's side.
        crop_first: see above.

    Returns:
        (V, n, size, size, 3) uint8.

    Raises:
        ValueError: a box is empty, leaves its image, or is fractional with `crop_first`.
    """
    n, views = flips.shape
    out = np.empty((views, n, size, size, 3), np.uint8)
    for i, sample in enumerate(samples):
        image = _open(sample)
        for v in range(views):
            box = boxes[i, v].tolist()
            check_box(box, image.height, image.width, i, crop_first)
            y0, x0, y1, x1 = box
            if crop_first:
                crop = image.crop((int(x0), int(y0), int(x1), int(y1)))
                view = crop.resize((size, size), Image.Resampling.BILINEAR)
            else:
                view = image.resize((size, size), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
            if flips[i, v]:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            out[v, i] = np.asarray(view)
    return out


def check_box(box: Sequence[float], height: int, width: int, position: int, crop_first: bool) -> None:
    """Refuse a box (y0, x0, y1, x1) that cannot be cut from an image of this size.

    Raises:
        ValueError: it is empty, leaves the image, or is fractional with `crop_first`.
    """
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise ValueError(
            f"sample {position}: box (y0, x0, y1, x1) = {tuple(box)} is empty or leaves the image, "
            f"which has {height} rows of {width} pixels"
        )
    if crop_first and not all(float(side).is_integer() for side in box):
        raise ValueError(
            f"sample {position}: box {tuple(box)} is not of whole pixels: decode it with crop_first=False"
        )


def _open(sample: NDArray[np.uint8]) -> Image.Image:
    """Decode a whole image to RGB."""
    if sample.ndim == 3:
        return Image.fromarray(sample)
    return Image.open(io.BytesIO(sample.tobytes()), formats=["JPEG"]).convert("RGB")
