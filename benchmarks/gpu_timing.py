"""How long launches take on a GPU, by CUDA events, each on data that is not in the L2 cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from statistics import median

import torch

LAUNCHES = 20
"""Timed between two synchronisations."""
BUSY_BYTES = 1 << 28
"""Copied a few times before them, so that the host runs ahead and no launch waits for it."""
BUSY_COPIES = 16
TIMES_L2 = 4
"""How much more than the cache the data sets in turn hold."""


def sets_that_leave_the_cache(bytes_of_set: int) -> int:
    """How many sets of data, used in turn, are cold whenever their turn comes; at least 2."""
    cache = torch.cuda.get_device_properties().L2_cache_size
    return max(2, -(-TIMES_L2 * cache // bytes_of_set))


def microseconds(launches: list[Callable[[], object]], seconds: float) -> float:
    """Make the launches in turn for `seconds`, LAUNCHES at least; the median of the times of one."""
    source = torch.empty(BUSY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times: list[float] = []
    turn = cycle(launches)
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        for _ in range(BUSY_COPIES):
            target.copy_(source)
        events = []
        for _ in range(LAUNCHES):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            next(turn)()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        times += [1000 * start.elapsed_time(end) for start, end in events]
    return median(times)
