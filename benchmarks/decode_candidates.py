"""Settings of a decoder that are tried against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.feed import Feed
from benchmarks.loader import SOURCES
from benchmarks.measurement import CROP_FLIP, Case, Row, sum_up, values_in_turn
from benchmarks.progress import Progress

RUNS = 5
METRIC = "source_decodes_per_second"


@dataclass(frozen=True)
class Candidate:
    """Settings to try."""

    name: str
    yaml: str
    """Lines for a configuration."""
    open: Callable[[], Feed]


def try_all(
    candidates: Sequence[Candidate], seconds: float, progress: Progress, runs: int = RUNS
) -> list[Row]:
    """Measure the candidates in turn and keep a row for each."""
    with ExitStack() as stack:
        cases = []
        for candidate in candidates:
            feed = candidate.open()
            stack.callback(feed.close)
            cases.append(_case(candidate, feed, seconds))
        values = values_in_turn(
            cases, runs, after_round=progress.rounds(lambda values: sum_up(cases, values))
        )
        rows = sum_up(cases, values)
    progress.keep(rows)
    return rows


def best_of(candidates: Sequence[Candidate], rows: Sequence[Row]) -> Candidate:
    """Return the candidate whose row, in the same place, has the highest median."""
    return candidates[max(range(len(rows)), key=lambda i: rows[i].median)]


def _case(candidate: Candidate, feed: Feed, seconds: float) -> Case:
    return Case(
        name=candidate.name,
        metric=METRIC,
        unit="images/s",
        augmentation=CROP_FLIP,
        measure=lambda: SOURCES * feed.run_from_idle(seconds).pairs_per_second,
    )
