"""Boxes as DALI needs them, so that its resize means what decode_reference.py says: also at a view's border.

DALI's antialiased linear filter is Pillow's inside an image. At the border the two differ: Pillow leaves out the
pixels that are not there and divides by the weight of those that are, DALI repeats the outermost pixel (up to 12
levels off on photographs), and with a region of interest it sees what lies outside the box (worse).

So the pixels that count, and no others, are cut out and get a frame of zeros, which add nothing to a weighted sum;
the resized view is then divided by the weight that fell on true pixels. That weight is a product of one number for
each row and one for each column, known from the sizes alone, and it is 1 except near the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.decode_reference import check_box


@dataclass(frozen=True)
class CropWindows:
    """One view of each of n source images, as arguments of slice, slice and resize."""

    corner: NDArray[np.int32]
    """(n, 2) (y, x) in the source image: first of the pixels that count."""
    shape: NDArray[np.int32]
    """(n, 2) rows and columns of the pixels that count."""
    frame_corner: NDArray[np.int32]
    """(n, 2) <= 0, (y, x) in those pixels: where the frame of zeros starts."""
    framed_shape: NDArray[np.int32]
    """(n, 2) rows and columns with the frame."""
    roi_start: NDArray[np.float32]
    """(n, 2) (y, x) in the framed pixels: the box, from its left edge, or its right one in a mirrored view."""
    roi_end: NDArray[np.float32]
    """(n, 2) the opposite corner."""
    row_gains: NDArray[np.float32]
    """(n, S, 1, 1): what the rows of the view are to be multiplied by."""
    column_gains: NDArray[np.float32]
    """(n, 1, S, 1): the same of its columns."""


def crop_windows(
    boxes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    image_sizes: NDArray[np.integer],
    size: int,
    *,
    crop_first: bool,
) -> CropWindows:
    """Make the arguments for n boxes.

    Args:
        boxes: (n, 4) (y0, x0, y1, x1), half-open, in pixels of the source image.
        flips: (n,) whether the view is mirrored left-right.
        image_sizes: (n, 2) rows and columns of each source image.
        size: S, pixels of a view's side.
        crop_first: as for `decode_reference.decode`.

    Raises:
        ValueError: a box is empty, leaves its image, or is fractional with `crop_first`.
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    # check_box says what is wrong; asked of every box, it would cost as much as a quarter of all this
    suspects = (start < 0) | (start >= end) | (end > image_sizes) | (start % 1 != 0) | (end % 1 != 0)
    for i in np.flatnonzero(suspects.any(axis=1)).tolist():
        check_box(boxes[i].tolist(), int(image_sizes[i, 0]), int(image_sizes[i, 1]), i, crop_first)
    reach = np.ceil(np.maximum((end - start) / size, 1)).astype(np.int32) + 1
    if crop_first:
        first, last = start.astype(np.int32), end.astype(np.int32)
    else:
        first = np.maximum(np.floor(start).astype(np.int32) - reach, 0)
        last = np.minimum(np.ceil(end).astype(np.int32) + reach, image_sizes).astype(np.int32)
    shape = last - first
    near, far = start - first + reach, end - first + reach
    mirrored = flips[:, None] & np.array([False, True])
    rows, columns = (
        np.stack([_gains(*key, size) for key in zip(*axis, strict=True)])
        for axis in zip((start - first).T.tolist(), (end - first).T.tolist(), shape.T.tolist(), strict=True)
    )
    columns = np.where(flips[:, None], columns[:, ::-1], columns)
    return CropWindows(
        corner=first,
        shape=shape,
        frame_corner=-reach,
        framed_shape=shape + 2 * reach,
        roi_start=np.where(mirrored, far, near).astype(np.float32),
        roi_end=np.where(mirrored, near, far).astype(np.float32),
        row_gains=rows[:, :, None, None],
        column_gains=columns[:, None, :, None],
    )


@lru_cache(maxsize=8192)
def _gains(start: float, end: float, counted: int, size: int) -> NDArray[np.float32]:
    """(size,) float32: all weight over the weight on pixels [0, counted), of a triangle filter along one axis.

    The box [start, end) is resized to `size` pixels.
    """
    step = (end - start) / size
    reach = max(step, 1.0)
    centres = start + (np.arange(size) + 0.5) * step
    pixels = np.arange(np.floor(start - reach), np.ceil(end + reach))
    weights = np.maximum(0, 1 - np.abs(pixels + 0.5 - centres[:, None]) / reach)
    inside = (pixels >= 0) & (pixels < counted)
    return (weights.sum(axis=1) / weights[:, inside].sum(axis=1)).astype(np.float32)
