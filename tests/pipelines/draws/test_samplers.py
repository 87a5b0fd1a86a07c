from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipelines.draws.samplers import ReversedStream, UniformStream
from pipelines.rank_slice import RankSlice
from pipelines.user_error import UserError


@pytest.fixture(scope="module")
def imagenet_lt_counts(shared_data: Path) -> NDArray[np.int64]:
    counts = np.array(json.loads((shared_data / "class_counts.json").read_text())["ImageNet-LT"])
    assert counts.sum() == 115_846
    return counts


def shuffled_labels(counts: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1797])
def test_uniform_stream_shows_every_image_once_an_epoch_and_wraps(n: int) -> None:
    stream = UniformStream(n, seed=3)
    places = np.arange(2 * n + 3)
    for epoch in (0, 1, 2**32 - 1):
        indices = stream.indices(epoch, places)
        assert indices.dtype == np.int64
        assert sorted(indices[:n].tolist()) == list(range(n))
        np.testing.assert_array_equal(indices, indices[places % n])


def test_uniform_stream_differs_by_epoch_and_seed() -> None:
    n = 5000
    orders = [
        UniformStream(n, seed).indices(epoch, np.arange(n))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (2**32, 0)]
    ]
    for i in range(len(orders)):
        for j in range(i):
            assert (orders[i] == orders[j]).sum() < 10  # about one by chance
    np.testing.assert_array_equal(orders[0], UniformStream(n, 0).indices(0, np.arange(n)))


@pytest.mark.parametrize("q", [0.0, 0.2, 1.0, 2.0])
def test_reversed_stream_on_imagenet_lt(imagenet_lt_counts: NDArray[np.int64], q: float) -> None:
    """Class shares of the official sampler, whose weight for an image of class c is n_c^-q."""
    labels = shuffled_labels(imagenet_lt_counts)
    image_weight = imagenet_lt_counts[labels] ** -q
    share = np.bincount(labels, weights=image_weight) / image_weight.sum()
    indices = ReversedStream(labels, q, seed=1).indices(0, np.arange(1_000_000))
    assert indices.dtype == np.int64
    drawn = np.bincount(labels[indices], minlength=len(share))
    assert stats.chisquare(drawn, share * len(indices)).pvalue > 1e-3


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 3.0])
def test_images_of_a_class_are_equally_likely_and_empty_classes_never_drawn(q: float) -> None:
    counts = np.array([0, 3, 0, 7, 1, 20, 0])
    labels = shuffled_labels(counts)
    weight = counts[labels].astype(float) ** -q
    indices = ReversedStream(labels, q, seed=1).indices(4, np.arange(200_000))
    drawn = np.bincount(indices, minlength=len(labels))
    assert stats.chisquare(drawn, weight / weight.sum() * len(indices)).pvalue > 1e-3


def test_reversed_stream_draws_with_replacement_at_q_0() -> None:
    n = 20_000
    indices = ReversedStream(shuffled_labels([n - 5000, 5000]), 0.0, seed=1).indices(0, np.arange(n))
    seen = len(np.unique(indices)) / n
    assert abs(seen - (1 - np.exp(-1))) < 0.01


@pytest.mark.parametrize("q", [1e3, 1e6])
def test_an_extreme_q_draws_the_rarest_class(q: float) -> None:
    labels = shuffled_labels([1280, 5, 90])
    assert (labels[ReversedStream(labels, q, seed=1).indices(0, np.arange(100))] == 1).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    labels, batch = shuffled_labels([50, 30, 7]), 12
    steps = RankSlice.steps_per_epoch(len(labels), batch)
    streams = UniformStream(len(labels), 8), ReversedStream(labels, 0.5, 8)
    parts = [RankSlice(rank, world_size).train_places(0, steps, batch) for rank in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(steps * batch))
    for stream in streams:
        whole = stream.indices(3, np.arange(steps * batch)).reshape(steps, batch)
        mine = [stream.indices(3, part).reshape(steps, -1) for part in parts]
        np.testing.assert_array_equal(np.concatenate(mine, axis=1), whole)


def test_the_two_streams_are_independent() -> None:
    n = 64_000
    labels = np.arange(n) * 10 // n
    a = UniformStream(n, 7).indices(2, np.arange(n))
    b = ReversedStream(labels, 0.0, 7).indices(2, np.arange(n))
    table = np.histogram2d(a, b, bins=16, range=[[0, n], [0, n]])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_reversed_stream_differs_by_epoch_and_seed() -> None:
    labels = shuffled_labels([4000, 1000])
    drawn = [
        ReversedStream(labels, 0.2, seed).indices(epoch, np.arange(5000))
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    for i in range(len(drawn)):
        for j in range(i):
            assert (drawn[i] == drawn[j]).sum() < 12
    np.testing.assert_array_equal(drawn[0], ReversedStream(labels, 0.2, 0).indices(0, np.arange(5000)))


def test_10_million_images_set_up_in_seconds_and_16_bytes_a_sample() -> None:
    n = 10**7
    labels = np.random.default_rng(0).integers(0, 8142, n)
    ReversedStream(labels[:100], 0.2, 0)  # compiles
    tracemalloc.start()
    start = time.thread_time()
    stream = ReversedStream(labels, 0.2, seed=0)
    seconds = time.thread_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 16 * n
    assert seconds < 10
    assert stream.indices(0, np.arange(256)).max() < n


@pytest.mark.parametrize("q", [-0.1, float("nan"), float("inf")])
def test_impossible_q(q: float) -> None:
    with pytest.raises(UserError, match=f"q of the reversed stream is {q}: it must be a finite number"):
        ReversedStream(np.zeros(3, np.int64), q, seed=0)


def test_no_images_and_impossible_seeds() -> None:
    with pytest.raises(UserError, match="training set has no images"):
        UniformStream(0, seed=0)
    with pytest.raises(UserError, match="training set has no images"):
        ReversedStream(np.zeros(0, np.int64), 0.0, seed=0)
    with pytest.raises(UserError, match="seed is -1"):
        UniformStream(3, seed=-1)
    with pytest.raises(UserError, match="seed is 18446744073709551616"):
        ReversedStream(np.zeros(3, np.int64), 0.0, seed=2**64)
