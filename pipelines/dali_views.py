"""The views of a beton of JPEGs by DALI: a feed of `StagedImages`, on the device that the decoder has."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from pipelines.beton_format import RAW_MODE
from pipelines.beton_reader import BetonFile
from pipelines.decode_dali import DaliDecoder, Ticket
from pipelines.run_ahead import Pending
from pipelines.user_error import UserError
from pipelines.view_draws import ViewDraws, ViewSettings
from pipelines.view_sources import DecodedViews
from pipelines.views import Views


class DaliViews:
    """A `ViewFeed`; several may share a decoder."""

    def __init__(self, beton: BetonFile, settings: ViewSettings, decoder: DaliDecoder) -> None:
        raw = int((beton.modes == RAW_MODE).sum())
        if raw:
            raise UserError(
                f"{beton.path}: {raw:,} of its {beton.num_images:,} images are raw pixels, and DALI decodes JPEGs "
                "only; set data.decode to cpu"
            )
        self.beton = beton
        self.decoder = decoder
        self.crops = DecodedViews(beton, settings)

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
        samples = [self.beton.image_bytes(i) for i in indices.tolist()]
        image_sizes = np.stack([self.beton.heights[indices], self.beton.widths[indices]], axis=1)
        ticket = self.decoder.schedule(samples, boxes, flips, image_sizes, crop_first=crop_first)
        return Pending([], lambda: self._take(ticket, indices), lambda: self.decoder.discard(ticket))

    def _take(self, ticket: Ticket, indices: NDArray[np.int64]) -> Views:
        """The views in DALI's own memory, until `release`."""
        try:
            return self.decoder.take(ticket)
        except RuntimeError as error:
            raise self.name_bad_image(indices, str(error)) from error

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
