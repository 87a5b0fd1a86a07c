"""Views of a batch by two feeds at once: CPU threads make some of its images, DALI the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.draws.views import ViewDraws
from pipelines.images_staged import ViewFeed
from pipelines.run_ahead import Pending
from pipelines.views import Views

Part = tuple[ViewFeed, Pending[Views]]


class SplitViews:
    """A `ViewFeed`: the first `share` of each batch comes from one feed, the rest from another, on one device."""

    def __init__(self, first: ViewFeed, rest: ViewFeed, share: float) -> None:
        self.crops = first.crops
        self.feeds = (first, rest)
        self.share = share

    def training(self, how: ViewDraws) -> Pending[Views]:
        """As `ViewFeed.training`."""

        def begin(feed: ViewFeed, rows: slice) -> Pending[Views]:
            part = replace(
                how, indices=how.indices[rows], crops=how.crops[rows], flips=how.flips[rows], colours=()
            )
            return feed.training(part)

        return self._begin(len(how.indices), begin)

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[Views]:
        """As `ViewFeed.evaluation`."""
        return self._begin(len(indices), lambda feed, rows: feed.evaluation(indices[rows]))

    def release(self, views: Views) -> None:
        """As `ViewFeed.release`: the views are a copy, and PyTorch's to free."""

    def _begin(self, n: int, begin: Callable[[ViewFeed, slice], Pending[Views]]) -> Pending[Views]:
        """Both parts of a batch of n, or the one that has all of it; the second first: its bytes may have to be
        fetched by the threads that make the first part, and they take what they are given in turn."""
        cut = round(self.share * n)
        rows = zip(self.feeds, (slice(0, cut), slice(cut, n)), strict=True)
        parts = [(feed, begin(feed, each)) for feed, each in reversed(list(rows)) if each.start < each.stop]
        return _join(parts[::-1])


def _join(parts: list[Part]) -> Pending[Views]:
    """The views of all parts, in their order, in memory of their own."""

    def finish() -> Views:
        views = [pending.finish() for _, pending in parts]
        whole = [torch.cat(of_parts) for of_parts in zip(*views, strict=True)]
        for (feed, _), part in zip(parts, views, strict=True):
            feed.release(part)
        return whole

    def discard() -> None:
        for _, pending in parts:
            pending.discard()

    return Pending([task for _, pending in parts for task in pending.tasks], finish, discard)
