"""How far a benchmark is: what it has measured up to now, which is in its file at once, and the time that it has left.

A stage on a borrowed machine may be ended at any moment: what it had measured by then must not be lost with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from benchmarks.measurement import AfterRound, Row, row_of

UNFINISHED = "unfinished"
"""Metric of a row that stands in a file only while its benchmark is at work, or where it was ended then."""


def unfinished(benchmark: str) -> Row:
    """Return the row that says so."""
    return row_of([1], name=benchmark, metric=UNFINISHED, unit="benchmark")


def write_nothing(rows: Sequence[Row]) -> None:
    """Keep rows in memory only."""


class Progress:
    """The rows of a benchmark, written as they come, and its time."""

    def __init__(
        self, write: Callable[[Sequence[Row]], None] = write_nothing, minutes: float | None = None
    ) -> None:
        """`write` replaces the file by the rows it is given; without `minutes` time never ends."""
        self.rows: list[Row] = []
        """All that is measured."""
        self._write = write
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        write(self.rows)  # no figure of an older file may stand for one of this run

    def keep(self, rows: Sequence[Row]) -> None:
        """Add rows that are complete."""
        self.rows += rows
        self._write(self.rows)

    def show(self, rows: Sequence[Row]) -> None:
        """Write rows of runs that still go on; what is written next replaces them."""
        self._write([*self.rows, *rows])

    def seconds_left(self) -> float:
        """Return the time left, below 0 once it is over."""
        return self._end - time.monotonic()

    def rounds(
        self, rows_so_far: Callable[[list[list[float]]], Sequence[Row]], *, warm_up: int = 1
    ) -> AfterRound:
        """Return what `values_in_turn` is to call: it shows the rows, and ends the runs when time is short.

        `warm_up` is how many rounds come before those that count.
        """
        start, rounds = time.monotonic(), warm_up

        def after_round(values: list[list[float]]) -> bool:
            nonlocal rounds
            rounds += 1
            self.show(rows_so_far(values))
            return (time.monotonic() - start) / rounds < self.seconds_left()

        return after_round
