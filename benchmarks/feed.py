"""A feed: batches of pairs without end, from our loaders or from another library, and how fast they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """One timed run."""

    pairs_per_second: float
    cores_used: float
    """CPU time of this process over wall time; other processes (a DataLoader's workers) are not in it."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Batches of pairs without end. A pair is two source images, each decoded and cropped twice."""

    batches: Iterator[object]
    """What a batch is made of differs; it is in memory whole when the iterator gives it."""
    pairs: int
    """Of a batch."""
    ahead: int
    """Batches that may wait ready while nobody asks for one."""
    close: Callable[[], None]
    """Ends its threads and processes."""

    def run_from_idle(self, seconds: float) -> Timed:
        """Time batches for `seconds`, once those that lay ready are gone, and let the feed become idle again."""
        for _ in range(self.ahead):
            next(self.batches)
        timed = self.run(seconds)
        # What it prepares now must not fall into the run of the next feed.
        time.sleep((self.ahead + 1) * self.pairs / timed.pairs_per_second)
        return timed

    def run(self, seconds: float) -> Timed:
        """Time batches for `seconds` from the end of the next batch on; nothing may lie ready."""
        next(self.batches)
        pairs, cpu, start = 0, time.process_time(), time.perf_counter()
        while True:
            next(self.batches)
            pairs += self.pairs
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                break
        return Timed(pairs / elapsed, (time.process_time() - cpu) / elapsed)
