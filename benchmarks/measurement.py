"""Rows of figures, and the timing of several cases in turn.

A machine is never quite quiet, so cases that are to be compared take turns: run 1 of each, then run 2 of each,
and so on. What slows the machine for a while then slows all of them, and the spread of a row says how much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

CROP_FLIP = "crop-flip"
"""RandomResizedCrop and a mirror image for half of the views: every view is changed in this way."""
OFFICIAL = "crop-flip-jitter-gray-blur"
"""The official ImageNet-LT recipe: the same with colour jitter, grayscale and blur."""
NONE = "none"
"""What is measured changes no picture."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure with its spread."""

    name: str
    """What was measured."""
    metric: str
    """What of it, `pairs_per_second` say; one (name, metric) is one row."""
    unit: str
    median: float
    min: float
    max: float
    runs: int
    """How many values the median is of."""
    augmentation: str
    """What was done to the pictures; figures are comparable only where this is the same."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to be measured again and again."""

    name: str
    metric: str
    unit: str
    augmentation: str
    measure: Callable[[], float]
    """One run; returns its figure in `unit`."""


def row_of(values: Sequence[float], *, name: str, metric: str, unit: str, augmentation: str = NONE) -> Row:
    """Sum up the figures of one case."""
    return Row(
        name=name,
        metric=metric,
        unit=unit,
        median=float(median(values)),
        min=float(min(values)),
        max=float(max(values)),
        runs=len(values),
        augmentation=augmentation,
    )


AfterRound = Callable[[list[list[float]]], bool]
"""(values by case up to now) -> whether to go on."""


def values_in_turn(
    cases: Sequence[Case], runs: int, *, warm_up: int = 1, after_round: AfterRound | None = None
) -> list[list[float]]:
    """Measure each case `runs` times, in turn, after `warm_up` runs of each that do not count: values by case.

    `after_round` is asked each time that all cases have one value more.
    """
    values: list[list[float]] = [[] for _ in cases]
    for run in range(-warm_up, runs):
        for case, of_case in zip(cases, values, strict=True):
            value = case.measure()
            if run >= 0:
                of_case.append(value)
        if run >= 0 and after_round is not None and not after_round(values):
            break
    return values


def sum_up(cases: Sequence[Case], values: Sequence[Sequence[float]]) -> list[Row]:
    """Sum up the values of each case in a row."""
    return [
        row_of(each, name=case.name, metric=case.metric, unit=case.unit, augmentation=case.augmentation)
        for case, each in zip(cases, values, strict=True)
    ]


def rate(step: Callable[[], int], seconds: float) -> float:
    """Call `step`, which returns how many units it made, until `seconds` are over: units a second."""
    units, start = 0, time.perf_counter()
    while True:
        units += step()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return units / elapsed


def find(rows: Iterable[Row], name: str, metric: str) -> Row | None:
    """Return the row of this name and metric, or None where it was not measured."""
    return next((row for row in rows if (row.name, row.metric) == (name, metric)), None)


def times(rows: Sequence[Row], name: str, other: str, metric: str) -> float | None:
    """How many times the median of `other` that of `name` is; None where one of them was not measured."""
    row, base = find(rows, name, metric), find(rows, other, metric)
    if row is None or base is None:
        return None
    if row.augmentation != base.augmentation:
        raise ValueError(f"{name} ({row.augmentation}) and {other} ({base.augmentation}) cannot be compared")
    return row.median / base.median


def check_rows(rows: Iterable[Row]) -> None:
    """Refuse rows that say two things of one (name, metric), or mix augmentations under one name."""
    seen: set[tuple[str, str]] = set()
    augmentations: dict[str, str] = {}
    for row in rows:
        if (row.name, row.metric) in seen:
            raise ValueError(f"two rows {row.name} of {row.metric}")
        seen.add((row.name, row.metric))
        if augmentations.setdefault(row.name, row.augmentation) != row.augmentation:
            raise ValueError(f"rows of {row.name} with and without {row.augmentation}")
