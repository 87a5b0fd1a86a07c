"""Images of a small set on a GPU, where it lies whole: draws in, mixed images out, no view in between.

A recipe that changes colours needs the views; then device_views.py makes them for `StagedImages`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import send
from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.resident.kernel import PaddedCrops, mix_resident, normalise_resident
from pipelines.run_ahead import Pending
from pipelines.view_sources import ResidentViews


class ResidentImagesOnGpu:
    """An `ImageBackend` by the gather kernels, on PyTorch's current stream."""

    def __init__(
        self, source: ResidentViews, view: ViewSettings, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.crops = source
        self.view = view
        self.device = device
        self.dtype = dtype
        self.images = torch.from_numpy(source.images.images).to(device)

    def pairs(self, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.pairs`."""
        crops_a, crops_b = self._crops(how_a), self._crops(how_b)
        lam, boxes = self._send(mixing.lam_mix), self._send(mixing.cut_boxes)
        out = self._new_images(2 * len(how_a.indices))
        mix_resident(self.images, crops_a, crops_b, lam, boxes, self.view.mean, self.view.std, out)
        return Pending([], lambda: out)

    def plain(self, how: ViewDraws) -> Pending[torch.Tensor]:
        """As `ImageBackend.plain`."""
        out = self._new_images(len(how.indices))
        normalise_resident(self.images, self._crops(how), self.view.mean, self.view.std, out)
        return Pending([], lambda: out)

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[torch.Tensor]:
        """As `ImageBackend.evaluation`: the images as they are, crops from their own corner."""
        n = len(indices)
        corners = np.full((n, 1, 2), self.crops.pad, np.int32)
        return self.plain(ViewDraws(indices, corners, np.zeros((n, 1), np.bool_), colours=()))

    def _crops(self, how: ViewDraws) -> PaddedCrops:
        return PaddedCrops(
            self._send(how.indices), self._send(how.crops), self._send(how.flips), self.crops.pad
        )

    def _send(self, values: NDArray[np.generic]) -> torch.Tensor:
        return send(torch.from_numpy(np.ascontiguousarray(values)), self.device)

    def _new_images(self, n: int) -> torch.Tensor:
        size = self.view.size
        images = torch.empty((n, size, size, 3), dtype=self.dtype, device=self.device)
        return images.permute(0, 3, 1, 2)
