"""Images by CPU threads alone: a task makes a slice of a batch from bytes to normalised images.

So the uint8 views of a pair stay in the cache of the core that mixes them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch_memory import BatchMemory
from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.mix_cpu import mix_into, normalise_into
from pipelines.run_ahead import Pending
from pipelines.thread_pool import ThreadPool
from pipelines.view_sources import ViewSource

Fill = Callable[[slice, NDArray[np.float32]], None]
"""Makes the images (V, m, S, S, 3) float32 of some rows of a batch."""


class CpuImages:
    """float32 images in the host's memory: an `ImageBackend`."""

    def __init__(self, source: ViewSource, view: ViewSettings, pool: ThreadPool) -> None:
        self.crops = source
        self.source = source
        self.view = view
        self.pool = pool
        self.memory = BatchMemory()

    def pairs(self, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.pairs`."""

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            views_a, views_b = np.empty((2, *out.shape), np.uint8)
            self.source.training_views(how_a, rows, views_a)
            self.source.training_views(how_b, rows, views_b)
            mix_into(
                tuple(views_a),
                tuple(views_b),
                mixing.lam_mix[rows],
                mixing.cut_boxes[rows],
                self.view.mean,
                self.view.std,
                out[0],
                out[1],
            )

        return self._submit(fill, 2, len(how_a.indices), self.source.images_per_task // 2)

    def plain(self, how: ViewDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.plain`."""

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            views = np.empty(out.shape, np.uint8)
            self.source.training_views(how, rows, views)
            normalise_into(views[0], self.view.mean, self.view.std, out[0])

        return self._submit(fill, 1, len(how.indices), self.source.images_per_task)

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[torch.Tensor]:
        """As `ImageBackend.evaluation`."""

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            views = np.empty(out.shape[1:], np.uint8)
            self.source.evaluation_views(indices[rows], views)
            normalise_into(views, self.view.mean, self.view.std, out[0])

        return self._submit(fill, 1, len(indices), self.source.images_per_task)

    def _submit(self, fill: Fill, views: int, n: int, per_task: int) -> Pending[torch.Tensor]:
        """Give the pool the slices of a batch of n pairs or images."""
        images, out = self.memory.images(views, n, self.view.size)

        def fill_slice(start: int, stop: int) -> None:
            fill(slice(start, stop), out[:, start:stop])

        return Pending(self.pool.submit_slices(fill_slice, n, per_task), lambda: images)
