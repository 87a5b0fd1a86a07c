"""`mix` on the CPU, fast: one numba loop a pair, uint8 in, normalised float32 out, nothing in between.

A thread of the pool calls `mix_into` on the pairs that it has just decoded, while they are in its cache. What
counts is the 1.2 MB that a pair of 224 x 224 views writes, so mixing and normalisation are one multiplication
and addition for each of a and b, in vector registers. mix_reference.py says what the operation means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.mix_reference import ChannelValues

Rows = NDArray[np.float32]


def mix_into(
    views_a: Sequence[NDArray[np.uint8]],
    views_b: Sequence[NDArray[np.uint8]],
    lam: NDArray[np.float32],
    cut_boxes: NDArray[np.int32],
    mean: ChannelValues,
    std: ChannelValues,
    out_mix: NDArray[np.float32],
    out_cut: NDArray[np.float32],
) -> None:
    """Mix n pairs, a slice of a batch, in the calling thread; arguments as for `mix_reference.mix`.

    Args:
        views_a: two views (n, H, W, 3) uint8, strided at will in the first dimension.
        views_b: the same.
        lam: (n,).
        cut_boxes: (n, 4).
        mean: of each channel.
        std: of each channel.
        out_mix: (n, H, W, 3) float32, which is channels-last memory, strided at will in the first dimension.
        out_cut: the same, for the CutMix images.

    Raises:
        ValueError: a box leaves the view.
    """
    (a1, a2), (b1, b2) = views_a, views_b
    height, width = a1.shape[1:3]
    scale, shift = _row_of_factors(mean, std, width)
    for i, (y0, x0, y1, x1) in enumerate(cut_boxes.tolist()):
        if not (0 <= y0 <= y1 <= height and 0 <= x0 <= x1 <= width):
            raise ValueError(
                f"pair {i}: cut box (y0, x0, y1, x1) = {(y0, x0, y1, x1)} leaves the view, "
                f"which has {height} rows of {width} pixels"
            )
        _mix_up(_rows(a1[i]), _rows(b1[i]), lam[i], scale, shift, _rows(out_mix[i]))
        _cut_mix(_rows(a2[i]), _rows(b2[i]), (y0, 3 * x0, y1, 3 * x1), scale, shift, _rows(out_cut[i]))


def normalise_into(
    views: NDArray[np.uint8], mean: ChannelValues, std: ChannelValues, out: NDArray[np.float32]
) -> None:
    """Normalise views (n, H, W, 3) uint8 into `out` (n, H, W, 3) float32, in the calling thread.

    Both may be strided at will in the first dimension.
    """
    scale, shift = _row_of_factors(mean, std, views.shape[2])
    for view, target in zip(views, out, strict=True):
        _normalise(_rows(view), scale, shift, _rows(target))


def _rows(image):  # type: ignore[no-untyped-def]
    """See an image (H, W, 3) as rows (H, 3 W), so that the loops run over adjacent numbers."""
    assert image.flags.c_contiguous
    return image.reshape(image.shape[0], -1)


def _row_of_factors(mean: ChannelValues, std: ChannelValues, width: int) -> tuple[Rows, Rows]:
    """Return scale and shift, (3 W,) each: (x / 255 - mean) / std = x scale + shift."""
    scale = 1 / (255 * np.array(std))
    shift = -np.array(mean) / np.array(std)
    return np.tile(scale, width).astype(np.float32), np.tile(shift, width).astype(np.float32)


@njit(nogil=True, cache=True)
def _mix_up(rows_a, rows_b, lam, scale, shift, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the weighted mean of two images, normalised."""
    rest = np.float32(1) - lam
    for y in range(out.shape[0]):
        row_a, row_b, row = rows_a[y], rows_b[y], out[y]
        for j in range(row.size):
            mixed = lam * np.float32(row_a[j]) + rest * np.float32(row_b[j])
            row[j] = mixed * scale[j] + shift[j]


@njit(nogil=True, cache=True)
def _cut_mix(rows_a, rows_b, box, scale, shift, out):  # type: ignore[no-untyped-def]
    """Fill `out` with image a outside the box and image b inside it, normalised; each is read only there."""
    top, left, bottom, right = box
    for y in range(out.shape[0]):
        if top <= y < bottom:
            _scale_span(rows_a[y], 0, left, scale, shift, out[y])
            _scale_span(rows_b[y], left, right, scale, shift, out[y])
            _scale_span(rows_a[y], right, out.shape[1], scale, shift, out[y])
        else:
            _scale_span(rows_a[y], 0, out.shape[1], scale, shift, out[y])


@njit(nogil=True, cache=True)
def _normalise(rows, scale, shift, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the image, normalised."""
    for y in range(out.shape[0]):
        _scale_span(rows[y], 0, out.shape[1], scale, shift, out[y])


@njit(nogil=True, cache=True)
def _scale_span(row, start, stop, scale, shift, out):  # type: ignore[no-untyped-def]
    """Normalise the bytes from start to stop of one row."""
    source, target = row[start:stop], out[start:stop]
    factor, offset = scale[start:stop], shift[start:stop]
    for j in range(target.size):
        target[j] = np.float32(source[j]) * factor[j] + offset[j]
