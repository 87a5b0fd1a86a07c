"""Evaluation's view as a box: what torchvision's Resize(resize) and CenterCrop(crop) show of a source image.

With the box known, evaluation is one `decode` with `crop_first=False`, and no resized image is made of which
most would be cut away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.user_error import UserError


def resize_center_crop_boxes(
    heights: NDArray[np.integer], widths: NDArray[np.integer], resize: int, crop: int
) -> NDArray[np.float64]:
    """Return the boxes (n, 4) (y0, x0, y1, x1), in source pixels, that are to be resized to (crop, crop).

    torchvision 0.26's rounding is kept: the short side becomes `resize`, the long one
    int(resize * long / short), and the crop's corner is rounded half to even. An image smaller than the crop
    is enlarged like any other.

    Args:
        heights: (n,) rows of each source image.
        widths: (n,) pixels of each row.
        resize: pixels of the resized image's short side.
        crop: pixels of the view's side.

    Raises:
        UserError: `crop` exceeds `resize`: the view would have a border without an image.
    """
    if crop > resize:
        raise UserError(
            f"the evaluation crop of {crop} pixels exceeds the resized image, whose short side is {resize}: "
            f"set resize to {crop} or more"
        )
    sides = np.stack([heights, widths], axis=1).astype(np.int64)
    short = sides.min(axis=1, keepdims=True)
    resized = np.trunc(resize * sides / short)  # of the short side: resize, exactly
    corner = np.rint((resized - crop) / 2)
    scale = sides / resized
    far = np.minimum((corner + crop) * scale, sides)  # a rounding error must not leave the image
    return np.concatenate([corner * scale, far], axis=1)
