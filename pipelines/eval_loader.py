"""Every image of a set once over all ranks: decode, cut the middle, normalise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import EvalBatch
from pipelines.beton_reader import BetonFile
from pipelines.mix_cpu import normalise_into
from pipelines.rank_slice import RankSlice
from pipelines.run_ahead import Pending, run_ahead
from pipelines.thread_pool import ThreadPool
from pipelines.view_draws import ViewSettings
from pipelines.view_sources import open_views

LOOK_AHEAD = 2
"""Batches prepared ahead of the forward pass."""


class EvalLoader:
    """An evaluation set for one rank; iterating it any number of times gives the same batches."""

    def __init__(
        self,
        beton: BetonFile,
        settings: ViewSettings,
        ranks: RankSlice,
        pool: ThreadPool,
        *,
        local_batch: int,
        device: torch.device,
    ) -> None:
        self.beton = beton
        self.settings = settings
        self.ranks = ranks
        self.pool = pool
        self.local_batch = local_batch
        self.device = device
        self.views = open_views(beton, settings)

    def __iter__(self) -> Iterator[EvalBatch]:
        share = self.ranks.eval_share(self.beton.num_images, self.local_batch)
        return run_ahead(self._start, share, LOOK_AHEAD)

    def _start(self, share: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> Pending[EvalBatch]:
        indices, counted = share
        size, n, per_task = self.settings.size, len(indices), self.views.images_per_task
        memory = torch.empty((n, size, size, 3), pin_memory=self.device.type == "cuda")
        out = memory.numpy()

        def fill(rows: slice) -> None:
            views = np.empty(out[rows].shape, np.uint8)
            self.views.evaluation_views(indices[rows], views)
            normalise_into(views, self.settings.mean, self.settings.std, out[rows])

        tasks = [
            self.pool.submit(fill, slice(start, min(start + per_task, n))) for start in range(0, n, per_task)
        ]
        batch = EvalBatch(
            memory.permute(0, 3, 1, 2),
            torch.from_numpy(self.beton.labels[indices]),
            torch.from_numpy(counted),
        )
        return Pending(tasks, lambda: batch.to(self.device))
