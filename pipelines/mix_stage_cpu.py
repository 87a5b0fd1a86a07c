"""Augment and mix on CPU threads, after all views of a batch are there: for those that DALI's CPU operators make.

Where the threads decode too, images_cpu.py does without a stage.
"""

from __future__ import annotations

import torch

from pipelines.augment_cpu import augment_into
from pipelines.batch_memory import BatchMemory
from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.mix_cpu import mix_into, normalise_into
from pipelines.thread_pool import ThreadPool
from pipelines.views import Views

IMAGES_PER_TASK = 8
"""Mixing 8 pairs of 224 x 224 takes half a millisecond."""


class CpuMixStage:
    """The loops of mix_cpu.py over slices of a batch: a `MixStage` that waits for its tasks."""

    def __init__(self, view: ViewSettings, pool: ThreadPool) -> None:
        self.view = view
        self.pool = pool
        self.memory = BatchMemory()

    def mix(self, views: Views, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> torch.Tensor:
        """As `MixStage.mix`."""
        n = len(how_a.indices)
        pixels = [view.numpy() for view in views]
        views_a, views_b = [view[:n] for view in pixels], [view[n:] for view in pixels]
        memory, out = self.memory.images(2, n, self.view.size)

        def mix_slice(start: int, stop: int) -> None:
            rows = slice(start, stop)
            for part, how in ((views_a, how_a), (views_b, how_b)):
                for view, colour in zip(part, how.colours, strict=False):
                    augment_into(view[rows], colour, start)
            mix_into(
                [view[rows] for view in views_a],
                [view[rows] for view in views_b],
                mixing.lam_mix[rows],
                mixing.cut_boxes[rows],
                self.view.mean,
                self.view.std,
                out[0, rows],
                out[1, rows],
            )

        self.pool.map_slices(mix_slice, n, IMAGES_PER_TASK)
        return memory

    def normalise(self, views: Views, how: ViewDraws | None) -> torch.Tensor:
        """As `MixStage.normalise`."""
        pixels = views[0].numpy()
        memory, out = self.memory.images(1, len(pixels), self.view.size)

        def normalise_slice(start: int, stop: int) -> None:
            for colour in how.colours if how is not None else ():
                augment_into(pixels[start:stop], colour, start)
            normalise_into(pixels[start:stop], self.view.mean, self.view.std, out[0, start:stop])

        self.pool.map_slices(normalise_slice, len(pixels), IMAGES_PER_TASK)
        return memory
