"""Views by CPU threads for a GPU: into pinned memory, and from there on a copy stream while others are decoded.

Nothing of the GPU's multiprocessors is taken. A task decodes some images and sends them off at once, so that the
last copy is as small as the last task. A slot is the memory of one batch on both sides; events say when it may be
written again, so neither the host nor PyTorch's stream waits for more than it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.run_ahead import Pending
from pipelines.thread_pool import ThreadPool
from pipelines.view_draws import ViewDraws
from pipelines.view_sources import ViewSource
from pipelines.views import Views

Fill = Callable[[slice, NDArray[np.uint8]], None]
"""Makes the views (V, m, S, S, 3) of some rows of a batch."""


class Slot:
    """Views (V, n, S, S, 3) uint8 in pinned memory and on the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.pixels: NDArray[np.uint8] = self.pinned.numpy()
        self.views = torch.empty(shape, dtype=torch.uint8, device=device)
        self.sent = torch.cuda.Event()
        """Recorded once all copies of a batch are on the copy stream."""
        self.used = torch.cuda.Event()
        """Recorded once all that reads the views is on the stream that reads them."""


class PinnedViews:
    """A `ViewFeed` for a CUDA device."""

    def __init__(self, source: ViewSource, size: int, pool: ThreadPool, device: torch.device) -> None:
        self.crops = source
        self.source = source
        self.size = size
        self.pool = pool
        self.device = device
        self.copy_stream = torch.cuda.Stream(device)
        self.free: dict[tuple[int, ...], list[Slot]] = {}
        """By shape; as many slots exist as batches have ever been on their way at once."""
        self.handed_out: dict[int, Slot] = {}
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
        slot = self._free_slot((*count, self.size, self.size, 3))
        per_task = self.source.images_per_task

        def make(rows: slice) -> None:
            fill(rows, slot.pixels[:, rows])
            with torch.cuda.stream(self.copy_stream):
                for view, pinned in zip(slot.views, slot.pinned, strict=True):
                    view[rows].copy_(pinned[rows], non_blocking=True)

        starts = range(0, count[1], per_task)
        tasks = [self.pool.submit(make, slice(start, min(start + per_task, count[1]))) for start in starts]
        return Pending(tasks, lambda: self._receive(slot), lambda: self._give_back(slot))

    def release(self, views: Views) -> None:
        """As `ViewFeed.release`."""
        slot = self.handed_out.pop(views[0].data_ptr())
        slot.used.record(torch.cuda.current_stream(self.device))
        self.free.setdefault(tuple(slot.views.shape), []).append(slot)

    def _receive(self, slot: Slot) -> Views:
        """The views, ordered on PyTorch's current stream; all copies have been sent off by now."""
        slot.sent.record(self.copy_stream)
        torch.cuda.current_stream(self.device).wait_event(slot.sent)
        self.handed_out[slot.views.data_ptr()] = slot
        return slot.views.unbind()

    def _give_back(self, slot: Slot) -> None:
        """Free the slot of a batch that nobody wants, once the copies that have been sent off are done."""
        slot.sent.record(self.copy_stream)
        self.handed_out.pop(slot.views.data_ptr(), None)
        self.free.setdefault(tuple(slot.views.shape), []).append(slot)

    def _free_slot(self, shape: tuple[int, ...]) -> Slot:
        """The slot that has been free the longest, or a new one."""
        free = self.free.get(shape)
        if not free:
            return self._new_slot(shape)
        slot = free.pop(0)
        slot.sent.synchronize()  # its copies were sent off a batch ago or more, so the host does not wait here
        self.copy_stream.wait_event(slot.used)
        return slot

    def _new_slot(self, shape: tuple[int, ...]) -> Slot:
        slot = Slot(shape, self.device)
        # the allocator thinks of PyTorch's stream: the copy stream begins after it, and is named for the end
        self.copy_stream.wait_stream(torch.cuda.current_stream(self.device))
        slot.views.record_stream(self.copy_stream)
        return slot
