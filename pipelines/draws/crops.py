"""Crop boxes, padded crops and flips: where each view is cut from its source image."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.draws.draw import Draw, Purpose, uniforms
from pipelines.user_error import UserError

TRIES = 10
"""Boxes that RandomResizedCrop draws before it takes the centre of the image."""


def draw_resized_boxes(
    draw: Draw,
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.int32]:
    """Boxes of torchvision's `RandomResizedCrop`: (n, 4) int32 (y0, x0, y1, x1), half-open, inside the image.

    `heights`, `widths`: (n,) sizes of the source images in pixels. `scale`: bounds of the box's share of the
    area, drawn uniformly; `ratio`: bounds of width / height, its logarithm drawn uniformly. A box that does
    not fit is drawn again, ten times in all; then the box is the largest central one within the bounds of
    `ratio`. Errors: `UserError` for bounds that are not positive or in the wrong order.
    """
    for name, bounds in (("scale", scale), ("ratio", ratio)):
        if not 0 < bounds[0] <= bounds[1]:
            raise UserError(
                f"{name} of the resized crop is {bounds}: it must be (low, high) with 0 < low <= high"
            )
    tries = uniforms(draw, Purpose.RESIZED_CROP, 4 * TRIES).reshape(-1, TRIES, 4)
    tries[:, :, 0] = scale[0] + (scale[1] - scale[0]) * tries[:, :, 0]
    log_ratio = np.log(ratio)
    tries[:, :, 1] = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * tries[:, :, 1])
    return _first_fitting_boxes(tries, heights, widths, ratio[0], ratio[1])


@njit(nogil=True, cache=True)
def _first_fitting_boxes(
    tries: NDArray[np.float64],
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    min_ratio: float,
    max_ratio: float,
) -> NDArray[np.int32]:
    """The first try of each image that fits; tries[i, t] is (share of area, ratio, y and x in (0, 1))."""
    boxes = np.empty((len(tries), 4), np.int32)
    for i in range(len(tries)):
        height, width = int(heights[i]), int(widths[i])
        for t in range(TRIES):
            share, ratio, u_y, u_x = tries[i, t]
            area = share * (height * width)
            w = round(math.sqrt(area * ratio))
            h = round(math.sqrt(area / ratio))
            if 0 < h <= height and 0 < w <= width:
                y0 = int(u_y * (height - h + 1))
                x0 = int(u_x * (width - w + 1))
                break
        else:
            h, w = _central_size(height, width, min_ratio, max_ratio)
            y0, x0 = (height - h) // 2, (width - w) // 2
        boxes[i] = (y0, x0, y0 + h, x0 + w)
    return boxes


@njit(nogil=True, cache=True)
def _central_size(height: int, width: int, min_ratio: float, max_ratio: float) -> tuple[int, int]:
    """Size (h, w) of the largest box with a ratio within the bounds."""
    if width / height < min_ratio:
        return round(width / min_ratio), width
    if width / height > max_ratio:
        return height, round(height * max_ratio)
    return height, width


def draw_padded_offsets(draw: Draw, pad: int) -> NDArray[np.int32]:
    """Corners of torchvision's `RandomCrop(size, padding=pad)`: (n, 2) int32 (dy, dx), each in [0, 2 * pad].

    The view starts at row dy, column dx of the image with `pad` pixels added on each side; (pad, pad) is the
    image itself. Errors: `UserError` for a negative pad.
    """
    if pad < 0:
        raise UserError(f"the padding of the random crop is {pad}: it must be 0 or more pixels")
    return (uniforms(draw, Purpose.PADDED_CROP, 2) * (2 * pad + 1)).astype(np.int32)


def draw_flips(draw: Draw, probability: float = 0.5) -> NDArray[np.bool_]:
    """Which views are mirrored left to right: (n,) bool. Errors: `UserError` unless 0 <= probability <= 1."""
    if not 0 <= probability <= 1:
        raise UserError(f"the flip probability is {probability}: it must lie in [0, 1]")
    return uniforms(draw, Purpose.FLIP, 1)[:, 0] < probability
