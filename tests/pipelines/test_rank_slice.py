from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rank_slice import RankSlice
from pipelines.user_error import UserError


@pytest.mark.parametrize(
    ("num_images", "global_batch", "steps"), [(1, 1, 1), (1, 8, 1), (8, 8, 1), (9, 8, 2), (115_846, 120, 966)]
)
def test_steps_per_epoch(num_images: int, global_batch: int, steps: int) -> None:
    assert RankSlice.steps_per_epoch(num_images, global_batch) == steps


def test_places_of_two_ranks() -> None:
    places = [RankSlice(rank, 2).train_places(5, 2, 6).tolist() for rank in (0, 1)]
    assert places == [[30, 31, 32, 36, 37, 38], [33, 34, 35, 39, 40, 41]]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000), st.integers(0, 4))
def test_the_ranks_share_each_global_batch(world_size: int, local: int, step: int, steps: int) -> None:
    batch = world_size * local
    parts = [RankSlice(rank, world_size).train_places(step, steps, batch) for rank in range(world_size)]
    assert all(part.dtype == np.int64 and part.shape == (steps * local,) for part in parts)
    whole = np.concatenate([part.reshape(steps, local) for part in parts], axis=1)
    assert whole.ravel().tolist() == list(range(step * batch, (step + steps) * batch))


@pytest.mark.parametrize(("batch", "world_size"), [(10, 4), (3, 4), (0, 2)])
def test_a_global_batch_that_does_not_divide(batch: int, world_size: int) -> None:
    message = (
        f"global batch of {batch} does not divide by {world_size} processes: set .* multiple of {world_size}"
    )
    with pytest.raises(UserError, match=message):
        RankSlice(1, world_size).train_places(0, 1, batch)
    with pytest.raises(UserError, match=message):
        RankSlice(1, world_size).local_batch(batch)


@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 9))
def test_evaluation_counts_each_image_once(num_images: int, world_size: int, local: int) -> None:
    shares = [list(RankSlice(rank, world_size).eval_share(num_images, local)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    counted_images = []
    for indices, counted in (batch for share in shares for batch in share):
        assert indices.shape == counted.shape == (local,)
        assert indices.dtype == np.int64 and counted.dtype == np.bool_
        assert not indices[~counted].any()
        counted_images += indices[counted].tolist()
    assert sorted(counted_images) == list(range(num_images))
    padding = sum(len(share) for share in shares) * local - num_images
    assert 0 <= padding < world_size * local


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_position_counts_steps(global_step: int, steps: int) -> None:
    epoch, step = RankSlice.position(global_step, steps)
    assert 0 <= step < steps
    assert sum(steps for _ in range(epoch)) + step == global_step
