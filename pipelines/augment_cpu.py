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
TILE = 1024
WR, WG, WB = (np.float32(w / 65536) for w in (19595, 38470, 7471))


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
    """Apply the three factors in order, then grayscale, to the samples (3 k,) of a view, uint8, in place."""
    turn = 0
    while order[turn] != CONTRAST:
        turn += 1
    if turn > 0:
        _sweep(samples, order[:turn], brightness, contrast, saturation, False, 0)
    mean = _mean_luminance(samples)  # which contrast is about
    _sweep(samples, order[turn:], brightness, contrast, saturation, gray, mean)


@njit(nogil=True, cache=True)
def _sweep(samples, operations, brightness, contrast, saturation, gray, mean):  # type: ignore[no-untyped-def]
    """Apply the operations in order, one tile after the other, in place; `mean` is the view's luminance."""
    tile = np.empty((3, TILE), np.float32)
    for start in range(0, samples.size, 3 * TILE):
        part = samples[start : start + 3 * TILE]
        n = part.size // 3
        red, green, blue = tile[0, :n], tile[1, :n], tile[2, :n]
        _unpack(part, red, green, blue)
        for operation in operations:
            if operation == BRIGHTNESS:
                _move(tile.reshape(-1), np.float32(0), brightness)
            elif operation == CONTRAST:
                _move(tile.reshape(-1), np.float32(mean), contrast)
            else:
                _saturate(red, green, blue, saturation)
        if gray:
            _saturate(red, green, blue, np.float32(0))
        _pack(red, green, blue, part)


@njit(nogil=True, cache=True)
def _unpack(samples, red, green, blue):  # type: ignore[no-untyped-def]
    for p in range(red.size):
        red[p] = samples[3 * p]
        green[p] = samples[3 * p + 1]
        blue[p] = samples[3 * p + 2]


@njit(nogil=True, cache=True)
def _pack(red, green, blue, samples):  # type: ignore[no-untyped-def]
    for p in range(red.size):
        samples[3 * p] = np.int32(red[p])
        samples[3 * p + 1] = np.int32(green[p])
        samples[3 * p + 2] = np.int32(blue[p])


@njit(nogil=True, cache=True)
def _blend(origin, value, factor):  # type: ignore[no-untyped-def]
    moved = origin + factor * (value - origin)
    return np.floor(min(max(moved, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _move(levels, origin, factor):  # type: ignore[no-untyped-def]
    for j in range(levels.size):
        levels[j] = _blend(origin, levels[j], factor)


@njit(nogil=True, cache=True)
def _saturate(red, green, blue, factor):  # type: ignore[no-untyped-def]
    for p in range(red.size):
        r, g, b = red[p], green[p], blue[p]
        weighted = WR * r + WG * g + WB * b
        luminance = np.floor(weighted + np.float32(0.5))
        red[p] = _blend(luminance, r, factor)
        green[p] = _blend(luminance, g, factor)
        blue[p] = _blend(luminance, b, factor)


@njit(nogil=True, cache=True)
def _mean_luminance(samples):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for start in range(0, samples.size, 3 * TILE):
        part = samples[start : start + 3 * TILE]
        tile_total = np.int32(0)
        for p in range(part.size // 3):
            red = np.int32(np.int32(part[3 * p]) * np.int32(19595))
            green = np.int32(np.int32(part[3 * p + 1]) * np.int32(38470))
            blue = np.int32(np.int32(part[3 * p + 2]) * np.int32(7471))
            weighted = np.int32(np.int32(np.int32(red + green) + blue) + np.int32(0x8000))
            tile_total = np.int32(tile_total + np.int32(weighted >> np.int32(16)))
        total += tile_total
    return np.int64(total / (samples.size // 3) + 0.5)


@njit(nogil=True, cache=True)
def _blur(view, radius, inner, outer):  # type: ignore[no-untyped-def]
    height, width, _ = view.shape
    reach = radius + 1
    source = np.empty((height + 2 * reach, width + 2 * reach, 3), np.uint8)
    result = np.empty_like(source)
    pitch = 3 * (width + 2 * reach)
    window = np.empty(TILE, np.uint16)
    inside = slice(3 * reach, 3 * (reach + width))
    rows = view.reshape(height, -1)
    _copy_rows(rows, source.reshape(height + 2 * reach, pitch)[reach : reach + height, inside])
    three = radius == 0 and _fits_16_bits(outer)
    for turn in range(2 * BOX_BLURS):
        step = 3 if turn < BOX_BLURS else pitch
        if turn < BOX_BLURS:
            _extend_columns(source, reach)
        else:
            _extend_rows(source, reach)
        if three:
            _box_of_3(source.reshape(-1), step, outer, result.reshape(-1))
        else:
            _box(source.reshape(-1), step, radius, inner, outer, result.reshape(-1), window)
        source, result = result, source
    _copy_rows(source.reshape(height + 2 * reach, pitch)[reach : reach + height, inside], rows)


@njit(nogil=True, cache=True)
def _copy_rows(view, out):  # type: ignore[no-untyped-def]
    for y in range(len(view)):
        for j in range(view.shape[1]):
            out[y, j] = view[y, j]


@njit(nogil=True, cache=True)
def _extend_columns(image, reach):  # type: ignore[no-untyped-def]
    last = image.shape[1] - 1 - reach
    for y in range(reach, len(image) - reach):
        for x in range(reach):
            for c in range(3):
                image[y, x, c] = image[y, reach, c]
                image[y, last + 1 + x, c] = image[y, last, c]


@njit(nogil=True, cache=True)
def _extend_rows(image, reach):  # type: ignore[no-untyped-def]
    last = len(image) - 1 - reach
    rows = image.reshape(len(image), -1)
    for y in range(reach):
        for j in range(rows.shape[1]):
            rows[y, j] = rows[reach, j]
            rows[last + 1 + y, j] = rows[last, j]


@njit(nogil=True, cache=True)
def _fits_16_bits(outer):  # type: ignore[no-untyped-def]
    for d in range(-510, 511):
        if (np.int64(outer) * d + ONE // 2) % ONE < 255:
            return False
    return True


@njit(nogil=True, cache=True)
def _box_of_3(source, step, outer, out):  # type: ignore[no-untyped-def]
    low = np.int16(np.uint16(outer & np.uint32(0xFFFF)))
    high = np.int16((np.int64(outer) - low) >> 16)
    n = source.size - 2 * step
    before, centre, after, middle = source[:n], source[step:], source[2 * step :], out[step:]
    for j in range(n):
        ends = np.int16(np.int16(before[j]) + np.int16(after[j]))
        d = np.int16(ends - np.int16(np.int16(2) * np.int16(centre[j])))
        fraction = np.uint16(np.int32(np.int32(d) * np.int32(low)) >> np.int32(16))
        whole = np.uint16(np.int16(d * high) + np.int16(np.int16(centre[j]) * np.int16(256)))
        middle[j] = np.uint16(np.uint16(whole + fraction) + np.uint16(128)) >> np.uint16(8)


@njit(nogil=True, cache=True)
def _box(source, step, radius, inner, outer, out, window):  # type: ignore[no-untyped-def]
    reach = (radius + 1) * step
    for start in range(0, source.size - 2 * reach, TILE):
        n = min(TILE, source.size - 2 * reach - start)
        at = source[start : start + n + 2 * reach]
        _sum_window(at, step, radius, window[:n])
        _weigh(window[:n], at, at[2 * reach :], inner, outer, out[reach + start :])


@njit(nogil=True, cache=True)
def _sum_window(source, step, radius, window):  # type: ignore[no-untyped-def]
    centre = source[(radius + 1) * step :]
    for j in range(window.size):
        window[j] = centre[j]
    for distance in range(1, radius + 1):
        before, after = source[(radius + 1 - distance) * step :], source[(radius + 1 + distance) * step :]
        for j in range(window.size):
            window[j] += np.uint16(np.uint16(before[j]) + np.uint16(after[j]))


@njit(nogil=True, cache=True)
def _weigh(window, before, after, inner, outer, out):  # type: ignore[no-untyped-def]
    for j in range(window.size):
        ends = np.uint32(np.uint32(before[j]) + np.uint32(after[j]))
        weighted = np.uint32(np.uint32(np.uint32(window[j]) * inner) + np.uint32(ends * outer))
        out[j] = np.uint32(weighted + np.uint32(ONE // 2)) >> np.uint32(24)
