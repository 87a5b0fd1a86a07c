"""Slices of a range through threads: a few are ahead, and the results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Protocol):
    """What runs tasks: a plain executor, or a `ThreadPool`."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn` in one of the threads."""


def in_turn(
    pool: Threads,
    function: Callable[[int, int], T],
    first: int,
    end: int,
    step: int,
    ahead: int = 8,
) -> Iterator[T]:
    """Yield `function(start, stop)` of the slices of [first, end), at most `ahead` of them before their turn."""
    waiting: deque[Future[T]] = deque()
    for start in range(first, end, step):
        waiting.append(pool.submit(function, start, min(start + step, end)))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
