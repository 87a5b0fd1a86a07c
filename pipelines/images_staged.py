"""Images in two stages: all uint8 views of a step, wherever they are made; then augment and mix, where they lie.

One batch of the first stage holds the 2N source images of a step, first those of stream a.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import CropDraws, ViewDraws
from pipelines.run_ahead import Pending
from pipelines.views import Views


class ViewFeed(Protocol):
    """The first stage: uint8 views of the images of one set, on one device, their colours as they are."""

    @property
    def crops(self) -> CropDraws:
        """How a crop of this set is drawn."""

    def training(self, how: ViewDraws) -> Pending[Views]:
        """V views (n, S, S, 3) uint8 of each of n images, free to be changed."""

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[Views]:
        """One view (n, S, S, 3) uint8: the middle of each of n images."""

    def release(self, views: Views) -> None:
        """Take views back, once, whose readers are done, or in order on PyTorch's current stream.

        Until then nothing else writes to them; after, the feed may."""


class MixStage(Protocol):
    """The second stage, on the device of the views: changes colours in place where the recipe asks, and mixes."""

    def mix(
        self,
        views: Views,
        how_a: ViewDraws,
        how_b: ViewDraws,
        mixing: MixDraws,
    ) -> torch.Tensor:
        """Two views (2 n, S, S, 3) uint8 of n images of a, then of b -> as `ImageBackend.pairs`."""

    def normalise(self, views: Views, how: ViewDraws | None) -> torch.Tensor:
        """One view (n, S, S, 3) uint8 -> (n, 3, S, S); `how` holds the colours, None in evaluation."""


class StagedImages:
    """A feed of views and what mixes them: an `ImageBackend`."""

    def __init__(self, feed: ViewFeed, stage: MixStage) -> None:
        self.crops = feed.crops
        self.feed = feed
        self.stage = stage

    def pairs(self, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.pairs`."""
        both = ViewDraws(
            indices=np.concatenate([how_a.indices, how_b.indices]),
            crops=np.concatenate([how_a.crops, how_b.crops]),
            flips=np.concatenate([how_a.flips, how_b.flips]),
            colours=(),
        )

        def mix(views: Views) -> torch.Tensor:
            images = self.stage.mix(views, how_a, how_b, mixing)
            self.feed.release(views)
            return images

        return self.feed.training(both).then(mix)

    def plain(self, how: ViewDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.plain`."""
        return self.feed.training(how).then(lambda views: self._normalise(views, how))

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[torch.Tensor]:
        """As `ImageBackend.evaluation`."""
        return self.feed.evaluation(indices).then(lambda views: self._normalise(views, None))

    def _normalise(self, views: Views, how: ViewDraws | None) -> torch.Tensor:
        images = self.stage.normalise(views, how)
        self.feed.release(views)
        return images
