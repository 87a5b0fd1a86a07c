"""Views by CPU threads for a GPU: into pinned memory, and from there on a copy stream while others are decoded.

Nothing of the GPU's multiprocessors is taken. A task decodes some images and sends them off at once, so that the
last copy is as small as the last task. A slot is the memory of one batch on both sides, with a stream of its own for
the copies in between, so that a copy that waits for its turn holds up those of no other batch:

- the device's side is written again when the batch that it held last has been read: the slot's stream waits for that;
- the host's side is written again when its copies are done: for that the training thread waits, before it gives the
  pool the next batch, and the pool's threads, which others need too, never do.

With P batches prepared ahead there are P + 1 slots. Copies into one wait for the readers of P + 1 batches ago, so the
host's wait begins when the device has P + 2 steps still to do: it bounds how far the host runs ahead, and never
leaves the device without work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.draws.views import ViewDraws
from pipelines.run_ahead import Pending
from pipelines.slot_ring import Lease, Shape, SlotRing
from pipelines.thread_pool import ThreadPool
from pipelines.view_sources import ViewSource
from pipelines.views import Views

Fill = Callable[[slice, NDArray[np.uint8]], None]
"""Makes the views (V, m, S, S, 3) of some rows of a batch."""


class Slot:
    """Views (V, n, S, S, 3) uint8 in pinned memory and on the device."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.pixels: NDArray[np.uint8] = self.pinned.numpy()
        self.views = torch.empty(shape, dtype=torch.uint8, device=device)
        self.copies = torch.cuda.Stream(device)
        """The stream of the copies from one to the other."""
        self.sent = torch.cuda.Event(blocking=True)
        """Recorded behind the copies of a batch. The host sleeps while it waits: the cores are the decoder's."""
        # the allocator thinks of PyTorch's stream: the copies begin after it, and their stream is named for the end
        self.copies.wait_stream(torch.cuda.current_stream(device))
        self.views.record_stream(self.copies)

    def send(self, rows: slice) -> None:
        """Copy rows of every view to the device; in a thread of the pool, which begins on device 0."""
        # the stream alone would leave such a thread with a context on device 0, some hundred MB of it a process
        with torch.cuda.device(self.copies.device), torch.cuda.stream(self.copies):
            for view, pinned in zip(self.views, self.pinned, strict=True):
                view[rows].copy_(pinned[rows], non_blocking=True)


class PinnedViews:
    """A `ViewFeed` for a CUDA device."""

    def __init__(self, source: ViewSource, size: int, pool: ThreadPool, device: torch.device) -> None:
        self.crops = source
        self.source = source
        self.size = size
        self.pool = pool
        self.device = device
        self.ring = SlotRing(lambda shape: Slot(shape, device))
        self.handed_out: dict[int, Lease[Slot]] = {}
        """By the address of the first view, until `release`."""

    def training(self, how: ViewDraws) -> Pending[Views]:
        """As `ViewFeed.training`."""
        plain = replace(how, colours=())
        views, n = how.flips.shape[1], len(how.indices)
        return self._submit((views, n), lambda rows, out: self.source.training_views(plain, rows, out))

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[Views]:
        """As `ViewFeed.evaluation`."""
        return self._submit(
            (1, len(indices)), lambda rows, out: self.source.evaluation_views(indices[rows], out[0])
        )

    def _submit(self, count: tuple[int, int], fill: Fill) -> Pending[Views]:
        lease = self.ring.take((*count, self.size, self.size, 3))
        slot = lease.memory
        slot.sent.synchronize()

        def make(start: int, stop: int) -> None:
            rows = slice(start, stop)
            fill(rows, slot.pixels[:, rows])
            slot.send(rows)

        tasks = self.pool.submit_slices(make, count[1], self.source.images_per_task)
        return Pending(tasks, lambda: self._receive(lease), lambda: self._end(lease))

    def release(self, views: Views) -> None:
        """As `ViewFeed.release`."""
        self._end(self.handed_out.pop(views[0].data_ptr()))

    def _receive(self, lease: Lease[Slot]) -> Views:
        """The views, ordered on PyTorch's current stream; all copies have been sent off by now."""
        slot = lease.memory
        torch.cuda.current_stream(self.device).wait_stream(slot.copies)
        self.handed_out[slot.views.data_ptr()] = lease
        return slot.views.unbind()

    def _end(self, lease: Lease[Slot]) -> None:
        """Let another batch have the slot, after the copies sent off and all that is on PyTorch's current stream."""
        if lease.ended:
            return
        slot = lease.memory
        slot.sent.record(slot.copies)
        slot.copies.wait_stream(torch.cuda.current_stream(self.device))
        lease.end()
