"""Prepare the next batches on the pool of threads while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
Next = TypeVar("Next")


@dataclass(frozen=True)
class Pending(Generic[Value]):
    """A value whose memory is being filled, by tasks or by something else that `finish` waits for."""

    tasks: list[Future[None]]
    finish: Callable[[], Value]
    """Makes the value once all tasks have ended."""
    discard: Callable[[], object] = object
    """Gives back what the value holds, where nobody wants it any more; also after `finish` has failed."""

    def then(self, change: Callable[[Value], Next]) -> Pending[Next]:
        """The value that `change` makes of this one, in the thread that asks for the result."""
        return Pending(self.tasks, lambda: change(self.finish()), self.discard)

    def result(self) -> Value:
        """Wait for the tasks; raises the first error among them, once none is writing any more."""
        for task in self.tasks:
            task.exception()  # `wait` would wait for ever for one that a closing pool has dropped
        for task in self.tasks:
            task.result()
        return self.finish()

    def abandon(self) -> None:
        """Drop the tasks that have not begun, wait for those that have, and give back what they filled."""
        wait([task for task in self.tasks if not task.cancel()])
        self.discard()


def run_ahead(start: Callable[[Item], Pending[Value]], items: Iterable[Item], depth: int) -> Iterator[Value]:
    """Yield the values of `items` in their order, with up to `depth` more in preparation.

    Leaving early (break, close(), an exception) abandons what is in preparation and leaves nothing running.
    """
    pending: deque[Pending[Value]] = deque()
    try:
        for item in items:
            pending.append(start(item))
            if len(pending) > depth:
                yield _take(pending)
        while pending:
            yield _take(pending)
    finally:
        for each in pending:
            each.abandon()


def _take(pending: deque[Pending[Value]]) -> Value:
    """Wait for the first and remove it, in this order, so that Ctrl-C while waiting abandons it too."""
    value = pending[0].result()
    pending.popleft()
    return value
