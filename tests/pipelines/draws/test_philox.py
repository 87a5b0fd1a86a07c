from __future__ import annotations

import numpy as np
import pytest

from pipelines.draws.philox import philox4x32

# Random123, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    result = philox4x32(words(counter)[None], words(key))
    assert result.dtype == np.uint32
    np.testing.assert_array_equal(result, words(answer)[None])


def test_each_row_is_its_own_counter() -> None:
    key = words("a4093822 299f31d0")
    counters = np.stack([words(counter) for counter, _, _ in KNOWN_ANSWERS])
    singly = np.concatenate([philox4x32(counter[None], key) for counter in counters])
    np.testing.assert_array_equal(philox4x32(counters, key), singly)
    np.testing.assert_array_equal(singly[2], words(KNOWN_ANSWERS[2][2]))
    assert philox4x32(counters[:0], key).shape == (0, 4)
