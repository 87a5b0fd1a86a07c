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

from pipelines.jpeg_huffman import Int

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
    first = x0 // part.across
    count = (x0 + out.shape[1] - 1) // part.across + 1 - first
    blue, red = np.empty(count + 2, np.int32), np.empty(count + 2, np.int32)
    wide_blue, wide_red = np.empty(2 * count, np.int32), np.empty(2 * count, np.int32)
    for y in range(y0, y0 + out.shape[0]):
        near = y // part.down
        far = min(max(near - 1 + 2 * (y % 2), 0), part.chroma_height - 1) if part.down == 2 else near
        rows = (near - part.top, far - part.top)
        _sum_rows(part.blue, rows, first, part, blue)
        _sum_rows(part.red, rows, first, part, red)
        if part.across == 2:
            _double(blue, part.down, wide_blue)
            _double(red, part.down, wide_red)
            skipped = x0 - 2 * first
            _convert(part, y, x0, wide_blue[skipped:], wide_red[skipped:], out[y - y0])
        else:
            _convert(part, y, x0, blue[1:], red[1:], out[y - y0])


@njit(nogil=True, cache=True)
def _sum_rows(samples: Samples, rows: tuple[Int, Int], first: Int, part: Part, out: Line) -> None:
    """Fill `out` with 3 x near + far (where rows are halved; else the near row), from one column before `first` on."""
    near, far = rows
    start, count = first - part.left, len(out) - 2
    three = np.int32(3 if part.down == 2 else 1)
    other = np.int32(1 if part.down == 2 else 0)
    for j in range(count):
        value = three * np.int32(samples[near, start + j]) + other * np.int32(samples[far, start + j])
        out[j + 1] = np.int32(value)
    before, after = start - 1, start + count
    out[0], out[count + 1] = out[1], out[count]
    if first > 0:
        out[0] = three * np.int32(samples[near, before]) + other * np.int32(samples[far, before])
    if first + count < part.chroma_width:
        out[count + 1] = three * np.int32(samples[near, after]) + other * np.int32(samples[far, after])


@njit(nogil=True, cache=True)
def _double(line: Line, down: Int, out: Line) -> None:
    """Fill `out` (2 n,) with what lies a quarter to the left and to the right of each inner value of `line` (n + 2,)."""
    shift = np.int32(2 * down)
    left_bias, right_bias = (np.int32(8), np.int32(7)) if down == 2 else (np.int32(1), np.int32(2))
    for j in range(len(line) - 2):
        three = np.int32(np.int32(3) * line[j + 1])
        out[2 * j] = np.int32(three + line[j] + left_bias) >> shift
        out[2 * j + 1] = np.int32(three + line[j + 2] + right_bias) >> shift


@njit(nogil=True, cache=True)
def _convert(part: Part, y: Int, x0: Int, blue: Line, red: Line, out: Samples) -> None:
    """Convert one row of YCbCr to RGB."""
    row, start = y - part.top * part.down, x0 - part.left * part.across
    half, middle, shift = np.int32(1 << 15), np.int32(128), np.int32(16)
    for x in range(len(out)):
        level = np.int32(part.luma[row, start + x])
        cb, cr = np.int32(blue[x] - middle), np.int32(red[x] - middle)
        more_red = np.int32(np.int32(91881) * cr + half) >> shift  # 1.402
        less_green = np.int32(half - np.int32(22554) * cb - np.int32(46802) * cr) >> shift  # 0.34414, 0.71414
        more_blue = np.int32(np.int32(116130) * cb + half) >> shift  # 1.772
        out[x, 0] = _clamp(np.int32(level + more_red))
        out[x, 1] = _clamp(np.int32(level + less_green))
        out[x, 2] = _clamp(np.int32(level + more_blue))


@njit(nogil=True, cache=True)
def _clamp(value: np.int32) -> np.uint8:
    return np.uint8(min(max(value, np.int32(0)), np.int32(255)))
