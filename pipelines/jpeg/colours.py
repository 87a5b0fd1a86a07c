"""Samples to RGB: libjpeg's smooth upsampling of chroma, and its conversion from YCbCr in 16 fixed bits.

Chroma between samples is a weighted mean, three quarters of the nearer one and a quarter of the farther one, along each
direction in which chroma is halved ("triangle" or "fancy" upsampling); the rounding leans to one side and the other in
turn. JFIF has the conversion. Only the pixels of a box are computed, row by row, and to the bit as libjpeg has them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.int32 import add, multiply, shift_right, subtract
from pipelines.jpeg.huffman import Int

Samples = NDArray[np.uint8]
Line = NDArray[np.int32]


class Part(NamedTuple):
    """The samples of a part of an image."""

    luma: Samples
    """(h, w)"""
    blue: Samples
    """Cb, of the same part: (h / down, w / across) or more."""
    red: Samples
    """Cr."""
    top: Int
    """Chroma's row in the whole image of the part's first one."""
    left: Int
    """The same of columns."""
    chroma_height: Int
    """Rows of chroma in the whole image, without those that only fill up blocks."""
    chroma_width: Int
    down: Int
    """Rows of luma to one of chroma, 1 or 2."""
    across: Int
    """Columns of luma to one of chroma, 1 or 2, and 2 where `down` is."""


@njit(nogil=True, cache=True)
def fill_pixels(part: Part, y0: Int, x0: Int, out: Samples) -> None:
    """Fill `out` (m, n, 3) with the RGB pixels of m rows and n columns of an image, from row y0 and column x0 on.

    The part holds them and, unless the image ends there, one more chroma sample on each side.
    """
    width = out.shape[1]
    first = x0 // part.across
    count = (x0 + width - 1) // part.across + 1 - first
    lines, wide = np.empty((2, count + 2), np.int32), np.empty((2, 2 * count), np.int32)
    skipped, start = x0 - part.across * first, x0 - part.across * part.left
    for y in range(y0, y0 + out.shape[0]):
        luma = part.luma[y - part.down * part.top, start : start + width]
        _sum_rows(part.blue, part, y, first, lines[0])
        _sum_rows(part.red, part, y, first, lines[1])
        if part.across == 2:
            _double(lines[0], part.down, wide[0])
            _double(lines[1], part.down, wide[1])
            _convert(luma, wide[0, skipped:], wide[1, skipped:], out[y - y0].reshape(-1))
        else:
            _convert(luma, lines[0, 1:], lines[1, 1:], out[y - y0].reshape(-1))


@njit(nogil=True, cache=True)
def _sum_rows(samples: Samples, part: Part, y: Int, first: Int, out: Line) -> None:
    """Fill `out` with chroma for row y, from one column before `first` on: 3 x near + far row where rows are halved."""
    near = far = y // part.down
    if part.down == 2:
        far = min(max(near - 1 + 2 * (y % 2), 0), part.chroma_height - 1)
    count = len(out) - 2
    before = 1 if part.across == 2 and first > 0 else 0
    after = 1 if part.across == 2 and first + count < part.chroma_width else 0
    start, stop = first - part.left - before, first - part.left + count + after
    near_row, far_row = samples[near - part.top, start:stop], samples[far - part.top, start:stop]
    inner = out[1 - before : 1 + count + after]
    if part.down == 2:
        for j in range(len(inner)):
            inner[j] = add(multiply(np.int32(near_row[j]), np.int32(3)), np.int32(far_row[j]))
    else:
        for j in range(len(inner)):
            inner[j] = near_row[j]
    if before == 0:
        out[0] = out[1]
    if after == 0:
        out[count + 1] = out[count]


@njit(nogil=True, cache=True)
def _double(line: Line, down: Int, out: Line) -> None:
    """Fill `out` (2 n,) with what is a quarter left and a quarter right of each inner value of `line` (n + 2,)."""
    shift = np.int32(2 * down)
    left_bias, right_bias = (np.int32(8), np.int32(7)) if down == 2 else (np.int32(1), np.int32(2))
    for j in range(len(line) - 2):
        three = multiply(line[j + 1], np.int32(3))
        out[2 * j] = shift_right(add(add(three, line[j]), left_bias), shift)
        out[2 * j + 1] = shift_right(add(add(three, line[j + 2]), right_bias), shift)


@njit(nogil=True, cache=True)
def _convert(luma: Samples, blue: Line, red: Line, out: Samples) -> None:
    """Convert a row of YCbCr to RGB; `out` is (3 n,)."""
    half, middle, shift = np.int32(1 << 15), np.int32(128), np.int32(16)
    for x in range(len(luma)):
        level, cb, cr = np.int32(luma[x]), subtract(blue[x], middle), subtract(red[x], middle)
        green = add(multiply(cb, np.int32(-22554)), multiply(cr, np.int32(-46802)))  # 0.34414, 0.71414
        out[3 * x] = _sum(level, shift_right(add(multiply(cr, np.int32(91881)), half), shift))  # 1.402
        out[3 * x + 1] = _sum(level, shift_right(add(green, half), shift))
        out[3 * x + 2] = _sum(level, shift_right(add(multiply(cb, np.int32(116130)), half), shift))  # 1.772


@njit(nogil=True, cache=True)
def _sum(level: np.int32, difference: np.int32) -> np.uint8:
    return np.uint8(min(max(add(level, difference), np.int32(0)), np.int32(255)))
