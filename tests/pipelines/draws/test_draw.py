from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pipelines.draws.draw import Draw, Purpose, counter_tag, uniforms, unit_interval
from pipelines.draws.philox import philox4x32
from pipelines.user_error import UserError

PLACES = np.array([0, 1, 2, 255, 115_846, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 5], np.int64)


def test_counters_have_the_documented_layout() -> None:
    """Words put together here, from the text of the module, give the same numbers."""
    seed, epoch, stream, view, blocks = 0x0123456789ABCDEF, 77, 3, 2, 3
    got = uniforms(Draw(seed, epoch, PLACES, stream, view), Purpose.COLOUR, 2 * blocks - 1)
    key = np.array([0x89ABCDEF, 0x01234567], np.uint32)
    for i, place in enumerate(PLACES.tolist()):
        for block in range(blocks):
            last = (int(Purpose.COLOUR) << 24) + (stream << 20) + (view << 16) + block
            counter = np.array([[place % 2**32, place // 2**32, epoch, last]], np.uint32)
            w = [int(word) for word in philox4x32(counter, key)[0]]
            for column in (0, 1):
                bits = w[2 * column] * 2**20 + w[2 * column + 1] // 2**12
                if 2 * block + column < got.shape[1]:
                    assert got[i, 2 * block + column] == (2 * bits + 1) / 2**53


def test_no_two_draws_share_a_number() -> None:
    """Every place, purpose, stream, view, block, epoch and seed has numbers of its own (2^52 exist)."""
    drawn = [
        uniforms(Draw(seed, epoch, PLACES, stream, view), purpose, 40)
        for seed, epoch, stream, view, purpose in itertools.product(
            (0, 1, 2**32, 2**64 - 1), (0, 1, 2**32 - 1), (0, 1, 15), (0, 1, 15), Purpose
        )
    ]
    numbers = np.stack(drawn).ravel()
    assert len(np.unique(numbers)) == numbers.size


def test_tags_are_distinct() -> None:
    tags = [
        int(counter_tag(Draw(0, 0, PLACES, stream, view), purpose)) + block
        for stream, view, purpose in itertools.product(range(16), range(16), Purpose)
        for block in (0, 2**16 - 1)
    ]
    assert len(set(tags)) == len(tags)
    assert max(tags) < 2**32


def test_the_same_however_places_are_split_or_ordered() -> None:
    rng = np.random.default_rng(0)
    places = np.arange(1000, 1097)
    whole = uniforms(Draw(5, 6, places), Purpose.FLIP, 5)
    order = rng.permutation(len(places))
    np.testing.assert_array_equal(uniforms(Draw(5, 6, places[order]), Purpose.FLIP, 5), whole[order])
    parts = [uniforms(Draw(5, 6, part), Purpose.FLIP, 5) for part in np.array_split(places, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(uniforms(Draw(5, 6, places), Purpose.FLIP, 2), whole[:, :2])
    assert uniforms(Draw(5, 6, places[:0]), Purpose.FLIP, 5).shape == (0, 5)


def test_neither_0_nor_1_occurs() -> None:
    ones, zero = np.uint64(0xFFFFFFFF), np.uint64(0)
    assert unit_interval(zero, zero) == 2.0**-53
    assert unit_interval(ones, ones) == 1 - 2.0**-53
    assert unit_interval(ones, zero) == 1 - 2.0**-32 + 2.0**-53


def test_uniform() -> None:
    u = uniforms(Draw(11, 3, np.arange(50_000)), Purpose.COLOUR, 3)
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    low_bits = (u * 2**52).astype(np.int64) % 64
    assert stats.chisquare(np.bincount(low_bits.ravel(), minlength=64)).pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 12},
        {"epoch": 4},
        {"places": np.arange(1, 50_001)},
        {"stream": 1},
        {"view": 1},
    ],
    ids=lambda other: next(iter(other)),
)
def test_neighbours_are_independent(other: dict[str, object]) -> None:
    base = {"seed": 11, "epoch": 3, "places": np.arange(50_000)}
    x = uniforms(Draw(**base), Purpose.FLIP, 1)[:, 0]
    y = uniforms(Draw(**(base | other)), Purpose.FLIP, 1)[:, 0]
    table = np.histogram2d(x, y, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UserError, match=rf"seed is {seed}: it must lie in \[0, 2\^64\)"):
        Draw(seed, 0, PLACES)


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_epoch_out_of_range(epoch: int) -> None:
    with pytest.raises(UserError, match=rf"epoch is {epoch}: it must lie in \[0, 2\^32\)"):
        Draw(0, epoch, PLACES)
