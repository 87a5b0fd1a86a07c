"""`augment` on the CPU, fast: numba loops over one view at a time, in place, without the GIL.

A thread of the pool calls `augment_into` on the views that it has just cut, while they are in its cache. The
loops follow Pillow's arithmetic: it blends in float32 and cuts off the fraction, and takes luminance in 16 fixed
bits; blur_cpu.py is its blur. augment_reference.py says what the operation means.

What makes it fast: every inner loop becomes vector instructions. A tile of pixels is unpacked into three float32
planes, which stay in the first-level cache while operation after operation changes them, and packed again: the
conversions are paid once, and luminance finds the three channels in three lines. Contrast is about the mean of
what came before it, so it begins a second sweep. Two traps: the compiler knows the distance of a pixel's channels
only where it is written as 3, not as the shape of an array; and numba computes integers in 64 bits, in fewer lanes,
unless what lies between is cast.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.blur_cpu import blur_in_place, box_weights
from pipelines.draws.colours import ColourDraws

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
TILE = 1024
"""Pixels that the jitter takes at a time: three float32 planes of them are 12 kB."""
RED, GREEN, BLUE = 19595, 38470, 7471
"""Weights of the luminance, in units of 2^-16; so float32 sums of them are exact."""


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
            view.reshape(-1),
            colour.order[i],
            colour.brightness[i],
            colour.contrast[i],
            colour.saturation[i],
            colour.gray[i],
        )
        if colour.blur_sigma[i] > 0:
            blur_in_place(view, radius[j], inner[j], outer[j])


@njit(nogil=True, cache=True)
def _jitter(samples, order, brightness, contrast, saturation, gray):  # type: ignore[no-untyped-def]
    """Apply the three factors in order, then grayscale, to the samples (3 k,) uint8 of a view, in place."""
    turn = 0
    while turn < len(order) and order[turn] != CONTRAST:
        turn += 1
    if turn > 0:
        _sweep(samples, order[:turn], 0, brightness, contrast, saturation, False)
    _sweep(samples, order[turn:], _mean_luminance(samples), brightness, contrast, saturation, gray)


@njit(nogil=True, cache=True)
def _mean_luminance(samples):  # type: ignore[no-untyped-def]
    """Return the mean luminance of samples (3 k,) uint8, a whole level, halves rounded up."""
    total = np.int64(0)
    for start in range(0, samples.size, 3 * TILE):
        tile = samples[start : start + 3 * TILE]
        tile_total = np.int32(0)
        for p in range(tile.size // 3):
            weighted = RED * np.int32(tile[3 * p]) + GREEN * np.int32(tile[3 * p + 1])
            weighted = np.int32(weighted + BLUE * np.int32(tile[3 * p + 2]) + 0x8000)
            tile_total = np.int32(tile_total + (weighted >> np.int32(16)))
        total += tile_total
    return np.int64(total / (samples.size // 3) + 0.5)


@njit(nogil=True, cache=True)
def _sweep(samples, operations, mean, brightness, contrast, saturation, gray):  # type: ignore[no-untyped-def]
    """Apply the operations in order, then grayscale, in place, tile by tile; contrast is about `mean`."""
    planes = np.empty((3, min(TILE, samples.size // 3)), np.float32)
    for start in range(0, samples.size, 3 * TILE):
        tile = samples[start : start + 3 * TILE]
        k = tile.size // 3
        red, green, blue = planes[0, :k], planes[1, :k], planes[2, :k]
        _unpack(tile, red, green, blue)
        for operation in operations:
            if operation == BRIGHTNESS:
                _scale(planes.reshape(-1), np.float32(0), brightness)
            elif operation == CONTRAST:
                _scale(planes.reshape(-1), np.float32(mean), contrast)
            else:
                _saturate(red, green, blue, saturation)
        if gray:
            _saturate(red, green, blue, np.float32(0))
        _pack(red, green, blue, tile)


@njit(nogil=True, cache=True)
def _unpack(samples, red, green, blue):  # type: ignore[no-untyped-def]
    """Part the channels of samples (3 k,) uint8 into float32 planes (k,)."""
    for p in range(red.size):
        red[p] = samples[3 * p]
        green[p] = samples[3 * p + 1]
        blue[p] = samples[3 * p + 2]


@njit(nogil=True, cache=True)
def _pack(red, green, blue, samples):  # type: ignore[no-untyped-def]
    """The inverse of `_unpack`; by way of int32, for which there is a vector instruction."""
    for p in range(red.size):
        samples[3 * p] = np.int32(red[p])
        samples[3 * p + 1] = np.int32(green[p])
        samples[3 * p + 2] = np.int32(blue[p])


@njit(nogil=True, cache=True)
def _blend(origin, value, factor):  # type: ignore[no-untyped-def]
    """Move from origin to value by the factor, in float32; clamp to [0, 255] and cut off the fraction."""
    moved = origin + factor * (value - origin)
    return np.floor(min(max(moved, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _scale(levels, origin, factor):  # type: ignore[no-untyped-def]
    """Blend all levels float32 with one origin, in place."""
    for j in range(levels.size):
        levels[j] = _blend(origin, levels[j], factor)


@njit(nogil=True, cache=True)
def _saturate(red, green, blue, factor):  # type: ignore[no-untyped-def]
    """Blend each pixel of float32 planes (k,) with its luminance, in place; the factor 0 is grayscale."""
    for p in range(red.size):
        weighted = np.float32(RED / 65536) * red[p] + np.float32(GREEN / 65536) * green[p]
        luminance = np.floor(weighted + np.float32(BLUE / 65536) * blue[p] + np.float32(0.5))
        red[p] = _blend(luminance, red[p], factor)
        green[p] = _blend(luminance, green[p], factor)
        blue[p] = _blend(luminance, blue[p], factor)
