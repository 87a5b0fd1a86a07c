from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pipelines.draws.permutation import permuted

TAG = np.uint64(0)


def orders(n: int, epochs: int) -> np.ndarray:
    """(epochs, n): the whole permutation of each epoch."""
    return np.stack([permuted(np.arange(n), n, 5, epoch, TAG) for epoch in range(epochs)])


@pytest.mark.parametrize("n", [*range(1, 40), 64, 97, 1024, 4095, 4096, 4097, 10**6 + 3])
def test_is_a_permutation(n: int) -> None:
    values = permuted(np.arange(n), n, 2**64 - 1, 2**32 - 1, np.uint64(0xFF << 16))
    assert values.dtype == np.int64
    assert (np.bincount(values, minlength=n) == 1).all()


@pytest.mark.parametrize("n", [10**7 + 1, 2**33 + 7])
def test_any_part_of_a_large_one(n: int) -> None:
    positions = np.concatenate([np.arange(100_000), np.arange(n - 100_000, n)])
    values = permuted(positions, n, 5, 0, TAG)
    assert values.min() >= 0 and values.max() < n
    assert len(np.unique(values)) == len(values)
    assert stats.kstest(values / n, "uniform").pvalue > 1e-3
    order = np.random.default_rng(0).permutation(len(positions))
    np.testing.assert_array_equal(permuted(positions[order], n, 5, 0, TAG), values[order])


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 9, 13, 16])
def test_every_image_is_as_likely_at_every_position(n: int) -> None:
    epochs = 4000
    table = np.zeros((n, n))
    for values in orders(n, epochs):
        table[np.arange(n), values] += 1
    # Rows and columns of a permutation matrix sum to 1: (n-1)^2 degrees of freedom of variance 1/(n-1) each.
    statistic = ((table - epochs / n) ** 2).sum() * (n - 1) / epochs
    assert 1e-3 < stats.chi2((n - 1) ** 2).sf(statistic) < 1 - 1e-3


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9])
def test_every_pair_is_as_likely_side_by_side(n: int) -> None:
    drawn = orders(n, 6000)
    pairs = np.array(list(itertools.permutations(range(n), 2)))
    for position in range(n - 1):
        codes = drawn[:, position] * n + drawn[:, position + 1]
        counts = np.bincount(codes, minlength=n * n)[pairs[:, 0] * n + pairs[:, 1]]
        assert counts.sum() == len(drawn)
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_of_a_few_images_is_as_likely(n: int) -> None:
    codes = orders(n, 12_000) @ (n ** np.arange(n))
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == len(list(itertools.permutations(range(n))))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_position_tells_nothing_about_the_image() -> None:
    n = 115_846
    values = permuted(np.arange(n), n, 5, 0, TAG)
    for x in (np.arange(n), np.arange(n) % 341):  # 341 columns: within a row of the network's grid
        table = np.histogram2d(x, values, bins=16)[0]
        assert 1e-3 < stats.chi2_contingency(table).pvalue < 1 - 1e-3
    steps = np.diff(values) % n  # from one image to the next: uniform too
    assert stats.kstest(steps / n, "uniform").pvalue > 1e-3
