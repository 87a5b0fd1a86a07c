"""The share of each rank, in training and in evaluation, and where to go on after a stop.

A global batch is cut into `world_size` contiguous shares, rank 0 first. The global batch itself never depends
on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.user_error import UserError


@dataclass(frozen=True)
class RankSlice:
    """One process among `world_size`."""

    rank: int
    """0-based."""
    world_size: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size

    @staticmethod
    def steps_per_epoch(num_images: int, global_batch: int) -> int:
        """Steps of an epoch, ceil(num_images / global_batch): the last batch is filled up."""
        assert num_images > 0 and global_batch > 0
        return -(-num_images // global_batch)

    @staticmethod
    def position(global_step: int, steps_per_epoch: int) -> tuple[int, int]:
        """Where training goes on after `global_step` finished steps: (epoch, step in epoch), 0-based."""
        return divmod(global_step, steps_per_epoch)

    def local_batch(self, global_batch: int) -> int:
        """Pairs of a global batch that are this rank's; `UserError` unless all ranks can have as many."""
        if global_batch < 1 or global_batch % self.world_size:
            raise UserError(
                f"the global batch of {global_batch} does not divide by {self.world_size} processes: "
                f"set optim.batch_size to a multiple of {self.world_size}"
            )
        return global_batch // self.world_size

    def train_places(self, step_in_epoch: int, steps: int, global_batch: int) -> NDArray[np.int64]:
        """This rank's places in steps [step_in_epoch, step_in_epoch + steps): (steps * L,) int64, step after
        step.

        L is the local batch; `.reshape(steps, L)` gives a row a step. Places beyond the number of images wrap
        around (`UniformStream`). Errors: as `local_batch`.
        """
        local = self.local_batch(global_batch)
        step_starts = np.arange(step_in_epoch, step_in_epoch + steps, dtype=np.int64) * global_batch
        share = np.arange(self.rank * local, (self.rank + 1) * local, dtype=np.int64)
        return (step_starts[:, None] + share).reshape(-1)

    def eval_share(
        self, num_images: int, local_batch: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """This rank's evaluation batches: pairs of indices (L,) int64 and counted (L,) bool, L =
        `local_batch`.

        Every rank gets as many batches, all full. Each image is counted exactly once over all ranks; the
        padding at the end of the set is image 0, not counted.
        """
        global_batch = local_batch * self.world_size
        for start in range(0, num_images, global_batch):
            first = start + self.rank * local_batch
            places = np.arange(first, first + local_batch, dtype=np.int64)
            counted = places < num_images
            yield np.where(counted, places, 0), counted
