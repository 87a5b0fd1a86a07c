"""`augment` on the CPU, fast: numba loops over one view at a time, in place, without the GIL.

A thread of the pool calls `augment_into` on the views that it has just cut, while they are in its cache. The
loops follow Pillow's arithmetic: it blends in float32 and cuts off the fraction, takes luminance in 16 fixed
bits, and blurs with three extended box blurs a direction (Gwosdek et al., "Theoretical foundations of
Gaussian convolution by extended box filtering", SSVM 2011), rounding to 8 bits after each.
augment_reference.py says what the operation means.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.colour_draws import ColourDraws

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
BOX_BLURS = 3
"""Pillow's number of box blurs that stand for one Gaussian."""
ONE = 1 << 24
"""1 in the fixed point of the box blur's weights."""


def augment_into(views: NDArray[np.uint8], colour: ColourDraws, first: int = 0) -> None:
    """Change the colours of views (n, H, W, 3) uint8 in place, in the calling thread.

    Args:
        views: strided at will in its first dimension; each view is C-contiguous.
        colour: what is drawn for a batch; view i has its row `first + i`.
        first: position of these views in the batch.
    """
    inner, outer, radius = box_weights(colour.blur_sigma[first : first + len(views)])
    for j, view in enumerate(views):
        assert view.flags.c_contiguous
        i = first + j
        _jitter(
            view.reshape(-1, 3),
            colour.order[i],
            colour.brightness[i],
            colour.contrast[i],
            colour.saturation[i],
            colour.gray[i],
        )
        if colour.blur_sigma[i] > 0:
            rows = view.reshape(view.shape[0], -1)
            _blur_rows(rows, radius[j], inner[j], outer[j])
            _blur_columns(rows, radius[j], inner[j], outer[j])


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
def _blend(origin, value, factor):  # type: ignore[no-untyped-def]
    """Move from origin to value by the factor, in float32; clamp to [0, 255] and cut off the fraction."""
    moved = np.float32(origin) + factor * np.float32(value - origin)
    return np.uint8(min(max(moved, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _jitter(pixels, order, brightness, contrast, saturation, gray):  # type: ignore[no-untyped-def]
    """Apply the three factors in order, then grayscale, to pixels (k, 3) uint8 in place."""
    luminances = np.empty_like(pixels)
    samples, gray_samples = pixels.reshape(pixels.size), luminances.reshape(pixels.size)
    for operation in order:
        if operation == BRIGHTNESS:
            for j in range(samples.size):
                samples[j] = _blend(np.int32(0), np.int32(samples[j]), brightness)
        elif operation == CONTRAST:  # about the view's mean luminance, a whole level
            mean = np.int32(_fill_luminances(pixels, luminances) / len(pixels) + 0.5)
            for j in range(samples.size):
                samples[j] = _blend(mean, np.int32(samples[j]), contrast)
        else:
            _fill_luminances(pixels, luminances)
            for j in range(samples.size):
                samples[j] = _blend(np.int32(gray_samples[j]), np.int32(samples[j]), saturation)
    if gray:
        _fill_luminances(pixels, luminances)
        _copy(gray_samples, samples)


@njit(nogil=True, cache=True)
def _fill_luminances(pixels, luminances):  # type: ignore[no-untyped-def]
    """Fill `luminances` (k, 3) uint8 with the luminance of each pixel, three times over; return their sum.

    Three times, so that what follows is one loop over bytes, which becomes vector instructions.
    """
    total = np.int64(0)
    for p in range(len(pixels)):
        red, green, blue = np.int32(pixels[p, 0]), np.int32(pixels[p, 1]), np.int32(pixels[p, 2])
        weighted = np.int32(19595) * red + np.int32(38470) * green + np.int32(7471) * blue
        luminance = np.uint8((weighted + np.int32(0x8000)) >> np.int32(16))
        luminances[p, 0] = luminance
        luminances[p, 1] = luminance
        luminances[p, 2] = luminance
        total += luminance
    return total


@njit(nogil=True, cache=True)
def _blur_rows(rows, radius, inner, outer):  # type: ignore[no-untyped-def]
    """Blur each row of RGB pixels (H, 3 W) uint8 in place; the border pixel stands for those beyond it."""
    height, length = rows.shape
    reach = 3 * (radius + 1)  # of the filter to either side, in bytes
    padded = np.empty(length + 2 * reach, np.uint8)
    window = np.empty(length, np.uint16)
    for y in range(height):
        row = rows[y]
        for _ in range(BOX_BLURS):
            for j in range(reach):
                padded[j] = row[j % 3]
                padded[reach + length + j] = row[length - 3 + j % 3]
            _copy(row, padded[reach : reach + length])
            _copy(padded[3 : 3 + length], window)
            for shift in range(6, 2 * reach, 3):
                _add(window, padded[shift : shift + length])
            _weigh(window, padded[:length], padded[2 * reach :], inner, outer, row)


@njit(nogil=True, cache=True)
def _blur_columns(rows, radius, inner, outer):  # type: ignore[no-untyped-def]
    """Blur along the columns of an image (H, 3 W) uint8 in place; the border stands for what is beyond it."""
    height, length = rows.shape
    reach = radius + 1
    padded = np.empty((height + 2 * reach, length), np.uint8)
    window = np.empty(length, np.uint16)
    for _ in range(BOX_BLURS):
        for y in range(reach):
            _copy(rows[0], padded[y])
            _copy(rows[height - 1], padded[reach + height + y])
        _copy(rows.reshape(-1), padded[reach : reach + height].reshape(-1))
        for y in range(height):
            _copy(padded[y + 1], window)
            for shift in range(2, 2 * reach):
                _add(window, padded[y + shift])
            _weigh(window, padded[y], padded[y + 2 * reach], inner, outer, rows[y])


@njit(nogil=True, cache=True)
def _copy(samples, out):  # type: ignore[no-untyped-def]
    """Copy bytes; a loop, for numba's slice assignment takes several times as long."""
    for j in range(out.size):
        out[j] = samples[j]


@njit(nogil=True, cache=True)
def _add(window, samples):  # type: ignore[no-untyped-def]
    """Add bytes to the sums of the window."""
    for j in range(window.size):
        window[j] += samples[j]


@njit(nogil=True, cache=True)
def _weigh(window, before, after, inner, outer, out):  # type: ignore[no-untyped-def]
    """One box blur of one line, from the sums over the window and the two pixels beyond it; rounded."""
    half = np.uint32(ONE // 2)
    for j in range(window.size):
        ends = np.uint32(before[j]) + np.uint32(after[j])
        weighted = np.uint32(window[j]) * inner + ends * outer
        out[j] = (weighted + half) >> np.uint32(24)
