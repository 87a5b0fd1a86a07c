"""Philox4x32-10, the counter-based generator behind every draw.

It turns a counter and a key into 128 random bits and keeps no state, so any draw can be made at any time, on
any rank and in any order. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); checked
against the known answers that Random123 publishes.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

WORD = np.uint64(0xFFFFFFFF)
"""Words of 32 bits are held in uint64, where their products do not overflow; this mask cuts them back."""
_HALF = np.uint64(32)
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)  # the golden ratio
_WEYL_1 = np.uint64(0xBB67AE85)  # sqrt(3) - 1


@njit(nogil=True, cache=True)
def philox_block(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, seed: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Four random words for one counter; words are uint64 below 2^32, the key is the 64-bit seed."""
    k0 = seed & WORD
    k1 = seed >> _HALF
    for _ in range(10):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0, c2 = (product_1 >> _HALF) ^ c1 ^ k0, (product_0 >> _HALF) ^ c3 ^ k1
        c1, c3 = product_1 & WORD, product_0 & WORD
        k0 = (k0 + _WEYL_0) & WORD
        k1 = (k1 + _WEYL_1) & WORD
    return c0, c1, c2, c3


@njit(nogil=True, cache=True)
def philox4x32(counters: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Four random words for each counter: (n, 4) uint32 and a key (2,) uint32 -> (n, 4) uint32."""
    seed = np.uint64(key[0]) | (np.uint64(key[1]) << _HALF)
    words = np.empty((len(counters), 4), np.uint32)
    for i in range(len(counters)):
        c = counters[i]
        block = philox_block(np.uint64(c[0]), np.uint64(c[1]), np.uint64(c[2]), np.uint64(c[3]), seed)
        for j in range(4):
            words[i, j] = np.uint32(block[j])
    return words
