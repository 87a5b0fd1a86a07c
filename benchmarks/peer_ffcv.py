"""`stock-ffcv`: two FFCV Loaders over the project's own beton, RandomResizedCrop twice.

FFCV decodes and crops in one operation, so two views of an image are decoded twice. The second Loader draws with
replacement; FFCV 1.0.2 refuses an order of the user's in its constructor, so both orders are set afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.feed import Feed
from benchmarks.peer import SIZE, uniform_order, weighted_order
from benchmarks.photographs import Photographs

AHEAD = 3
"""Batches that a Loader prepares ahead (FFCV's default); it holds two more buffers."""


class FixedOrder:
    """The same order in every epoch, as FFCV's traversal orders give it."""

    def __init__(self, order: NDArray[np.int64]) -> None:
        self.order = order

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        """(LONG,) int64."""
        return self.order


def open_ffcv(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed two uint8 views (N, S, S, 3) of each stream; `workers` threads for each of the two Loaders."""
    rng = np.random.default_rng(0)
    orders = uniform_order(len(photographs.labels), rng), weighted_order(photographs.labels, rng)
    epochs = [iter(_loader(photographs, order, workers, batch)) for order in orders]

    def batches() -> Iterator[object]:
        yield from zip(*epochs, strict=True)

    def close() -> None:
        for epoch in epochs:
            epoch.close()
            epoch.join()

    return Feed(batches=batches(), pairs=batch, ahead=AHEAD, close=close)


def _loader(photographs: Photographs, order: NDArray[np.int64], workers: int, batch: int) -> Any:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import RandomHorizontalFlip

    def view() -> PipelineSpec:
        crop = RandomResizedCropRGBImageDecoder((SIZE, SIZE))
        return PipelineSpec("image", decoder=crop, transforms=[RandomHorizontalFlip()])

    loader = Loader(
        str(photographs.beton.path),
        batch_size=batch,
        num_workers=workers,
        order=OrderOption.SEQUENTIAL,
        os_cache=True,
        batches_ahead=AHEAD,
        pipelines={"image": view(), "second_view": view(), "label": None},
    )
    loader.traversal_order = FixedOrder(order)
    loader.first_traversal_order = loader.next_traversal_order()
    return loader
