"""Class sizes of long-tailed sets: the published ones, and the laws themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.long_tail import exponential_counts, pareto_counts
from pipelines.user_error import UserError


@pytest.mark.parametrize(
    ("largest", "classes", "factor", "images", "smallest"),
    [
        (5000, 10, 100, 12_406, 50),
        (5000, 10, 50, 13_996, 100),
        (5000, 10, 10, 20_431, 500),
        (500, 100, 100, 10_847, 5),
        (500, 100, 50, 12_608, 10),
        (500, 100, 10, 19_573, 50),
        (5000, 10, 1, 50_000, 5000),
    ],
)
def test_published_sizes(largest: int, classes: int, factor: float, images: int, smallest: int) -> None:
    counts = exponential_counts(largest, classes, factor)
    assert (counts.sum(), counts[0], counts[-1]) == (images, largest, smallest)


@given(st.integers(1, 3000), st.integers(2, 300), st.floats(0, 1))
def test_pareto_is_a_power_law(largest: int, classes: int, place: float) -> None:
    factor = largest**place
    counts = pareto_counts(largest, classes, factor)
    assert counts[0] == largest
    assert counts[-1] == pytest.approx(largest / factor, abs=1 + 1e-6)
    assert counts.min() >= 1 and (np.diff(counts) <= 0).all()
    middle = classes // 2
    # A straight line in logarithms: the slope to the middle is the slope to the end.
    slope = math.log(factor) / math.log(classes)
    assert counts[middle] == pytest.approx(largest * math.exp(-slope * math.log(middle + 1)), abs=1 + 1e-6)


def test_pareto_has_the_thinner_head() -> None:
    assert pareto_counts(1000, 50, 100).tolist()[:3] == [1000, 442, 274]
    assert (pareto_counts(1000, 50, 100) <= exponential_counts(1000, 50, 100)).all()
    assert pareto_counts(1000, 50, 100)[-1] == exponential_counts(1000, 50, 100)[-1] == 10


@pytest.mark.parametrize("factor", [0.5, 101, -1, math.nan, math.inf])
@pytest.mark.parametrize("decay", [exponential_counts, pareto_counts])
def test_factor_that_makes_no_set(decay: type, factor: float) -> None:
    with pytest.raises(UserError, match=r"--imbalance-factor .* makes no long-tailed set .* give 1 to 100"):
        decay(100, 10, factor)


def test_one_class() -> None:
    assert exponential_counts(7, 1, 3).tolist() == pareto_counts(7, 1, 3).tolist() == [7]
