"""Order, draws, decode, augment, mix -> the batches of a run. The whole state is the step.

A task of the pool makes a slice of pairs from bytes to normalised images, so that the uint8 views of a pair
stay in the cache of the core that mixes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import Batch
from pipelines.beton_reader import BetonFile
from pipelines.draws import Draw
from pipelines.mix_cpu import mix_into, normalise_into
from pipelines.mixing_draws import MixDraws, MixSettings, draw_mixing
from pipelines.rank_slice import RankSlice
from pipelines.run_ahead import Pending, run_ahead
from pipelines.samplers import ReversedStream, UniformStream
from pipelines.thread_pool import ThreadPool
from pipelines.view_draws import ViewDraws, ViewSettings, draw_views
from pipelines.view_sources import ViewSource, open_views

UNIFORM, REVERSED = 0, 1
"""Streams a and b, as `Draw.stream` counts them."""


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """What every training loader is told."""

    view: ViewSettings
    seed: int
    epochs: int
    global_batch: int
    """N, source pairs (or plain images) of a step over all ranks."""
    prefetch: int
    """Batches prepared ahead."""
    device: torch.device
    """Where the batches go."""


@dataclass(frozen=True)
class Batches:
    """The batches of steps `first_step` on, an ordinary iterable; each `iter()` starts there again."""

    loader: TrainLoader
    first_step: int

    @property
    def steps(self) -> range:
        """None, if a run goes on with fewer epochs than it already has behind it."""
        return range(self.first_step, self.loader.total_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        return run_ahead(self.loader.start, self.steps, self.loader.settings.prefetch)


class TrainLoader(ABC):
    """Batches of one beton for one rank."""

    def __init__(
        self, beton: BetonFile, settings: LoaderSettings, ranks: RankSlice, pool: ThreadPool
    ) -> None:
        self.settings = settings
        self.ranks = ranks
        self.pool = pool
        self.labels = beton.labels
        self.views: ViewSource = open_views(beton, settings.view)
        self.uniform = UniformStream(beton.num_images, settings.seed)
        self.local_batch = ranks.local_batch(settings.global_batch)
        self.steps_per_epoch = ranks.steps_per_epoch(beton.num_images, settings.global_batch)

    def __len__(self) -> int:
        return self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.settings.epochs * self.steps_per_epoch

    def batches(self, first_step: int = 0) -> Batches:
        """The batches from step `first_step` (0-based, over all epochs) to the end of the last epoch."""
        return Batches(self, first_step)

    @abstractmethod
    def start(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and hand its slices to the pool."""

    def draw_at(self, step: int) -> Draw:
        """Seed, epoch and this rank's places of a step."""
        epoch, step_in_epoch = self.ranks.position(step, self.steps_per_epoch)
        places = self.ranks.train_places(step_in_epoch, 1, self.settings.global_batch)
        return Draw(self.settings.seed, epoch, places)

    def submit(
        self, fill: Callable[[slice, NDArray[np.float32]], None], views: int, pairs_per_task: int
    ) -> tuple[list[Future[None]], torch.Tensor]:
        """Give the pool the slices of a batch; returns the tasks and the (V·N, 3, S, S) images they fill.

        `fill(rows, out)` makes the images (V, m, S, S, 3) float32 of the given rows.
        """
        size, n = self.settings.view.size, self.local_batch
        memory = torch.empty((views, n, size, size, 3), pin_memory=self.settings.device.type == "cuda")
        out = memory.numpy()
        starts = range(0, n, pairs_per_task)
        slices = [slice(start, min(start + pairs_per_task, n)) for start in starts]
        tasks = [self.pool.submit(fill, rows, out[:, rows]) for rows in slices]
        # memory that is dense in (image, y, x, channel) order is what PyTorch calls channels-last
        return tasks, memory.view(views * n, size, size, 3).permute(0, 3, 1, 2)


class PlainLoader(TrainLoader):
    """One view of each image of the uniform stream, not mixed: λ = 1."""

    def start(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and hand its slices to the pool."""
        draw = self.draw_at(step)
        indices = self.uniform.indices(draw.epoch, draw.places)
        how = draw_views(draw, indices, 1, self.settings.view, self.views)
        view = self.settings.view

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            views = np.empty(out.shape, np.uint8)
            self.views.training_views(how, rows, views)
            normalise_into(views[0], view.mean, view.std, out[0])

        tasks, images = self.submit(fill, 1, self.views.images_per_task)
        label = torch.from_numpy(self.labels[indices])
        batch = Batch(images, label, label, torch.ones(1, len(label)))
        return Pending(tasks, lambda: batch.to(self.settings.device))


class PairedLoader(TrainLoader):
    """Image i of the uniform stream with image i of the reversed one, as a MixUp and a CutMix image."""

    def __init__(
        self,
        beton: BetonFile,
        settings: LoaderSettings,
        ranks: RankSlice,
        pool: ThreadPool,
        *,
        q: float,
        mix: MixSettings,
    ) -> None:
        super().__init__(beton, settings, ranks, pool)
        self.reversed = ReversedStream(beton.labels, q, settings.seed)
        self.mix = mix

    def draw_step(self, step: int) -> tuple[ViewDraws, ViewDraws, MixDraws]:
        """All chance of a step: the views of stream a, those of stream b, and how they are mixed."""
        a = self.draw_at(step)
        b = Draw(a.seed, a.epoch, a.places, stream=REVERSED)
        view = self.settings.view
        views_a = draw_views(a, self.uniform.indices(a.epoch, a.places), 2, view, self.views)
        views_b = draw_views(b, self.reversed.indices(b.epoch, b.places), 2, view, self.views)
        mixing = draw_mixing(
            a, self.mix, height=view.size, width=view.size, global_batch=self.settings.global_batch
        )
        return views_a, views_b, mixing

    def start(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and hand its slices to the pool."""
        how_a, how_b, mixing = self.draw_step(step)
        view = self.settings.view

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            views_a, views_b = np.empty((2, *out.shape), np.uint8)
            self.views.training_views(how_a, rows, views_a)
            self.views.training_views(how_b, rows, views_b)
            mix_into(
                views_a,
                views_b,
                mixing.lam_mix[rows],
                mixing.cut_boxes[rows],
                view.mean,
                view.std,
                out[0],
                out[1],
            )

        tasks, images = self.submit(fill, 2, self.views.images_per_task // 2)
        batch = Batch(
            images,
            torch.from_numpy(self.labels[how_a.indices]),
            torch.from_numpy(self.labels[how_b.indices]),
            torch.from_numpy(np.stack([mixing.lam_mix, mixing.lam_cut])),
        )
        return Pending(tasks, lambda: batch.to(self.settings.device))
