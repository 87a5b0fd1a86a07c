"""The views of a beton of JPEGs by DALI: a feed of `StagedImages`, on the device that the decoder has.

DALI is fed by the training thread. The bytes of a mapped file are there, and a batch is given to DALI when it is begun.
On a network file system they have to be fetched, which the threads of the pool do, many requests at once; the batch is
given to DALI when the training thread next comes by, as a rule a step later.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import RAW_MODE
from pipelines.beton.reader import BetonFile
from pipelines.decode_dali import DaliDecoder, Ticket
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.run_ahead import Pending
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError
from pipelines.view_sources import DecodedViews
from pipelines.views import Views

IMAGES_PER_FETCH = 4
"""Images that one task of the pool reads one after the other, where bytes have to be fetched."""


@dataclass(eq=False)
class Order:
    """A batch for DALI, and where it stands."""

    give: Callable[[], Ticket]
    """Gives it to DALI, once its bytes are there."""
    fetches: list[Future[None]] = field(default_factory=list)
    ticket: Ticket | None = None

    @property
    def fetched(self) -> bool:
        """Whether all its bytes are there."""
        return all(each.done() and not each.cancelled() and each.exception() is None for each in self.fetches)


class DaliViews:
    """A `ViewFeed`; several may share a decoder."""

    def __init__(
        self, beton: BetonFile, settings: ViewSettings, decoder: DaliDecoder, pool: ThreadPool
    ) -> None:
        raw = int((beton.modes == RAW_MODE).sum())
        if raw:
            raise UserError(
                f"{beton.path}: {raw:,} of its {beton.num_images:,} images are raw pixels, and DALI decodes JPEGs "
                "only; set data.decode to cpu"
            )
        self.beton = beton
        self.decoder = decoder
        self.pool = pool
        self.crops = DecodedViews(beton, settings)
        self.not_given: list[Order] = []
        """In their order: batches whose bytes may still be on their way."""

    def training(self, how: ViewDraws) -> Pending[Views]:
        """As `ViewFeed.training`."""
        return self._decode(how.indices, how.crops.astype(np.float64), how.flips, crop_first=True)

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[Views]:
        """As `ViewFeed.evaluation`."""
        boxes = self.crops.evaluation_boxes(indices)[:, None]
        no_flips = np.zeros((len(indices), 1), np.bool_)
        return self._decode(indices, boxes, no_flips, crop_first=False)

    def release(self, views: Views) -> None:
        """As `ViewFeed.release`: DALI may write to their memory again."""
        self.decoder.release(views)

    def _decode(
        self,
        indices: NDArray[np.int64],
        boxes: NDArray[np.float64],
        flips: NDArray[np.bool_],
        *,
        crop_first: bool,
    ) -> Pending[Views]:
        image_sizes = np.stack([self.beton.heights[indices], self.beton.widths[indices]], axis=1)
        samples = [_NOTHING] * len(indices)
        order = Order(
            lambda: self.decoder.schedule(samples, boxes, flips, image_sizes, crop_first=crop_first)
        )

        def fetch(first: int, stop: int) -> None:
            samples[first:stop] = [self.beton.image_bytes(i) for i in indices[first:stop].tolist()]

        n = len(indices)
        if self.beton.images_by_pread is None:
            fetch(0, n)
        else:
            order.fetches = self.pool.submit_slices(fetch, n, IMAGES_PER_FETCH)
        self.not_given.append(order)
        self._give()
        return Pending(order.fetches, lambda: self._take(order, indices), lambda: self._discard(order))

    def _give(self) -> None:
        """Give DALI the batches that begin the queue and whose bytes are there."""
        while self.not_given and self.not_given[0].fetched:
            order = self.not_given.pop(0)
            order.ticket = order.give()

    def _take(self, order: Order, indices: NDArray[np.int64]) -> Views:
        """The views in DALI's own memory, until `release`; all bytes are there by now."""
        self._give()
        if order.ticket is None:  # behind a batch of another loop over the same set, whose bytes are not
            self.not_given.remove(order)
            order.ticket = order.give()
        try:
            return self.decoder.take(order.ticket)
        except RuntimeError as error:
            raise self.name_bad_image(indices, str(error)) from error

    def _discard(self, order: Order) -> None:
        """Forget a batch that nobody wants any more; no thread fetches for it by now."""
        if order in self.not_given:
            self.not_given.remove(order)
        if order.ticket is not None:
            self.decoder.discard(order.ticket)

    def name_bad_image(self, indices: NDArray[np.int64], message: str) -> UserError:
        """What DALI failed on, by the CPU decoder's findings, or else by the sample that DALI names."""
        view = np.empty((1, self.crops.settings.size, self.crops.settings.size, 3), np.uint8)
        for i in range(len(indices)):
            try:
                self.crops.evaluation_views(indices[i : i + 1], view)
            except UserError as error:
                return error
        named = re.search(r"Failed to decode sample #(\d+)", message)
        if named is None:
            return UserError(
                f"{self.beton.path}: DALI cannot make a batch of it: {' '.join(message.split())}"
            )
        return self.crops.bad_image(int(indices[int(named[1])]), "not a JPEG that DALI can decode")


_NOTHING = np.empty(0, np.uint8)
