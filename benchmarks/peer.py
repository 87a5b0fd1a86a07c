"""What a peer is: a library's way to make pairs, and the numbers of workers to try it with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.feed import Feed
from benchmarks.photographs import Photographs

SIZE = 224
"""Side of a view, pixels."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""
LONG = 1 << 20
"""Images of an epoch of a peer: no peer is to lose time between the epochs of a small set."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One row of the comparison."""

    name: str
    augmentation: str
    open: Callable[[Photographs, int, int], Feed]
    """(photographs, workers, pairs of a batch) -> feed; called in a process of its own."""
    loaders: int
    """How many loaders share the cores, each with as many workers: 2 where a stream is a loader."""
    differs: str
    """What it does otherwise than the others, for the reader."""
    needs_gpu: bool = False

    def worker_choices(self, cores: int) -> list[int]:
        """Workers of a loader to try: one, one and a half, and two for each core, over all loaders."""
        return sorted({max(1, math.ceil(cores * share / self.loaders)) for share in (1, 1.5, 2)})


def batch_for(cores: int) -> int:
    """Pairs of a batch: 32 on up to four cores, 128 on sixteen (the official trainer has 120)."""
    return max(32, 8 * cores)


def uniform_order(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(LONG,) int64: permutations of the images, one after the other."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-LONG // count))])[:LONG]


def weighted_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(LONG,) int64: draws with replacement, every class as often as any other."""
    weights = class_balanced_weights(labels)
    return rng.choice(len(labels), size=LONG, p=weights / weights.sum())


def class_balanced_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) one over the number of images of each image's class."""
    return 1 / np.bincount(labels)[labels]
