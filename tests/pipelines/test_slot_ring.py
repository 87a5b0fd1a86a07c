"""Memory that goes round, by plain objects: pinned_views.py needs a GPU, its bookkeeping does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from pipelines.run_ahead import Pending, run_ahead
from pipelines.slot_ring import Lease, Shape, SlotRing


def _ring() -> tuple[SlotRing[np.ndarray], list[np.ndarray]]:
    """A ring of arrays, and all that it has made."""
    made: list[np.ndarray] = []

    def make(shape: Shape) -> np.ndarray:
        made.append(np.zeros(shape, np.uint8))
        return made[-1]

    return SlotRing(make), made


def test_memory_that_has_been_free_the_longest_comes_first_and_of_its_shape_alone() -> None:
    ring, made = _ring()
    leases = [ring.take((2, 3)) for _ in range(3)]
    other = ring.take((3, 2))
    assert [each.shape for each in made] == [(2, 3)] * 3 + [(3, 2)]
    assert len({id(lease.memory) for lease in leases}) == 3
    other.end()
    for k in (1, 2, 0):
        leases[k].end()
    again = [ring.take((2, 3)) for _ in range(4)]
    for lease, expected in zip(again, (made[1], made[2], made[0], made[4]), strict=True):
        assert lease.memory is expected
    assert ring.take((3, 2)).memory is made[3]


def test_a_lease_that_ends_twice_frees_nothing_of_anothers() -> None:
    ring, made = _ring()
    first = ring.take((4,))
    first.end()
    first.end()
    assert first.ended
    second, third = ring.take((4,)), ring.take((4,))
    assert second.memory is made[0] and third.memory is made[1]
    first.end()  # while the second batch has what was its memory
    assert not second.ended and ring.take((4,)).memory is made[2]


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("fails", [False, True])
def test_a_loader_needs_one_more_than_it_prepares_ahead(ahead: int, fails: bool) -> None:
    """Batches are begun, taken, released and discarded as a loader does; one fails after its release."""
    ring, made = _ring()

    def start(step: int) -> Pending[int]:
        lease: Lease[np.ndarray] = ring.take((3,))
        lease.memory[:] = step

        def finish() -> int:
            assert not lease.ended and (lease.memory == step).all()  # nobody else has written to it
            lease.end()
            if fails and step == 17:
                raise RuntimeError("past the release")
            return step

        return Pending([], finish, lease.end)

    def batches(stop: int) -> Iterator[int]:
        return run_ahead(start, range(stop), ahead)

    assert list(batches(12)) == list(range(12)) and len(made) == ahead + 1
    with closing(batches(40)) as leaving:  # type: ignore[type-var]
        assert next(leaving) == 0
    if fails:
        with pytest.raises(RuntimeError, match="past the release"):
            list(batches(40))
    assert list(batches(40 if not fails else 15))[-1] > 0 and len(made) == ahead + 1
    held = [ring.take((3,)) for _ in range(ahead + 1)]
    assert len({id(lease.memory) for lease in held}) == ahead + 1 and len(made) == ahead + 1
