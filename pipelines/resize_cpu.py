"""Pillow's antialiased bilinear resize of a box of an image, within one level.

Rows are weighted first, a row's bytes side by side in vector registers; then, while the line that makes is in the
nearest cache, its pixels, two of them and their three channels side by side. Between the two, 8 bits after the point
are kept, where Pillow rounds to whole levels: that is the one level between Pillow and this.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.resize_vectors import PAIR_LANES, ROW_LANES, store_word, weigh_pixels, weigh_rows

MOST_TAPS = 32
"""Weights of a sum in 16 bits, whose products are cut off at 2^-8 of a level. Sums of more are exact, and slow."""

Image = NDArray[np.uint8]
_3 = np.uint64(3)


class Weights(NamedTuple):
    """What the pixels of an axis weigh in each of `size` pixels of a view."""

    starts: NDArray[np.int64]
    """(size,): the first pixel that counts."""
    taps: NDArray[np.int64]
    """(size,): how many do."""
    values: NDArray[np.uint16]
    """(size, most taps), of 2^16, zero after the last tap."""


@njit(nogil=True, cache=True)
def resize_into(
    image: Image,
    shown: tuple[int, int, int, int],
    box: tuple[float, float, float, float],
    crop_first: bool,
    flip: bool,
    out: Image,
) -> None:
    """Resize a box of an image, as decode_reference.py says.

    Args:
        image: (h, w, 3) uint8, C-contiguous: a part of an image.
        shown: (y0, x0, y1, x1), half-open, which part that is.
        box: the same, which pixels of the image the view is of; of whole pixels and within `shown` with `crop_first`.
        crop_first: whether pixels outside the box do not count. If they do, `shown` has as many as count.
        flip: whether the view is mirrored left-right.
        out: (S, S, 3) uint8, C-contiguous.
    """
    limits = (int(box[0]), int(box[1]), int(box[2]), int(box[3])) if crop_first else shown
    rows = _weights(box[0], box[2], limits[0], limits[2], len(out), False)
    columns = _weights(box[1], box[3], limits[1], limits[3], len(out), flip)
    rows.starts[:] -= shown[0]
    columns.starts[:] -= shown[1]
    left, right = columns.starts.min(), (columns.starts + columns.taps).max()
    columns.starts[:] -= left
    most = max(rows.taps.max(), columns.taps.max())
    if most > MOST_TAPS or 3 * (right - left) < ROW_LANES:
        _resize_exactly(image[:, left:right], rows, columns, out)
    else:
        _resize_in_vectors(image.reshape(-1), (3 * image.shape[1], 3 * left, 3 * right), rows, columns, out)


@njit(nogil=True, cache=True)
def _weights(start: float, stop: float, low: int, high: int, size: int, mirrored: bool) -> Weights:
    """A triangle as wide as two pixels of the larger side, cut off at the limits, with a sum of 2^16; as in Pillow."""
    step = (stop - start) / size
    reach = max(step, 1.0)
    most = min(int(2 * reach) + 2, high - low)
    weights = Weights(np.empty(size, np.int64), np.empty(size, np.int64), np.zeros((size, most), np.uint16))
    triangle = np.empty(most)
    for i in range(size):
        middle = start + (i + 0.5) * step
        first, end = max(int(middle - reach + 0.5), low), min(int(middle + reach + 0.5), high)
        place = size - 1 - i if mirrored else i
        weights.starts[place], weights.taps[place] = first, end - first
        for k in range(end - first):
            triangle[k] = max(0.0, 1.0 - abs(first + k + 0.5 - middle) / reach)
        whole, before, given = triangle[: end - first].sum(), 0.0, 0
        for k in range(end - first):
            before += triangle[k] / whole
            weight = round(before * 65536) - given  # so that what rounding leaves goes to the next one
            weights.values[place, k] = min(weight, 65535)
            given += weight
    return weights


@njit(nogil=True, cache=True)
def _resize_exactly(pixels: Image, rows: Weights, columns: Weights, out: Image) -> None:
    """Resize `pixels` (h, w, 3) with sums of 64 bits: of few columns, or shrunk very much."""
    line = np.empty(pixels.shape[1:], np.int64)
    for y in range(len(out)):
        line[:] = 0
        for k in range(rows.taps[y]):
            line += np.int64(rows.values[y, k]) * pixels[rows.starts[y] + k]
        for x in range(len(out)):
            for channel in range(3):
                total = np.int64(1) << 31
                for k in range(columns.taps[x]):
                    total += columns.values[x, k] * line[columns.starts[x] + k, channel]
                out[y, x, channel] = total >> 32


@njit(nogil=True, cache=True)
def _resize_in_vectors(
    pixels: Image, parts: tuple[int, int, int], rows: Weights, columns: Weights, out: Image
) -> None:
    """Resize a part of `pixels`, one row after the other: bytes of a row, then the part's first and last."""
    stride, left, right = parts
    width, size, taps = np.uint64(right - left), len(out), columns.taps.max()
    pairs = (taps + 1) // 2
    line = np.zeros(right - left + pairs * PAIR_LANES, np.uint16)
    starts, weights = columns.starts * 3, _in_pairs(columns.values, taps)
    last = width - np.uint64(ROW_LANES)
    for y in range(size):
        values = rows.values[y, : rows.taps[y]]
        bias = np.uint16(128 + (len(values) + taps) // 2)  # a half, and what the products lose on average
        place = np.uint64(rows.starts[y] * stride + left)
        for x in range(np.uint64(0), width, np.uint64(ROW_LANES)):
            at = x if x < last else last
            weigh_rows(pixels, place + at, np.uint64(stride), values, bias, line, at)
        if pairs == 1:  # a constant number is twice as fast
            _weigh_line(line, starts, weights, 1, out[y])
        elif pairs == 2:
            _weigh_line(line, starts, weights, 2, out[y])
        elif pairs == 3:
            _weigh_line(line, starts, weights, 3, out[y])
        else:
            _weigh_line(line, starts, weights, pairs, out[y])


@njit(nogil=True, cache=True)
def _in_pairs(values: NDArray[np.uint16], taps: int) -> NDArray[np.uint16]:
    """Return the first `taps` weights of each pixel as `weigh_pixels` takes them."""
    pairs = np.zeros((len(values), (taps + 1) // 2, PAIR_LANES), np.uint16)
    for i in range(len(values)):
        for k in range(taps):
            for channel in range(3):
                pairs[i, k // 2, 3 * (k % 2) + channel] = values[i, k]
    return pairs.reshape(-1)


@njit(nogil=True, cache=True)
def _weigh_line(
    line: NDArray[np.uint16], starts: NDArray[np.int64], weights: NDArray[np.uint16], pairs: int, out: Image
) -> None:
    """Fill a row of a view (S, 3)."""
    last, step = np.uint64(len(starts) - 1), np.uint64(pairs * PAIR_LANES)
    for x in range(last):
        word = weigh_pixels(line, np.uint64(starts[x]), weights, x * step, pairs)
        store_word(word, out, _3 * x)  # its fourth byte is the next pixel's first, which comes after it
    word = weigh_pixels(line, np.uint64(starts[last]), weights, last * step, pairs)
    for channel in range(3):
        out[last, channel] = np.uint8(word >> (8 * channel))
