"""Cases take turns, warm-up does not count, and rows never mix augmentations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.measurement import (
    CROP_FLIP,
    NONE,
    OFFICIAL,
    Case,
    check_rows,
    find,
    rate,
    row_of,
    sum_up,
    times,
    values_in_turn,
)

ROW = row_of([30.0, 10.0, 80.0, 20.0], name="ours", metric="pairs", unit="pairs/s", augmentation=CROP_FLIP)


def test_a_row_sums_up_median_lowest_highest_and_runs() -> None:
    assert (ROW.median, ROW.min, ROW.max, ROW.runs) == (25.0, 10.0, 80.0, 4)


def test_cases_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def case(name: str, values: list[float]) -> Case:
        left = iter(values)

        def measure() -> float:
            order.append(name)
            return next(left)

        return Case(name=name, metric="m", unit="u", augmentation=NONE, measure=measure)

    cases = [case("a", [1000, 3, 1, 2]), case("b", [0, 7, 9, 8])]
    cold, warm = sum_up(cases, values_in_turn(cases, 3))
    assert order == ["a", "b"] * 4
    assert (cold.median, cold.min, cold.max, cold.runs) == (2, 1, 3, 3)
    assert (warm.median, warm.min, warm.max, warm.runs) == (8, 7, 9, 3)


def test_rate_counts_units_over_the_time_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.4, 100.8, 101.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert rate(lambda: 5, 1.0) == pytest.approx(15 / 1.25)


def test_times_compares_medians_of_one_augmentation_only() -> None:
    other = replace(ROW, name="theirs", median=10.0)
    assert times([ROW, other], "ours", "theirs", "pairs") == 2.5
    assert times([ROW], "ours", "theirs", "pairs") is None
    assert find([ROW], "ours", "crops") is None
    with pytest.raises(ValueError, match="cannot be compared"):
        times([ROW, replace(other, augmentation=OFFICIAL)], "ours", "theirs", "pairs")


@pytest.mark.parametrize(
    ("second", "message"),
    [(ROW, "two rows"), (replace(ROW, metric="crops", augmentation=OFFICIAL), "with and without")],
)
def test_contradicting_rows_are_refused(second: object, message: str) -> None:
    check_rows([ROW, replace(ROW, metric="crops")])
    with pytest.raises(ValueError, match=message):
        check_rows([ROW, second])
