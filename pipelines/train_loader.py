"""Order, draws, images, labels -> the batches of a run. The whole state is the step.

A step reads: draw which images and how (the only chance there is), let the backend make views of them and mix these,
add the labels. image_backend.py names the backends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import Batch
from pipelines.beton.reader import BetonFile
from pipelines.draws.draw import Draw
from pipelines.draws.mixing import MixDraws, MixSettings, draw_mixing
from pipelines.draws.samplers import ReversedStream, UniformStream
from pipelines.draws.views import ViewDraws, ViewSettings, draw_views
from pipelines.image_backend import ImageBackend
from pipelines.rank_slice import RankSlice
from pipelines.read_ahead import STEPS_AHEAD, open_read_ahead
from pipelines.run_ahead import Pending, run_ahead

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
        self, beton: BetonFile, settings: LoaderSettings, ranks: RankSlice, images: ImageBackend
    ) -> None:
        self.settings = settings
        self.ranks = ranks
        self.images = images
        self.labels = beton.labels
        self.read_ahead = open_read_ahead(beton, settings.view)
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

    def start(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and begin to make it; ask for the bytes of a later one."""
        if step + STEPS_AHEAD < self.total_steps:
            self.read_ahead(self.images_of(self.draw_at(step + STEPS_AHEAD)))
        return self.make(step)

    @abstractmethod
    def make(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and begin to make it."""

    @abstractmethod
    def images_of(self, draw: Draw) -> NDArray[np.int64]:
        """Which source images a step shows."""

    def draw_at(self, step: int, steps: int = 1) -> Draw:
        """Seed, epoch and this rank's places of a step, or of several of one epoch."""
        epoch, step_in_epoch = self.ranks.position(step, self.steps_per_epoch)
        places = self.ranks.train_places(step_in_epoch, steps, self.settings.global_batch)
        return Draw(self.settings.seed, epoch, places)

    def batch(
        self, images: Pending[torch.Tensor], a: ViewDraws, b: ViewDraws, lam: NDArray[np.float32]
    ) -> Pending[Batch]:
        """The images of a step with their labels and weights (V, n)."""
        label_a, label_b = (torch.from_numpy(self.labels[how.indices]) for how in (a, b))
        weights, device = torch.from_numpy(lam), self.settings.device
        return images.then(lambda made: Batch(made, label_a, label_b, weights).to(device))


class PlainLoader(TrainLoader):
    """One view of each image of the uniform stream, not mixed: λ = 1."""

    def make(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and begin to make it."""
        how = self.draw_step(step)
        return self.batch(self.images.plain(how), how, how, np.ones((1, self.local_batch), np.float32))

    def draw_step(self, step: int, steps: int = 1) -> ViewDraws:
        """All chance of a step, or of several of one epoch."""
        draw = self.draw_at(step, steps)
        return draw_views(draw, self.images_of(draw), 1, self.settings.view, self.images.crops)

    def images_of(self, draw: Draw) -> NDArray[np.int64]:
        """Which source images a step shows."""
        return self.uniform.indices(draw.epoch, draw.places)


class PairedLoader(TrainLoader):
    """Image i of the uniform stream with image i of the reversed one, as a MixUp and a CutMix image."""

    def __init__(
        self,
        beton: BetonFile,
        settings: LoaderSettings,
        ranks: RankSlice,
        images: ImageBackend,
        *,
        q: float,
        mix: MixSettings,
    ) -> None:
        super().__init__(beton, settings, ranks, images)
        self.reversed = ReversedStream(beton.labels, q, settings.seed)
        self.mix = mix

    def make(self, step: int) -> Pending[Batch]:
        """Draw everything of a step and begin to make it."""
        how_a, how_b, mixing = self.draw_step(step)
        images = self.images.pairs(how_a, how_b, mixing)
        return self.batch(images, how_a, how_b, np.stack([mixing.lam_mix, mixing.lam_cut]))

    def draw_step(self, step: int, steps: int = 1) -> tuple[ViewDraws, ViewDraws, MixDraws]:
        """All chance of a step, or of several of one epoch: views of stream a, of stream b, and how they are mixed."""
        a = self.draw_at(step, steps)
        b = Draw(a.seed, a.epoch, a.places, stream=REVERSED)
        view, crops = self.settings.view, self.images.crops
        views_a = draw_views(a, self.uniform.indices(a.epoch, a.places), 2, view, crops)
        views_b = draw_views(b, self.reversed.indices(b.epoch, b.places), 2, view, crops)
        mixing = draw_mixing(
            a, self.mix, height=view.size, width=view.size, global_batch=self.settings.global_batch
        )
        return views_a, views_b, mixing

    def images_of(self, draw: Draw) -> NDArray[np.int64]:
        """Which source images a step shows, first those of stream a."""
        streams = (self.uniform, self.reversed)
        return np.concatenate([stream.indices(draw.epoch, draw.places) for stream in streams])
