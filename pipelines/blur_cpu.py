"""Pillow's Gaussian blur on the CPU, exactly: three extended box blurs along the rows, then three along the columns.

After Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering" (SSVM 2011), in
24 fixed bits and rounded to 8 after each box, as in Pillow.

What makes it fast: the padded view is one line of bytes, in which a step to the right and a step down are only two
distances, so that each box blur is one long loop of vector instructions; what it makes of the padding is written
over before the next. The box of three pixels, most of the official recipe's (sigma below 1.41), is computed in 16
bits. Larger ones add up their windows and multiply in 32.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

BOX_BLURS = 3
"""Pillow's number of box blurs that stand for one Gaussian."""
ONE = 1 << 24
"""1 in the fixed point of the box blur's weights."""
CHUNK = 4096
"""Bytes of which a box blur adds up the windows at a time: they stay in the first-level cache."""


def box_weights(
    sigmas: NDArray[np.float32],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """Return the box blurs, three of which have the standard deviations sigma (n,), in units of 2^-24.

    Returns:
        The weights of the pixels at distance 0 to `radius`, those of the two at `radius` + 1, and `radius`, (n,)
        each. All weights of a blur sum to 1 but for rounding.
    """
    variance = sigmas**2 / np.float32(BOX_BLURS)  # float32, for so Pillow computes
    radius = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    assert variance.dtype == np.float32 and (radius <= 128).all()  # so that the sum of a window fits 16 bits
    # Of the boxes of real width 2 (radius + rest) + 1 with linearly weighted ends, the one of this variance.
    rest = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance)
    rest /= 6 * (variance - (radius + 1) ** 2)
    inner = (np.float32(ONE) / (2 * (radius + rest) + 1)).astype(np.int64)
    radii = radius.astype(np.int64)
    outer = (ONE - (2 * radii + 1) * inner) // 2
    return inner.astype(np.uint32), outer.astype(np.uint32), radii


@njit(nogil=True, cache=True)
def blur_in_place(view, radius, inner, outer):  # type: ignore[no-untyped-def]
    """Blur a view (H, W, 3) uint8, C-contiguous, in place by three boxes; the border pixel stands for those beyond it.

    Args:
        view: one view.
        radius: of the boxes, from `box_weights`.
        inner: weight of their inner pixels, in units of 2^-24.
        outer: weight of their two outer pixels.
    """
    height, length = len(view), view[0].size
    reach = radius + 1
    padded = np.empty((height + 2 * reach, length + 6 * reach), np.uint8)
    blurred = np.empty_like(padded)
    inside = slice(3 * reach, 3 * reach + length)
    for y in range(height):
        _copy(view[y].reshape(-1), padded[reach + y, inside])
    three = radius == 0 and _fits_16_bits(outer)
    for turn in range(2 * BOX_BLURS):
        if turn < BOX_BLURS:
            step = 3
            _continue_rows(padded, reach)
        else:
            step = length + 6 * reach
            _continue_columns(padded, reach)
        if three:
            _box_of_three(padded.reshape(-1), step, outer, blurred.reshape(-1))
        else:
            _box(padded.reshape(-1), step, radius, inner, outer, blurred.reshape(-1))
        padded, blurred = blurred, padded
    for y in range(height):
        _copy(padded[reach + y, inside], view[y].reshape(-1))


@njit(nogil=True, cache=True)
def _copy(samples, out):  # type: ignore[no-untyped-def]
    """Copy bytes; a loop, for numba's slice assignment takes several times as long."""
    for j in range(out.size):
        out[j] = samples[j]


@njit(nogil=True, cache=True)
def _continue_rows(rows, reach):  # type: ignore[no-untyped-def]
    """Repeat the first and the last RGB pixel of each row in the `reach` pixels of padding beside it."""
    end = rows.shape[1] - 3 * reach
    for y in range(reach, len(rows) - reach):
        row = rows[y]
        for j in range(3 * reach):
            row[3 * reach - 1 - j] = row[3 * reach + 2 - j]
            row[end + j] = row[end + j - 3]


@njit(nogil=True, cache=True)
def _continue_columns(rows, reach):  # type: ignore[no-untyped-def]
    """Repeat the first and the last row in the `reach` rows of padding beyond it."""
    end = len(rows) - reach
    for y in range(reach):
        _copy(rows[reach], rows[y])
        _copy(rows[end - 1], rows[end + y])


@njit(nogil=True, cache=True)
def _fits_16_bits(outer):  # type: ignore[no-untyped-def]
    """Whether `_box_of_three` is exact for the weight of the two outer pixels; of few sigmas it is not.

    It takes the weights' sum for 1, which may be 2^-24 less: the blurred pixel then lies too high by up to
    255 x 2^-24, and that must not lift it to the next level.
    """
    above = (np.int64(outer) * np.arange(-510, 511) + ONE // 2) % ONE
    return above.min() >= 255


@njit(nogil=True, cache=True)
def _box_of_three(source, step, outer, out):  # type: ignore[no-untyped-def]
    """As `_box`, with radius 0: since the weights sum to 1, the centre + outer (before + after - 2 centre), rounded.

    In units of 2^-8 modulo 2^16, where the result fits. Each step is cast, or numba would compute it in 64 bits.
    """
    low = np.int16(np.uint16(outer & np.uint32(0xFFFF)))
    high = np.int16((np.int64(outer) - low) >> 16)
    count = source.size - 2 * step
    before, centre, after, middle = source[:count], source[step:], source[2 * step :], out[step:]
    for j in range(count):
        bend = np.int16(
            np.int16(np.int16(before[j]) + np.int16(after[j])) - np.int16(2 * np.int16(centre[j]))
        )
        fraction = np.int16(np.int32(np.int32(bend) * np.int32(low)) >> np.int32(16))
        whole = np.int16(np.int16(256 * np.int16(centre[j])) + np.int16(bend * high))
        middle[j] = np.uint16(whole + fraction + 128) >> np.uint16(8)


@njit(nogil=True, cache=True)
def _box(source, step, radius, inner, outer, out):  # type: ignore[no-untyped-def]
    """One box blur of a line of bytes along every `step`-th of them, rounded; the first and last few are left out."""
    reach = (radius + 1) * step
    window = np.empty(CHUNK, np.uint16)
    for start in range(reach, source.size - reach, window.size):
        sums = window[: min(window.size, source.size - reach - start)]
        _copy(source[start:], sums)
        for shift in range(step, reach, step):
            _add(source[start - shift :], source[start + shift :], sums)
        _weigh(sums, source[start - reach :], source[start + reach :], inner, outer, out[start:])


@njit(nogil=True, cache=True)
def _add(before, after, sums):  # type: ignore[no-untyped-def]
    """Add two lines of bytes to the sums over a window, uint16."""
    for j in range(sums.size):
        sums[j] += np.uint16(before[j]) + np.uint16(after[j])


@njit(nogil=True, cache=True)
def _weigh(sums, before, after, inner, outer, out):  # type: ignore[no-untyped-def]
    """One box blur of one line, from the sums over the window and the two pixels beyond it; rounded."""
    half = np.uint32(ONE // 2)
    for j in range(sums.size):
        ends = np.uint32(before[j]) + np.uint32(after[j])
        out[j] = np.uint32(sums[j] * inner + ends * outer + half) >> np.uint32(24)
