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

from pipelines.int32 import add, multiply, shift_left, shift_right, subtract
from pipelines.jpeg.coefficients import GROUP, LANES

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
            _columns(
                coefficients[first + column * LANES : first + GROUP],
                quantization[column:],
                work[column * LANES :],
            )
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
        d0 = multiply(np.int32(coefficients[j]), q0)
        d1 = multiply(np.int32(coefficients[step + j]), q1)
        d2 = multiply(np.int32(coefficients[2 * step + j]), q2)
        d3 = multiply(np.int32(coefficients[3 * step + j]), q3)
        d4 = multiply(np.int32(coefficients[4 * step + j]), q4)
        d5 = multiply(np.int32(coefficients[5 * step + j]), q5)
        d6 = multiply(np.int32(coefficients[6 * step + j]), q6)
        d7 = multiply(np.int32(coefficients[7 * step + j]), q7)
        e0, e1, e2, e3 = _even(d0, d2, d4, d6, half)
        o0, o1, o2, o3 = _odd(d1, d3, d5, d7)
        work[j] = shift_right(add(e0, o0), shift)
        work[step + j] = shift_right(add(e1, o1), shift)
        work[2 * step + j] = shift_right(add(e2, o2), shift)
        work[3 * step + j] = shift_right(add(e3, o3), shift)
        work[4 * step + j] = shift_right(subtract(e3, o3), shift)
        work[5 * step + j] = shift_right(subtract(e2, o2), shift)
        work[6 * step + j] = shift_right(subtract(e1, o1), shift)
        work[7 * step + j] = shift_right(subtract(e0, o0), shift)


@njit(nogil=True, cache=True)
def _rows(work, words):  # type: ignore[no-untyped-def]
    """Transform one row of each block to samples, four to a word."""
    half = np.int32(1 << (FIXED + BETWEEN + 2))
    for j in range(LANES):
        e0, e1, e2, e3 = _even(work[j], work[2 * LANES + j], work[4 * LANES + j], work[6 * LANES + j], half)
        o0, o1, o2, o3 = _odd(work[LANES + j], work[3 * LANES + j], work[5 * LANES + j], work[7 * LANES + j])
        words[2 * j] = _word(add(e0, o0), add(e1, o1), add(e2, o2), add(e3, o3))
        words[2 * j + 1] = _word(subtract(e3, o3), subtract(e2, o2), subtract(e1, o1), subtract(e0, o0))


@njit(nogil=True, cache=True)
def _even(d0, d2, d4, d6, half):  # type: ignore[no-untyped-def]
    """Return what the even inputs add to outputs 0 to 3, and to 7 to 4; half for rounding included."""
    fixed = np.int32(FIXED)
    both = add(shift_left(add(d0, d4), fixed), half)
    difference = add(shift_left(subtract(d0, d4), fixed), half)
    outer = add(multiply(d2, np.int32(10703)), multiply(d6, np.int32(4433)))
    inner = subtract(multiply(d2, np.int32(4433)), multiply(d6, np.int32(10704)))
    return add(both, outer), add(difference, inner), subtract(difference, inner), subtract(both, outer)


@njit(nogil=True, cache=True)
def _odd(d1, d3, d5, d7):  # type: ignore[no-untyped-def]
    """Return what the odd inputs add to outputs 0 to 3, and take from 7 to 4."""
    return (
        _dot(d1, d3, d5, d7, (11363, 9633, 6437, 2260)),
        _dot(d1, d3, d5, d7, (9633, -2259, -11362, -6436)),
        _dot(d1, d3, d5, d7, (6437, -11362, 2261, 9633)),
        _dot(d1, d3, d5, d7, (2260, -6436, 9633, -11363)),
    )


@njit(nogil=True, cache=True)
def _dot(d1, d3, d5, d7, factors):  # type: ignore[no-untyped-def]
    f1, f3, f5, f7 = factors
    low = add(multiply(d1, np.int32(f1)), multiply(d3, np.int32(f3)))
    return add(low, add(multiply(d5, np.int32(f5)), multiply(d7, np.int32(f7))))


@njit(nogil=True, cache=True)
def _word(a, b, c, d):  # type: ignore[no-untyped-def]
    """Round four samples, shift them to 0 to 255, and put them side by side (little-endian, as x86 and ARM are)."""
    low = add(_sample(a), shift_left(_sample(b), np.int32(8)))
    high = add(shift_left(_sample(c), np.int32(16)), shift_left(_sample(d), np.int32(24)))
    return np.uint32(add(low, high))


@njit(nogil=True, cache=True)
def _sample(value):  # type: ignore[no-untyped-def]
    level = add(shift_right(value, np.int32(FIXED + BETWEEN + 3)), np.int32(128))
    return min(max(level, np.int32(0)), np.int32(255))
