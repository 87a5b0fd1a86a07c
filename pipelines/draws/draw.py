"""The only place where chance is made: uniform numbers that are a function of (seed, epoch, place).

A *place* is a position in the epoch's global order: place p is pair p mod N of step p // N, N the global
batch. Nothing here knows of ranks, workers or what was drawn before, so a draw is the same on 1 GPU or 64 and
after a stop. What is drawn with these numbers:

    which images            permutation.py and samplers.py
    crop boxes and flips    crops.py
    colour and blur         colours.py
    λ and cut boxes         mixing.py

One Philox counter of four words belongs to each sample, purpose and block of two numbers:

    word 0, 1   place, low and high half
    word 2      epoch
    word 3      purpose (8 bits), stream (4), view (4), block (16)

and the key is the seed, so no two draws of a run share a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.draws.philox import WORD, philox_block
from pipelines.user_error import UserError


class Purpose(IntEnum):
    """What a number is drawn for. Renumbering changes every run, so new purposes take new numbers."""

    PERMUTATION = 0
    """Order of the uniform stream (the block counts the rounds of the permutation)."""
    REVERSED = 1
    """Images of the reversed stream."""
    RESIZED_CROP = 2
    PADDED_CROP = 3
    FLIP = 4
    COLOUR = 5
    MIX_BATCH = 6
    """One λ and box a step: the place is the step in the epoch."""
    MIX_SAMPLE = 7
    """One λ and box a pair."""


@dataclass(frozen=True)
class Draw:
    """The coordinates of a draw: whose chance it is, apart from what it is for.

    Errors: `UserError` for a seed or an epoch that does not fit its words of the counter.
    """

    seed: int
    """In [0, 2^64)."""
    epoch: int
    """0-based, below 2^32."""
    places: NDArray[np.int64]
    """(n,) int64 >= 0: places in the epoch's global order, any selection in any order."""
    stream: int = 0
    """0 to 15: 0 is stream a (uniform), 1 stream b (reversed)."""
    view: int = 0
    """0 to 15: which crop of the source image."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_epoch(self.epoch)
        assert self.places.ndim == 1 and self.places.dtype == np.int64
        assert self.places.min(initial=0) >= 0
        assert 0 <= self.stream < 16 and 0 <= self.view < 16


def check_seed(seed: int) -> None:
    """Raise `UserError` unless the seed fits Philox's key."""
    if not 0 <= seed < 2**64:
        raise UserError(f"seed is {seed}: it must lie in [0, 2^64)")


def check_epoch(epoch: int) -> None:
    """Raise `UserError` unless the epoch fits its word of the counter."""
    if not 0 <= epoch < 2**32:
        raise UserError(f"epoch is {epoch}: it must lie in [0, 2^32)")


def uniforms(draw: Draw, purpose: Purpose, count: int) -> NDArray[np.float64]:
    """Uniform numbers of the open interval (0, 1): (n, count) float64, row i for `draw.places[i]`.

    All have 52 random bits (two words each), enough for an index into 10^12 images; neither 0 nor 1 occurs,
    so `floor(u * n)` is below n and an inverse CDF is finite. The first k columns do not depend on `count`.
    """
    assert 0 < count <= 2**17
    out = np.empty((len(draw.places), count))
    _fill_uniforms(np.uint64(draw.seed), draw.places, np.uint64(draw.epoch), counter_tag(draw, purpose), out)
    return out


def counter_tag(draw: Draw, purpose: Purpose) -> np.uint64:
    """Word 3 of the counters of a draw, for block 0."""
    return np.uint64(purpose << 24 | draw.stream << 20 | draw.view << 16)


@njit(nogil=True, cache=True)
def unit_interval(high: np.uint64, low: np.uint64) -> float:
    """Two random words -> a uniform number, an odd multiple of 2^-53."""
    bits = np.int64((high << np.uint64(20)) | (low >> np.uint64(12)))
    return (bits + 0.5) * 2.0**-52


@njit(nogil=True, cache=True)
def _fill_uniforms(
    seed: np.uint64, places: NDArray[np.int64], epoch: np.uint64, tag: np.uint64, out: NDArray[np.float64]
) -> None:
    """Fill out[i, :] from the counters of places[i]; a block of four words gives two numbers."""
    count = out.shape[1]
    for i in range(len(places)):
        place = np.uint64(places[i])
        for block in range((count + 1) // 2):
            w0, w1, w2, w3 = philox_block(
                place & WORD, place >> np.uint64(32), epoch, tag + np.uint64(block), seed
            )
            out[i, 2 * block] = unit_interval(w0, w1)
            if 2 * block + 1 < count:
                out[i, 2 * block + 1] = unit_interval(w2, w3)
