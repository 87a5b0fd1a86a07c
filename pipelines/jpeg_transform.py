"""The inverse DCT of a JPEG's blocks, in libjpeg's accurate integer arithmetic, `LANES` blocks at a time.

Every operation is one on whole groups of blocks, which become vector registers, so nothing is transposed. What is
computed is libjpeg's "islow" method to the bit: the factorisation of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in
13 fixed bits, columns first, with 2 more bits kept between the passes. Multiplied out it is a matrix, and integers do
not mind. (Its entries are sqrt(2) cos(k pi / 16) 2^13, some off by one, for the factors were rounded one by one.)
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.jpeg_coefficients import GROUP, LANES

FIXED, BETWEEN = 13, 2
"""Bits after the point of a factor, and of what the first pass leaves."""


@njit(nogil=True, cache=True)
def transform_groups(
    coefficients: NDArray[np.int16],
    quantization: NDArray[np.int32],
    work: NDArray[np.int32],
    words: NDArray[np.uint32],
    stride: int,
) -> None:
    """Turn groups of coefficients into 8 rows of samples.

    Args:
        coefficients: (g * `GROUP`,) as `decode_blocks` leaves them.
        quantization: (64,) in the order of rows.
        work: (`GROUP`,), whatever is in it.
        words: where the samples go, four bytes each, from the first group's first sample on.
        stride: words from a row of samples to the next.
    """
    for group in range(len(coefficients) // GROUP):
        first, left = group * GROUP, group * 2 * LANES
        for column in range(8):
            _columns(coefficients[first + column * LANES : first + GROUP], quantization[column:], work[column * LANES :])
        for row in range(8):
            start = row * stride + left
            _rows(work[row * 8 * LANES : (row + 1) * 8 * LANES], words[start : start + 2 * LANES])


@njit(nogil=True, cache=True)
def _columns(coefficients, quantization, work):  # type: ignore[no-untyped-def]
    """Dequantise and transform one column of each block."""
    q0, q1, q2, q3 = quantization[0], quantization[8], quantization[16], quantization[24]
    q4, q5, q6, q7 = quantization[32], quantization[40], quantization[48], quantization[56]
    step, half, shift = 8 * LANES, np.int32(1 << (FIXED - BETWEEN - 1)), np.int32(FIXED - BETWEEN)
    for j in range(LANES):
        d0, d1 = coefficients[j] * q0, coefficients[step + j] * q1
        d2, d3 = coefficients[2 * step + j] * q2, coefficients[3 * step + j] * q3
        d4, d5 = coefficients[4 * step + j] * q4, coefficients[5 * step + j] * q5
        d6, d7 = coefficients[6 * step + j] * q6, coefficients[7 * step + j] * q7
        e0, e1, e2, e3, o0, o1, o2, o3 = _halves(d0, d1, d2, d3, d4, d5, d6, d7)
        work[j] = np.int32(e0 + o0 + half) >> shift
        work[step + j] = np.int32(e1 + o1 + half) >> shift
        work[2 * step + j] = np.int32(e2 + o2 + half) >> shift
        work[3 * step + j] = np.int32(e3 + o3 + half) >> shift
        work[4 * step + j] = np.int32(e3 - o3 + half) >> shift
        work[5 * step + j] = np.int32(e2 - o2 + half) >> shift
        work[6 * step + j] = np.int32(e1 - o1 + half) >> shift
        work[7 * step + j] = np.int32(e0 - o0 + half) >> shift


@njit(nogil=True, cache=True)
def _rows(work, words):  # type: ignore[no-untyped-def]
    """Transform one row of each block to samples, four to a word."""
    for j in range(LANES):
        e0, e1, e2, e3, o0, o1, o2, o3 = _halves(
            work[j],
            work[LANES + j],
            work[2 * LANES + j],
            work[3 * LANES + j],
            work[4 * LANES + j],
            work[5 * LANES + j],
            work[6 * LANES + j],
            work[7 * LANES + j],
        )
        words[2 * j] = _word(e0 + o0, e1 + o1, e2 + o2, e3 + o3)
        words[2 * j + 1] = _word(e3 - o3, e2 - o2, e1 - o1, e0 - o0)


@njit(nogil=True, cache=True)
def _halves(d0, d1, d2, d3, d4, d5, d6, d7):  # type: ignore[no-untyped-def]
    """Return what the even inputs and what the odd ones add to outputs 0 to 3; 7 to 4 have the difference."""
    sum_, difference = (d0 + d4) << np.int32(FIXED), (d0 - d4) << np.int32(FIXED)
    even = d2 * np.int32(10703) + d6 * np.int32(4433)
    odd = d2 * np.int32(4433) - d6 * np.int32(10704)
    return (
        sum_ + even,
        difference + odd,
        difference - odd,
        sum_ - even,
        d1 * np.int32(11363) + d3 * np.int32(9633) + d5 * np.int32(6437) + d7 * np.int32(2260),
        d1 * np.int32(9633) - d3 * np.int32(2259) - d5 * np.int32(11362) - d7 * np.int32(6436),
        d1 * np.int32(6437) - d3 * np.int32(11362) + d5 * np.int32(2261) + d7 * np.int32(9633),
        d1 * np.int32(2260) - d3 * np.int32(6436) + d5 * np.int32(9633) - d7 * np.int32(11363),
    )


@njit(nogil=True, cache=True)
def _word(a, b, c, d):  # type: ignore[no-untyped-def]
    """Round four samples, shift them to 0 to 255, and put them side by side (little-endian, as x86 and ARM are)."""
    return _sample(a) | _sample(b) << np.uint32(8) | _sample(c) << np.uint32(16) | _sample(d) << np.uint32(24)


@njit(nogil=True, cache=True)
def _sample(value):  # type: ignore[no-untyped-def]
    shift = np.int32(FIXED + BETWEEN + 3)
    level = (np.int32(value + (1 << (FIXED + BETWEEN + 2))) >> shift) + np.int32(128)
    return np.uint32(min(max(np.int32(level), np.int32(0)), np.int32(255)))
