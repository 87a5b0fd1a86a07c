from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError

from pipelines.int32 import add, multiply, shift_left, shift_right, subtract

LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1
integers = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, -1, 0, 1, HIGHEST])


@njit
def _all(a, b, bits):  # type: ignore[no-untyped-def]
    return add(a, b), subtract(a, b), multiply(a, b), shift_left(a, bits), shift_right(a, bits)


def _wrapped(value: int) -> int:
    return (value - LOWEST) % (1 << 32) + LOWEST


@given(integers, integers, st.integers(0, 31))
def test_they_wrap_around_and_shifts_round_down(a: int, b: int, bits: int) -> None:
    results = _all(np.int32(a), np.int32(b), np.int32(bits))
    assert list(results) == [*map(_wrapped, (a + b, a - b, a * b, a << bits)), a >> bits]


def test_wider_integers_are_refused() -> None:
    with pytest.raises(TypingError):
        _all(np.int64(1), np.int32(2), np.int32(3))
