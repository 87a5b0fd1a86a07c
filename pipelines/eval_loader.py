"""Every image of a set once over all ranks: decode, cut the middle, normalise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import EvalBatch
from pipelines.beton.reader import BetonFile
from pipelines.draws.views import ViewSettings
from pipelines.image_backend import ImageBackend
from pipelines.rank_slice import RankSlice
from pipelines.read_ahead import STEPS_AHEAD, open_read_ahead
from pipelines.run_ahead import Pending, run_ahead

LOOK_AHEAD = 2
"""Batches prepared ahead of the forward pass."""


class EvalLoader:
    """An evaluation set for one rank; iterating it any number of times gives the same batches."""

    def __init__(
        self,
        beton: BetonFile,
        settings: ViewSettings,
        ranks: RankSlice,
        images: ImageBackend,
        *,
        local_batch: int,
        device: torch.device,
    ) -> None:
        self.beton = beton
        self.ranks = ranks
        self.images = images
        self.local_batch = local_batch
        self.device = device
        self.read_ahead = open_read_ahead(beton, settings)

    def __iter__(self) -> Iterator[EvalBatch]:
        share = self.ranks.eval_share(self.beton.num_images, self.local_batch)
        return run_ahead(self._start, share, LOOK_AHEAD)

    def _start(self, share: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> Pending[EvalBatch]:
        indices, counted = share
        later = indices + STEPS_AHEAD * self.local_batch * self.ranks.world_size
        self.read_ahead(later[later < self.beton.num_images])
        labels = torch.from_numpy(self.beton.labels[indices])
        return self.images.evaluation(indices).then(
            lambda images: EvalBatch(images, labels, torch.from_numpy(counted)).to(self.device)
        )
