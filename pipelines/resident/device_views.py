"""Small sets on the device whole, as uint8: the views of a batch are one gather there, and no decoder is needed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.batch import send
from pipelines.draws.views import ViewDraws
from pipelines.run_ahead import Pending
from pipelines.view_sources import ResidentViews
from pipelines.views import Views


class ResidentDeviceViews:
    """A `ViewFeed` by plain PyTorch, on any device."""

    def __init__(self, source: ResidentViews, device: torch.device) -> None:
        self.crops = source
        self.device = device
        self.images = torch.from_numpy(source.images.images).to(device)
        pad = source.pad
        self.padded = F.pad(self.images, (0, 0, pad, pad, pad, pad))
        """(n, S + 2 pad, S + 2 pad, 3), black around the images."""

    def training(self, how: ViewDraws) -> Pending[Views]:
        """As `ViewFeed.training`; a crop's place and mirroring are indices, made on the host."""
        pixels = np.arange(self.images.shape[1])
        columns = np.where(how.flips[..., None], pixels[::-1], pixels) + how.crops[..., 1:]
        rows = pixels + how.crops[..., :1]
        image, row, column = (
            send(torch.from_numpy(np.ascontiguousarray(each.swapaxes(0, 1))), self.device)
            for each in (np.broadcast_to(how.indices[:, None], how.flips.shape), rows, columns)
        )
        views = self.padded[image[:, :, None, None], row[:, :, :, None], column[:, :, None, :]]
        return Pending([], views.unbind)

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[Views]:
        """As `ViewFeed.evaluation`."""
        view = self.images[send(torch.from_numpy(indices), self.device)]
        return Pending([], lambda: [view])

    def release(self, views: Views) -> None:
        """As `ViewFeed.release`: the views are PyTorch's to free."""
