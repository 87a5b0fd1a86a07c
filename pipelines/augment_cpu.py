"""`augment` on the CPU, fast: numba loops over one view at a time, in place, without the GIL.

A thread of the pool calls `augment_into` on the views that it has just cut, while they are in its cache. The
loops follow Pillow's arithmetic: it blends in float32 and cuts off the fraction, takes luminance in 16 fixed
bits, and blurs with three extended box blurs a direction (Gwosdek et al., "Theoretical foundations of
Gaussian convolution by extended box filtering", SSVM 2011), rounding to 8 bits after each.
augment_reference.py says what the operation means.

What makes it fast: every inner loop becomes vector instructions, so its cost is that of its arithmetic.
- The jitter unpacks a tile of pixels into three float32 planes that stay in the first-level cache, applies
  operation after operation there, and packs it again: luminance needs the channels beside each other, and
  the conversions are paid once. Contrast needs the mean of what was before it, so it begins a second sweep.
- The blur runs over the whole padded view as one line, for which a step to the side and a step down are
  only two distances. The box of three pixels (sigma below 1.41, two of three blurs) takes 16-bit arithmetic.
- numba computes integers in 64 bits whatever they are; a cast of each intermediate result keeps lanes narrow.
- LLVM knows the distance of a pixel's channels only where it is written as 3, not as the shape of an array.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.colour_draws import ColourDraws

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
TILE = 1024
"""Pixels that the jitter takes at a time: three float32 planes of them are 12 kB."""
RED, GREEN, BLUE = 19595, 38470, 7471
"""Weights of the luminance, in units of 2^-16; so float32 sums of them are exact."""
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
            view.reshape(-1),
            colour.order[i],
            colour.brightness[i],
            colour.contrast[i],
            colour.saturation[i],
            colour.gray[i],
        )
        if colour.blur_sigma[i] > 0:
            _blur(view, radius[j], inner[j], outer[j])


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
def _jitter(samples, order, brightness, contrast, saturation, gray):  # type: ignore[no-untyped-def]
    """Apply the three factors in order, then grayscale, to the samples (3 k,) uint8 of a view, in place."""
    turn = 0
    while order[turn] != CONTRAST:
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


@njit(nogil=True, cache=True)
def _blur(view, radius, inner, outer):  # type: ignore[no-untyped-def]
    """Blur a view (H, W, 3) uint8 in place along its rows, then its columns; the border is continued outwards."""
    height, width, channels = view.shape
    reach = radius + 1
    source = np.empty((height + 2 * reach, width + 2 * reach, channels), np.uint8)
    blurred = np.empty_like(source)
    pitch = source[0].size
    margin = channels * reach
    rows = view.reshape(height, -1)
    _copy(rows, source.reshape(-1, pitch)[reach : reach + height, margin : pitch - margin])
    narrow = radius == 0 and _fits_16_bits(outer)
    for turn in range(2 * BOX_BLURS):
        if turn < BOX_BLURS:
            step = channels
            _continue_rows(source, reach)
        else:
            step = pitch
            _continue_columns(source.reshape(-1, pitch), reach)
        if narrow:
            _box_of_three(source.reshape(-1), step, outer, blurred.reshape(-1))
        else:
            _box(source.reshape(-1), step, radius, inner, outer, blurred.reshape(-1))
        source, blurred = blurred, source
    _copy(source.reshape(-1, pitch)[reach : reach + height, margin : pitch - margin], rows)


@njit(nogil=True, cache=True)
def _copy(rows, out):  # type: ignore[no-untyped-def]
    """Copy rows of bytes; a loop, for numba's slice assignment takes several times as long."""
    for y in range(len(rows)):
        for j in range(rows.shape[1]):
            out[y, j] = rows[y, j]


@njit(nogil=True, cache=True)
def _continue_rows(image, reach):  # type: ignore[no-untyped-def]
    """Repeat the first and the last pixel of each row in the `reach` columns of padding beside it."""
    last = image.shape[1] - 1 - reach
    for y in range(reach, len(image) - reach):
        for x in range(reach):
            for c in range(image.shape[2]):
                image[y, x, c] = image[y, reach, c]
                image[y, last + 1 + x, c] = image[y, last, c]


@njit(nogil=True, cache=True)
def _continue_columns(rows, reach):  # type: ignore[no-untyped-def]
    """Repeat the first and the last row in the `reach` rows of padding beyond it."""
    last = len(rows) - 1 - reach
    for y in range(reach):
        for j in range(rows.shape[1]):
            rows[y, j] = rows[reach, j]
            rows[last + 1 + y, j] = rows[last, j]


@njit(nogil=True, cache=True)
def _fits_16_bits(outer):  # type: ignore[no-untyped-def]
    """Whether `_box_of_three` is exact for the weight of the two outer pixels; of few sigmas it is not.

    It takes the weights' sum for 1, which may be 2^-24 less: the blurred pixel then lies too high by up to
    255 x 2^-24, and that must not lift it to the next level.
    """
    for bend in range(-510, 511):
        if (np.int64(outer) * bend + ONE // 2) % ONE < 255:
            return False
    return True


@njit(nogil=True, cache=True)
def _box_of_three(source, step, outer, out):  # type: ignore[no-untyped-def]
    """One box blur of radius 0, as `_box`; the weights sum to 1, so outer (before + after - 2 centre) is added.

    All in units of 2^-8, modulo 2^16, in which the result fits.
    """
    low = np.int16(np.uint16(outer & np.uint32(0xFFFF)))
    high = np.int16((np.int64(outer) - low) >> 16)
    count = source.size - 2 * step
    before, centre, after, middle = source[:count], source[step:], source[2 * step :], out[step:]
    for j in range(count):
        bend = np.int16(np.int16(np.int16(before[j]) + np.int16(after[j])) - np.int16(2 * np.int16(centre[j])))
        fraction = np.int16(np.int32(np.int32(bend) * np.int32(low)) >> np.int32(16))
        whole = np.int16(np.int16(256 * np.int16(centre[j])) + np.int16(bend * high))
        middle[j] = np.uint16(whole + fraction + 128) >> np.uint16(8)


@njit(nogil=True, cache=True)
def _box(source, step, radius, inner, outer, out):  # type: ignore[no-untyped-def]
    """One box blur of a line of bytes along every `step`-th of them, rounded; the first and last few are left out."""
    reach = (radius + 1) * step
    window = np.empty(4 * TILE, np.uint16)
    for start in range(reach, source.size - reach, window.size):
        sums = window[: min(window.size, source.size - reach - start)]
        _copy_into(source[start:], sums)
        for shift in range(step, reach, step):
            _add(source[start - shift :], source[start + shift :], sums)
        _weigh(sums, source[start - reach :], source[start + reach :], inner, outer, out[start:])


@njit(nogil=True, cache=True)
def _copy_into(samples, sums):  # type: ignore[no-untyped-def]
    for j in range(sums.size):
        sums[j] = samples[j]


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
