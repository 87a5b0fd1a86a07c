"""Memory of batches that goes round: what is free, by shape, and what a batch holds.

A batch may come to its end twice: it is released, something after that fails, and then it is also discarded, when its
memory may long be another's. So a batch holds memory by a lease, which ends once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Memory = TypeVar("Memory")
Shape = tuple[int, ...]


class Lease(Generic[Memory]):
    """What one batch holds, from `SlotRing.take` until `end`."""

    def __init__(self, memory: Memory, free: deque[Memory]) -> None:
        self.memory = memory
        self._free: deque[Memory] | None = free

    @property
    def ended(self) -> bool:
        """Whether the memory may be another batch's by now."""
        return self._free is None

    def end(self) -> None:
        """Let another batch have the memory; nothing, where the lease has ended."""
        if self._free is not None:
            self._free.append(self.memory)
            self._free = None


class SlotRing(Generic[Memory]):
    """As much memory of each shape as batches of it have ever been on their way at once; all calls come in turn."""

    def __init__(self, make: Callable[[Shape], Memory]) -> None:
        self._make = make
        self._free: dict[Shape, deque[Memory]] = {}

    def take(self, shape: Shape) -> Lease[Memory]:
        """Memory of this shape: what has been free the longest, or new memory where none is."""
        free = self._free.setdefault(shape, deque())
        return Lease(free.popleft() if free else self._make(shape), free)
