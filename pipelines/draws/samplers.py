"""Which images: the uniform stream (a) and the reversed stream (b), pure functions of (seed, epoch, place).

Both give the image of any place of an epoch directly, without the places before it, so a rank draws its own
share only, at a cost of O(share), and nothing has to be kept to go on after a stop.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.draws.draw import Draw, Purpose, check_seed, counter_tag, uniforms
from pipelines.draws.permutation import permuted
from pipelines.user_error import UserError


class UniformStream:
    """Every image once an epoch, in a random order of its own: the shuffled loader of every trainer.

    Errors: `UserError` for a set without images or a seed outside [0, 2^64).
    """

    def __init__(self, num_images: int, seed: int) -> None:
        check_seed(seed)
        if num_images < 1:
            raise UserError("the training set has no images: convert a list that is not empty")
        self.num_images = num_images
        self.seed = seed

    def indices(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Image of each place: (n,) int64 -> (n,) int64 in [0, num_images).

        Place p >= num_images is place p - num_images again: the last batch of an epoch is filled from its
        start.
        """
        draw = Draw(self.seed, epoch, places)
        tag = counter_tag(draw, Purpose.PERMUTATION)
        return permuted(places % self.num_images, self.num_images, self.seed, epoch, tag)


class ReversedStream:
    """Draws with replacement: class probability ∝ n_c^(1-q), then uniform over the images of the class.

    q = 0 is uniform over images (and still an independent draw), q = 1 class-balanced, q = 2 BBN's reversed
    sampler. The same distribution as GLMC's WeightedRandomSampler with weight n_c^-q for each image. A class
    without images has probability 0. Holds 4 bytes a sample (8 above 2^31 of them).

    Errors: `UserError` for q that is negative or not finite, no images, or a seed outside [0, 2^64).
    """

    def __init__(self, labels: NDArray[np.int64], q: float, seed: int) -> None:
        check_seed(seed)
        if not (math.isfinite(q) and q >= 0):
            raise UserError(f"q of the reversed stream is {q}: it must be a finite number, 0 or more")
        if len(labels) == 0:
            raise UserError("the training set has no images: convert a list that is not empty")
        self.seed = seed
        self._counts = np.bincount(labels)
        self._cumulative = _cumulative_probability(self._counts, q)
        self._starts = np.cumsum(self._counts) - self._counts
        self._by_class = _sort_by_class(labels, self._starts)

    def indices(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Image of each place: (n,) int64 -> (n,) int64; O(n log C)."""
        u = uniforms(Draw(self.seed, epoch, places), Purpose.REVERSED, 2)
        classes = np.searchsorted(self._cumulative, u[:, 0], side="right")
        nth = (u[:, 1] * self._counts[classes]).astype(np.int64)
        return self._by_class[self._starts[classes] + nth].astype(np.int64)


def _cumulative_probability(counts: NDArray[np.int64], q: float) -> NDArray[np.float64]:
    """Cumulative class probability ∝ n_c^(1-q), (C,) float64 ending in exactly 1."""
    filled = counts > 0
    log_weight = np.full(len(counts), -np.inf)
    log_weight[filled] = (1 - q) * np.log(counts[filled])  # logarithms: n_c^(1-q) underflows for a large q
    cumulative = np.cumsum(np.exp(log_weight - log_weight.max()))
    return cumulative / cumulative[-1]


def _sort_by_class(labels: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int32 | np.int64]:
    """Image indices by class, those of class c from starts[c] on. A counting sort: nothing is copied."""
    by_class: NDArray[np.int32 | np.int64]
    by_class = np.empty(len(labels), np.int32) if len(labels) <= 2**31 else np.empty(len(labels), np.int64)
    _fill_by_class(labels, starts.copy(), by_class)
    return by_class


@njit(nogil=True, cache=True)
def _fill_by_class(
    labels: NDArray[np.int64], next_slot: NDArray[np.int64], by_class: NDArray[np.int32 | np.int64]
) -> None:
    for i in range(len(labels)):
        label = labels[i]
        by_class[next_slot[label]] = i
        next_slot[label] += 1
